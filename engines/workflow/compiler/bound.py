"""Which names surely have a value at each stop."""

import ast
from collections.abc import Mapping, Sequence

from flowstate.engines.workflow.compiler.backwards import Backwards, Exits
from flowstate.engines.workflow.compiler.scope import names_of, surely_bound
from flowstate.engines.workflow.compiler.stops import FoundStop, Stops

__all__ = ["unbound_names"]

Missing = frozenset[tuple[FoundStop, str]]  # Names that have no value yet on the way to a stop.


def unbound_names(
    body: Sequence[ast.stmt],
    stops: Stops,
    live: Mapping[FoundStop, frozenset[str]],
    parameters: frozenset[str],
) -> Missing:
    """Return the live names that may have no value at a stop."""
    walk = _Unbound(stops, live)
    nothing = walk.nothing
    begin = walk.block(body, nothing, Exits(nothing, nothing, nothing, nothing))
    return walk.without(begin, parameters) | walk.deleted


class _Unbound(Backwards[Missing]):
    nothing: Missing = frozenset()

    def __init__(self, stops: Stops, live: Mapping[FoundStop, frozenset[str]]) -> None:
        self.deleted: Missing = frozenset()
        self._stops = stops
        self._live = live

    def join(self, *states: Missing) -> Missing:
        return self.nothing.union(*states)

    def without(self, state: Missing, names: frozenset[str] | set[str]) -> Missing:
        return frozenset(each for each in state if each[1] not in names) if names else state

    def _delete(self, names: set[str], after: Missing) -> Missing:
        left = self.without(after, names)
        self.deleted |= after - left
        return left

    def node(self, node: ast.AST, after: Missing, exits: Exits[Missing]) -> Missing:
        if isinstance(node, ast.Delete):
            after = self._delete(names_of(node).binds, after)
        own = {(stop, name) for stop in self._stops.below(node) for name in self._live[stop]}
        return self.without(after, surely_bound(node)) | exits.raises | own

    def handled(self, handler: ast.ExceptHandler, body: Missing) -> Missing:
        return self.without(body, {handler.name or ""})

    def left(self, handler: ast.ExceptHandler, after: Missing) -> Missing:
        return self._delete({handler.name or ""}, after)

    def matched(self, case: ast.match_case, body: Missing) -> Missing:
        return self.without(body, names_of(case.pattern).binds)
