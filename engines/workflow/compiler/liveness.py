"""Which names are needed at each stop, and which of them surely have a value there."""

import ast
from collections.abc import Callable, Collection, Sequence

import attrs

from flowstate.engines.workflow.compiler.scope import names_of, surely_bound
from flowstate.engines.workflow.compiler.stops import FoundStop, Stops

__all__ = ["live_names"]

Live = frozenset[str]
NONE: Live = frozenset()


@attrs.frozen
class Exits:
    """What is live where control may go to from within a statement."""

    returns: Live = NONE
    raises: Live = NONE
    breaks: Live = NONE
    continues: Live = NONE

    @property
    def all(self) -> Live:
        """All of them."""
        return self.returns | self.raises | self.breaks | self.continues


def live_names(
    body: Sequence[ast.stmt], stops: Stops, local: Live, kept: Collection[ast.For]
) -> dict[FoundStop, Live]:
    """Return the names whose value is read at a stop or after it.

    Args:
        body: of the function.
        stops: in it.
        local: the names that it binds.
        kept: loops that read what they go over again when they are entered.
    """
    walk = _Liveness(stops, local)
    walk.block(body, NONE, Exits())
    read: dict[ast.AST, Live] = {node: walk.reads(node.iter) for node in kept}
    return {
        stop: walk.live.get(stop, NONE).union(*(read.get(each.node, NONE) for each in stop.levels))
        for stop in stops.all
    }


class _Liveness:
    """Goes backwards through statements."""

    def __init__(self, stops: Stops, local: Live) -> None:
        self.live: dict[FoundStop, Live] = {}
        self._stops = stops
        self._local = local

    def block(self, body: Sequence[ast.stmt], after: Live, exits: Exits) -> Live:
        """Return what is live before some statements."""
        for statement in reversed(body):
            after = self._statement(statement, after, exits)
        return after

    def _statement(self, node: ast.stmt, after: Live, exits: Exits) -> Live:
        match node:
            case ast.If():
                body = self.block(node.body, after, exits)
                return self._node(node.test, body | self.block(node.orelse, after, exits), exits)
            case ast.While():
                return self._while(node, after, exits)
            case ast.For():
                return self._for(node, after, exits)
            case ast.Try() | ast.TryStar():
                return self._try(node, after, exits)
            case ast.With() | ast.AsyncWith():
                return self._with(node, after, exits)
            case ast.Match():
                return self._match(node, after, exits)
            case ast.Return():
                return self._node(node, exits.returns, exits)
            case ast.Raise():
                return self._node(node, exits.raises, exits)
            case ast.Break():
                return exits.breaks
            case ast.Continue():
                return exits.continues
        return self._node(node, after, exits)

    def _node(self, node: ast.AST, after: Live, exits: Exits) -> Live:
        """Return what is live before a simple statement, or an expression."""
        gone = names_of(node).binds if isinstance(node, ast.Delete) else surely_bound(node)
        live = self.reads(node) | (after - gone) | exits.raises
        for stop in self._stops.below(node):
            self.live[stop] = self.live.get(stop, NONE) | live
        return live

    def reads(self, *nodes: ast.AST) -> Live:
        """Return the names of the function that some nodes read."""
        return frozenset(names_of(*nodes).reads) & self._local

    def _while(self, node: ast.While, after: Live, exits: Exits) -> Live:
        orelse = self.block(node.orelse, after, exits)

        def around(head: Live) -> Live:
            inner = attrs.evolve(exits, breaks=after, continues=head)
            return self._node(node.test, orelse | self.block(node.body, head, inner), exits)

        return _settled(around)

    def _for(self, node: ast.For, after: Live, exits: Exits) -> Live:
        orelse = self.block(node.orelse, after, exits)

        def around(head: Live) -> Live:
            inner = attrs.evolve(exits, breaks=after, continues=head)
            body = self.block(node.body, head, inner)
            return orelse | self._node(node.target, body, exits)

        return self._node(node.iter, _settled(around), exits)

    def _try(self, node: ast.Try | ast.TryStar, after: Live, exits: Exits) -> Live:
        if node.finalbody:
            # One place in a finally stands for every way into it.
            after = self.block(node.finalbody, after | exits.all, exits)
            exits = Exits(after, after, after, after)
        caught = NONE
        for handler in node.handlers:
            body = self.block(handler.body, after, exits) - {handler.name or ""}
            caught |= body | (self.reads(handler.type) if handler.type else NONE)
        orelse = self.block(node.orelse, after, exits)
        inner = attrs.evolve(exits, raises=exits.raises | caught)
        return self.block(node.body, orelse, inner) | inner.raises

    def _with(self, node: ast.With | ast.AsyncWith, after: Live, exits: Exits) -> Live:
        # A context may swallow an error, and go on after it.
        live = self.block(node.body, after, attrs.evolve(exits, raises=exits.raises | after))
        for item in reversed(node.items):
            live = self._node(item, live, exits)
        return live

    def _match(self, node: ast.Match, after: Live, exits: Exits) -> Live:
        live = after
        for case in node.cases:
            guard = [case.guard] if case.guard else []
            body = self.block(case.body, after, exits) | self.reads(*guard)
            live |= (body - names_of(case.pattern).binds) | self.reads(case.pattern)
        return self._node(node.subject, live, exits)


def _settled(around: Callable[[Live], Live]) -> Live:
    """Go around a loop until nothing is added."""
    head = NONE
    while (found := around(head) | head) != head:
        head = found
    return head
