"""The ways from stop to stop through the syntax tree of a definition."""

import ast
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs
from msgspec import Struct

from flowstate.engines.workflow.compiler.errors import Problems
from flowstate.engines.workflow.compiler.finding import find_stops
from flowstate.engines.workflow.compiler.lookup import Lookup
from flowstate.engines.workflow.compiler.scope import names_of
from flowstate.engines.workflow.compiler.source import read_source
from flowstate.engines.workflow.compiler.stops import Stops

__all__ = ["BEGIN", "END", "Way", "ways_of"]

BEGIN, END = "begin", "end"
LONGEST = 60  # Characters of a condition.

Ways = dict[str, str]  # The stops from which a statement is reached, each with its condition.
Exit = Literal["return", "raise", "break", "continue"]


class Way(Struct, frozen=True, omit_defaults=True):
    """A way from one stop to the next one.

    Attributes:
        begin: the stop that is left, or ``begin``.
        to: the stop that is reached, or ``end``.
        when: the condition in the source; empty if there is none, or if several lead there.
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
    walk.leave("return", walk.block(source.node.body, {BEGIN: ""}))
    uses = {
        stop.name: tuple(call.target.name for call in stop.call.all if call.target)
        for stop in stops.all
    }
    return [Way(begin, to, when) for (begin, to), when in walk.found.items()], uses


def _both(*several: Ways) -> Ways:
    """Return where ways meet. What comes from one stop by several conditions has none."""
    met: Ways = {}
    for ways in several:
        for begin, when in ways.items():
            met[begin] = when if met.get(begin, when) == when else ""
    return met


def _when(ways: Ways, condition: str) -> Ways:
    """Return ways that are gone only under a condition, if there is one."""
    if not condition:
        return ways
    return {
        begin: f"{when} and {condition}"[:LONGEST] if when else condition[:LONGEST]
        for begin, when in ways.items()
    }


@attrs.define
class _Region:
    """A loop, or a ``try``: where exits from within it arrive."""

    catches: frozenset[Exit]
    exits: dict[Exit, Ways] = attrs.Factory(dict)


class _Walk:
    """Goes through statements; collects the ways.

    Attributes:
        found: condition by begin and end.
    """

    def __init__(self, stops: Stops) -> None:
        self.found: dict[tuple[str, str], str] = {}
        self._stops = stops
        self._regions: list[_Region] = []

    def block(self, body: Iterable[ast.stmt], ways: Ways) -> Ways:
        for statement in body:
            ways = self._statement(statement, ways)
        return ways

    def leave(self, kind: Exit, ways: Ways) -> None:
        """Follow an exit to the region that it arrives at, or to the end."""
        for region in reversed(self._regions):
            if kind in region.catches:
                region.exits[kind] = _both(region.exits.get(kind, {}), ways)
                return
        self._arrive(END, _when(ways, "raise") if kind == "raise" else ways)

    def _arrive(self, to: str, ways: Ways) -> None:
        for begin, when in ways.items():
            known = self.found.get((begin, to), when)
            self.found[begin, to] = when if known == when else ""

    def _node(self, node: ast.AST, ways: Ways) -> Ways:
        for stop in self._stops.below(node):
            self._arrive(stop.name, ways)
            ways = {stop.name: ""}
        return ways

    def _names(self, body: Iterable[ast.AST]) -> list[str]:
        return [stop.name for stop in self._stops.below(*body)]

    def _condition(self, node: ast.expr) -> str:
        return "so" if self._stops.below(node) else ast.unparse(node)

    def _statement(self, node: ast.stmt, ways: Ways) -> Ways:
        match node:
            case ast.If():
                ways = self._node(node.test, ways)
                so = self.block(node.body, _when(ways, self._condition(node.test)))
                return _both(so, self.block(node.orelse, _when(ways, "else")))
            case ast.While() | ast.For():
                return self._loop(node, ways)
            case ast.Try():
                return self._try(node, ways)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    ways = self._node(item, ways)
                return self.block(node.body, ways)
            case ast.Match():
                return self._match(node, self._node(node.subject, ways))
            case ast.Return() | ast.Raise() | ast.Break() | ast.Continue():
                kind: Any = type(node).__name__.lower()
                self.leave(kind, self._node(node, ways))
                return {}
        return self._node(node, ways)

    def _loop(self, node: ast.While | ast.For, ways: Ways) -> Ways:
        if isinstance(node, ast.For):
            ways = self._node(node.iter, ways)
            text = f"for {ast.unparse(node.target)} in {ast.unparse(node.iter)}"
            is_endless = False
        else:
            text = self._condition(node.test)
            is_endless = text in ("True", "1")
        text = "" if is_endless else text
        head, back, region = ways, Ways(), _Region(frozenset({"break", "continue"}))
        for _ in range(2):  # The second time from its own end, too.
            head = _both(ways, back)
            if isinstance(node, ast.While):
                head = self._node(node.test, head)
            self._regions.append(region)
            end = self.block(node.body, _when(head, text))
            self._regions.pop()
            back = _both(end, region.exits.get("continue", {}))
        after = {} if is_endless else self.block(node.orelse, _when(_both(head, back), "else"))
        return _both(after, region.exits.get("break", {}))

    def _match(self, node: ast.Match, ways: Ways) -> Ways:
        ends = list[Ways]()
        is_whole = False
        for case in node.cases:
            guard = f" if {ast.unparse(case.guard)}" if case.guard else ""
            text = f"{ast.unparse(case.pattern)}{guard}"
            is_whole = is_whole or text == "_"
            ends.append(self.block(case.body, _when(ways, text)))
        return _both(*ends, {} if is_whole else _when(ways, "else"))

    def _try(self, node: ast.Try, ways: Ways) -> Ways:
        caught: set[Exit] = {"raise"} if node.handlers else set()
        if self._names(node.finalbody):
            caught |= {"return", "raise", "break", "continue"}
        outer = _Region(frozenset(caught) if node.finalbody else frozenset())
        inner = _Region(frozenset({"raise"} if node.handlers else ()))
        self._regions += [outer, inner]
        end = self.block(node.body, ways)
        self._regions.pop()
        raised = _both(inner.exits.get("raise", {}), dict.fromkeys(self._names(node.body), ""))
        ends = [self.block(node.orelse, end)]
        for handler in node.handlers:
            text = f"except {ast.unparse(handler.type)}" if handler.type else "except"
            ends.append(self.block(handler.body, _when(raised, text)))
        self._regions.pop()
        return self._finally(node, outer, _both(*ends), raised)

    def _finally(self, node: ast.Try, region: _Region, ends: Ways, raised: Ways) -> Ways:
        """Go on to what is done at the end in any case, and to where each exit was to lead."""
        if not self._names(node.finalbody):
            for kind, ways in region.exits.items():
                self.leave(kind, ways)
            return self.block(node.finalbody, ends)
        if not node.handlers:
            region.exits["raise"] = _both(region.exits.get("raise", {}), _when(raised, "raise"))
        after = self.block(node.finalbody, _both(ends, *region.exits.values()))
        for kind in region.exits:
            self.leave(kind, after)
        return after if ends else {}
