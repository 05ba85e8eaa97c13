"""Which names are needed at each stop."""

import ast
from collections.abc import Collection, Sequence

from flowstate.engines.workflow.compiler.backwards import Backwards, Exits
from flowstate.engines.workflow.compiler.scope import names_of, surely_bound
from flowstate.engines.workflow.compiler.stops import FoundStop, Stops

__all__ = ["live_names"]

Live = frozenset[str]
NONE: Live = frozenset()


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
    walk.block(body, NONE, Exits(NONE, NONE, NONE, NONE))
    read: dict[ast.AST, Live] = {node: walk.reads(node.iter) for node in kept}
    return {
        stop: walk.live.get(stop, NONE).union(*(read.get(each.node, NONE) for each in stop.levels))
        for stop in stops.all
    }


class _Liveness(Backwards[Live]):
    nothing = NONE
    is_one_way = True  # What a stop in it needs must be alive at each stop on a way there.

    def __init__(self, stops: Stops, local: Live) -> None:
        self.live: dict[FoundStop, Live] = {}
        self._stops = stops
        self._local = local

    def join(self, *states: Live) -> Live:
        return NONE.union(*states)

    def node(self, node: ast.AST, after: Live, exits: Exits[Live]) -> Live:
        gone = names_of(node).binds if isinstance(node, ast.Delete) else surely_bound(node)
        live = self.reads(node) | (after - gone) | exits.raises
        for stop in self._stops.below(node):
            self.live[stop] = self.live.get(stop, NONE) | live
        return live

    def reads(self, *nodes: ast.AST) -> Live:
        return frozenset(names_of(*nodes).reads) & self._local

    def handled(self, handler: ast.ExceptHandler, body: Live) -> Live:
        return (body - {handler.name or ""}) | self.reads(*([handler.type] if handler.type else []))

    def matched(self, case: ast.match_case, body: Live) -> Live:
        read = body | self.reads(*([case.guard] if case.guard else []))
        return (read - names_of(case.pattern).binds) | self.reads(case.pattern)
