"""Goes backwards through the statements of a function."""

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import attrs

__all__ = ["Backwards", "Exits"]

S = TypeVar("S")


@attrs.frozen
class Exits(Generic[S]):
    """What comes where control may go to from within a statement."""

    returns: S
    raises: S
    breaks: S
    continues: S


class Backwards(ABC, Generic[S]):
    """Finds for each statement what comes after it.

    Attributes:
        nothing: what comes where control never comes.
        is_one_way: a ``finally`` is the same, however it is come to.
    """

    nothing: S
    is_one_way = False

    @abstractmethod
    def join(self, *states: S) -> S:
        """Return what comes after several ways."""

    @abstractmethod
    def node(self, node: ast.AST, after: S, exits: Exits[S]) -> S:
        """Return what comes before a simple statement, or an expression."""

    @abstractmethod
    def handled(self, handler: ast.ExceptHandler, body: S) -> S:
        """Return what comes where an error is raised that a handler may take."""

    @abstractmethod
    def matched(self, case: ast.match_case, body: S) -> S:
        """Return what comes where a case is tried."""

    def when(self, state: S, _: str) -> S:
        """Return what comes only under a condition."""
        return state

    def block(self, body: Sequence[ast.stmt], after: S, exits: Exits[S]) -> S:
        """Return what comes before some statements."""
        for statement in reversed(body):
            after = self._statement(statement, after, exits)
        return after

    def _statement(self, node: ast.stmt, after: S, exits: Exits[S]) -> S:
        match node:
            case ast.If():
                body = self.when(self.block(node.body, after, exits), self.condition(node.test))
                orelse = self.when(self.block(node.orelse, after, exits), "else")
                return self.node(node.test, self.join(body, orelse), exits)
            case ast.While() | ast.For():
                return self._loop(node, after, exits)
            case ast.Try() | ast.TryStar():
                return self._try(node, after, exits)
            case ast.With() | ast.AsyncWith():
                return self._with(node, after, exits)
            case ast.Match():
                return self._match(node, after, exits)
            case ast.Return():
                return self.node(node, exits.returns, exits)
            case ast.Raise():
                return self.node(node, exits.raises, exits)
            case ast.Break():
                return exits.breaks
            case ast.Continue():
                return exits.continues
        return self.node(node, after, exits)

    def condition(self, node: ast.expr) -> str:
        """Return a condition in words."""
        return ast.unparse(node)

    def _loop(self, node: ast.While | ast.For, after: S, exits: Exits[S]) -> S:
        is_endless = isinstance(node, ast.While) and _is_true(node.test)
        orelse = self.nothing if is_endless else self.block(node.orelse, after, exits)
        text = "" if is_endless else self._text(node)

        def around(head: S) -> S:
            inner = attrs.evolve(exits, breaks=after, continues=head)
            body = self.block(node.body, head, inner)
            if isinstance(node, ast.For):
                body = self.node(node.target, body, exits)
            both = self.join(self.when(body, text), self.when(orelse, "else"))
            return self.node(node.test, both, exits) if isinstance(node, ast.While) else both

        head = self._settled(around)
        return self.node(node.iter, head, exits) if isinstance(node, ast.For) else head

    def _text(self, node: ast.While | ast.For) -> str:
        if isinstance(node, ast.While):
            return self.condition(node.test)
        return f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}"

    def _settled(self, around: Callable[[S], S]) -> S:
        """Go around a loop until nothing is added."""
        head = self.nothing
        while (found := self.join(around(head), head)) != head:
            head = found
        return head

    def _try(self, node: ast.Try | ast.TryStar, after: S, exits: Exits[S]) -> S:
        if node.finalbody:
            ends = [after, exits.returns, exits.raises, exits.breaks, exits.continues]
            if self.is_one_way:
                ends = [self.join(*ends)] * len(ends)
            after, *others = [self.block(node.finalbody, end, exits) for end in ends]
            exits = Exits(*others)
        caught = [
            self.handled(each, self.block(each.body, self.left(each, after), exits))
            for each in node.handlers
        ]
        orelse = self.block(node.orelse, after, exits)
        raises = self.raised(caught, exits.raises)
        return self.block(node.body, orelse, attrs.evolve(exits, raises=raises))

    def left(self, _: ast.ExceptHandler, after: S) -> S:
        """Return what comes where a handler has ended."""
        return after

    def raised(self, caught: Iterable[S], outside: S) -> S:
        """Return what comes where a body with handlers raises."""
        return self.join(*caught, outside)

    def _with(self, node: ast.With | ast.AsyncWith, after: S, exits: Exits[S]) -> S:
        # A context may swallow an error, and go on after it.
        raises = self.join(exits.raises, after)
        before = self.block(node.body, after, attrs.evolve(exits, raises=raises))
        for item in reversed(node.items):
            before = self.node(item, before, exits)
        return before

    def _match(self, node: ast.Match, after: S, exits: Exits[S]) -> S:
        last = node.cases[-1]
        is_whole = last.guard is None and _takes_all(last.pattern)
        ends = [self.matched(each, self.block(each.body, after, exits)) for each in node.cases]
        rest = self.nothing if is_whole else self.when(after, "else")
        return self.node(node.subject, self.join(*ends, rest), exits)


def _takes_all(pattern: ast.pattern) -> bool:
    return isinstance(pattern, ast.MatchAs) and pattern.pattern is None


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and bool(node.value)
