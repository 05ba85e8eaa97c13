"""Which names surely have a value at each stop."""

import ast
from collections.abc import Iterable, Sequence

from flowstate.engines.workflow.compiler.scope import names_of, surely_bound
from flowstate.engines.workflow.compiler.stops import FoundStop, Stops

__all__ = ["bound_names"]

Bound = frozenset[str]
NONE: Bound = frozenset()


def bound_names(
    body: Sequence[ast.stmt], stops: Stops, parameters: Bound
) -> dict[FoundStop, Bound]:
    """Return the names that have a value at each stop on every way there."""
    walk = _Bound(stops)
    walk.block(body, parameters)
    return {stop: walk.bound.get(stop, NONE) for stop in stops.all}


def _both(*states: Bound | None) -> Bound | None:
    """Return what is bound on all of some ways; ``None`` is one that is never taken."""
    known = [state for state in states if state is not None]
    return frozenset.intersection(*known) if known else None


class _Bound:
    """Goes forwards through statements; a state is what is bound, or ``None`` if nothing comes."""

    def __init__(self, stops: Stops) -> None:
        self.bound: dict[FoundStop, Bound] = {}
        self._stops = stops
        self._breaks: list[Bound | None] = []

    def block(self, body: Iterable[ast.stmt], state: Bound | None) -> Bound | None:
        """Return what is bound after some statements."""
        for statement in body:
            state = None if state is None else self._statement(statement, state)
        return state

    def _statement(self, node: ast.stmt, state: Bound) -> Bound | None:
        match node:
            case ast.If():
                state = self._node(node.test, state)
                return _both(self.block(node.body, state), self.block(node.orelse, state))
            case ast.While() | ast.For():
                return self._loop(node, state)
            case ast.Try() | ast.TryStar():
                return self._try(node, state)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    state = self._node(item, state)
                self.block(node.body, state)
                return state - _deleted(node.body)
            case ast.Match():
                return self._match(node, self._node(node.subject, state))
            case ast.Return() | ast.Raise():
                self._node(node, state)
                return None
            case ast.Break():
                self._breaks.append(state)
                return None
            case ast.Continue():
                return None
            case ast.Delete():
                return state - names_of(node).binds
        return self._node(node, state)

    def _node(self, node: ast.AST, state: Bound) -> Bound:
        for stop in self._stops.below(node):
            self.bound[stop] = state & self.bound.get(stop, state)
        return state | surely_bound(node)

    def _loop(self, node: ast.While | ast.For, state: Bound) -> Bound | None:
        if isinstance(node, ast.For):
            state = self._node(node.iter, state)
        # What is deleted within may be gone when it begins again.
        state -= _deleted(node.body)
        outer, self._breaks = self._breaks, []
        head = self._node(node.test, state) if isinstance(node, ast.While) else state
        inner = head if isinstance(node, ast.While) else self._node(node.target, head)
        self.block(node.body, inner)
        breaks, self._breaks = self._breaks, outer
        is_endless = isinstance(node, ast.While) and _is_true(node.test)
        return _both(*breaks, None if is_endless else self.block(node.orelse, head))

    def _try(self, node: ast.Try | ast.TryStar, state: Bound) -> Bound | None:
        caught = state - _deleted(node.body)
        ends = [self.block(node.orelse, self.block(node.body, state))]
        for handler in node.handlers:
            own = {handler.name} if handler.name else set()
            end = self.block(handler.body, caught | own)
            ends.append(None if end is None else end - own)
        after = _both(*ends)
        if not node.finalbody:
            return after
        every = [*node.body, *node.orelse, *(each for h in node.handlers for each in h.body)]
        begin = state - _deleted(every) - {h.name for h in node.handlers if h.name}
        end = self.block(node.finalbody, begin)
        gone = _deleted(node.finalbody)
        return None if after is None or end is None else (after - gone) | end

    def _match(self, node: ast.Match, state: Bound) -> Bound | None:
        ends: list[Bound | None] = []
        for case in node.cases:
            own = names_of(case.pattern).binds
            ends.append(self.block(case.body, state | own))
        last = node.cases[-1]
        is_whole = last.guard is None and _takes_all(last.pattern)
        return _both(*ends, None if is_whole else state)


def _takes_all(pattern: ast.pattern) -> bool:
    return isinstance(pattern, ast.MatchAs) and pattern.pattern is None


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and bool(node.value)


def _deleted(body: Iterable[ast.stmt]) -> Bound:
    """Return names that statements may take the value of."""
    every = [each for statement in body for each in ast.walk(statement)]
    deletes = [each for each in every if isinstance(each, ast.Delete)]
    handlers = {each.name for each in every if isinstance(each, ast.ExceptHandler) and each.name}
    return frozenset(names_of(*deletes).binds | handlers)
