"""The ways from stop to stop through the syntax tree of a definition."""

import ast
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from flowstate.engines.workflow.compiler.backwards import Backwards, Exits
from flowstate.engines.workflow.compiler.errors import Problems
from flowstate.engines.workflow.compiler.finding import find_stops
from flowstate.engines.workflow.compiler.lookup import Lookup
from flowstate.engines.workflow.compiler.scope import names_of
from flowstate.engines.workflow.compiler.source import read_source
from flowstate.engines.workflow.compiler.stops import Stops

__all__ = ["BEGIN", "END", "Way", "ways_of"]

BEGIN, END = "begin", "end"
LONGEST = 60  # Characters of a condition.

Ways = Mapping[str, tuple[str, ...]]  # The stops that come next, each with its conditions.
NOWHERE: Ways = {}
RAISE: Ways = {END: ("raise",)}  # What is raised there is not caught.


class Way(Struct, frozen=True, omit_defaults=True):
    """A way from one stop to the next one.

    Attributes:
        begin: the stop that is left, or ``begin``.
        to: the stop that is reached, or ``end``.
        when: the condition in the source; of several, what they end with in common.
    """

    begin: str
    to: str
    when: str = ""


def ways_of(function: Any) -> tuple[Sequence[Way], Mapping[str, tuple[str, ...]]]:
    """Return the ways through a function that compiles, and by stop what code it uses."""
    problems = Problems("", "")
    source = read_source(function, problems)
    names = names_of(*source.node.body)
    lookup = Lookup(function, frozenset(names.binds - names.shared))
    stops = find_stops(source.node, lookup, problems)
    walk = _Walk(stops)
    end: Ways = {END: ()}
    begin = walk.block(source.node.body, end, Exits(end, RAISE, NOWHERE, NOWHERE))
    uses = {
        stop.name: tuple(call.target.name for call in stop.call.all if call.target)
        for stop in stops.all
    }
    found = {BEGIN: begin, **walk.found}
    return [
        Way(at, to, " and ".join(when)[:LONGEST])
        for at, after in found.items()
        for to, when in after.items()
    ], uses


class _Walk(Backwards[Ways]):
    """Collects the ways.

    Attributes:
        found: what comes after each stop.
    """

    nothing = NOWHERE

    def __init__(self, stops: Stops) -> None:
        self.found: dict[str, Ways] = {stop.name: NOWHERE for stop in stops.all}
        self._stops = stops

    def join(self, *states: Ways) -> Ways:
        met: dict[str, tuple[str, ...]] = {}
        for ways in states:
            for to, when in ways.items():
                met[to] = _end_of_both(when, met.get(to, when))
        return met

    def when(self, state: Ways, text: str) -> Ways:
        return {to: (text, *when) for to, when in state.items()} if text else state

    def condition(self, node: ast.expr) -> str:
        return "so" if self._stops.below(node) else ast.unparse(node)

    def node(self, node: ast.AST, after: Ways, exits: Exits[Ways]) -> Ways:
        for stop in reversed(self._stops.below(node)):
            caught = NOWHERE if exits.raises == RAISE else exits.raises
            self.found[stop.name] = self.join(self.found[stop.name], after, caught)
            after = {stop.name: ()}
        return after

    def handled(self, handler: ast.ExceptHandler, body: Ways) -> Ways:
        return self.when(body, f"except {ast.unparse(handler.type)}" if handler.type else "except")

    def raised(self, caught: Iterable[Ways], outside: Ways) -> Ways:
        return self.join(*caught) or outside

    def matched(self, case: ast.match_case, body: Ways) -> Ways:
        guard = f" if {ast.unparse(case.guard)}" if case.guard else ""
        return self.when(body, f"{ast.unparse(case.pattern)}{guard}")


def _end_of_both(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    """Return what two lists of conditions end with in common."""
    count = 0
    while count < min(len(one), len(other)) and one[-count - 1] == other[-count - 1]:
        count += 1
    return one[len(one) - count :]
