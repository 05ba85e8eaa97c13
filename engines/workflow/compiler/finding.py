"""Finds the stops of a function, and refuses those that stand where none can."""

import ast
from collections.abc import Iterable, Iterator
from typing import Any

from flowstate.engines.workflow.compiler.calls import Calls
from flowstate.engines.workflow.compiler.errors import Problems
from flowstate.engines.workflow.compiler.lookup import Lookup
from flowstate.engines.workflow.compiler.stops import FoundStop, Level, MarkCall, Stops

__all__ = ["NO_MANAGER", "find_stops"]

Levels = tuple[Level, ...]

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
PLAIN = (ast.Name, ast.Attribute, ast.Constant, ast.Tuple, ast.List, ast.Dict, ast.Set)
OUT = "store what it gives in a name first"
LOOP = "write a for loop, or all_of(*[step(...) for ...])"
HELPER = "make it a function of its own with @helper, and await sub(...)"
NO_MANAGER = ("would wait without a stop", "do it in a step, or write a Manager for it")
PLACES = {
    ast.ListComp: ("a comprehension", LOOP),
    ast.SetComp: ("a comprehension", LOOP),
    ast.DictComp: ("a comprehension", LOOP),
    ast.GeneratorExp: ("a generator", LOOP),
    ast.Lambda: ("a lambda", "write it into the function itself"),
    ast.FunctionDef: ("a nested function", HELPER),
    ast.AsyncFunctionDef: ("a nested function", HELPER),
    ast.ClassDef: ("a class", HELPER),
    ast.TryStar: ("except*", "catch the group with except, and look at its exceptions"),
    ast.With: ("with", "leave the with before the stop, or do its work in a step"),
    ast.AsyncWith: ("async with", "do its work in a step"),
}


def find_stops(node: ast.AsyncFunctionDef, lookup: Lookup, problems: Problems) -> Stops:
    """Return the stops of a function, and add what is refused about them to the problems."""
    finder = _Finder(Calls(lookup, problems), problems)
    finder.block(node.body, ())
    _check_names(finder.stops, problems)
    finder.stops.settle(node)
    return finder.stops


class _Finder:
    def __init__(self, calls: Calls, problems: Problems) -> None:
        self.stops = Stops()
        self._mark = calls.mark
        self._calls = calls
        self._problems = problems
        self._levels = 0

    def block(self, body: Iterable[ast.stmt], levels: Levels) -> None:
        for statement in body:
            self._statement(statement, levels)

    def _statement(self, node: ast.stmt, levels: Levels) -> None:
        match node:
            case ast.If() | ast.While():
                self._expression(node.test, levels)
                self.block(node.body, levels)
                self.block(node.orelse, levels)
            case ast.For():
                self._expression(node.iter, levels)
                self._none_in(("the target of a for", OUT), node.target)
                target = ast.unparse(node.target).removeprefix("(").removesuffix(")")
                self.block(node.body, self._within(levels, f"for {target}", node))
                self.block(node.orelse, levels)
            case ast.Try():
                self._try(node, levels)
            case ast.Match():
                self._expression(node.subject, levels)
                for case in node.cases:
                    self._none_in(("a case, or its condition", OUT), case.pattern, case.guard)
                    self.block(case.body, levels)
            case ast.Assert():
                self._expression(node.test, levels)
                self._none_in(("the message of an assert", OUT), node.msg)
            case ast.Expr(value=ast.Call() as call) if self._kind(call) == "go":
                self._stop(call, call, levels)
                self._no_names_in(call)
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign() | ast.Return() | ast.Expr():
                self._simple(node, levels)
            case _:
                self._none_in(_place_of(node), node)

    def _try(self, node: ast.Try, levels: Levels) -> None:
        self.block(node.body, levels)
        for handler in node.handlers:
            self._none_in(("except", OUT), handler.type)
            self.block(handler.body, self._within(levels, _numbered("except", levels), handler))
        self.block(node.orelse, levels)
        inner = self._within(levels, _numbered("finally", levels), node)
        if hasattr(node, "level"):  # Of an ``async with``.
            node.level.value = inner[-1].number
        self.block(node.finalbody, inner)

    def _within(self, levels: Levels, key: str, node: Any) -> Levels:
        self._levels += 1
        taken = sum(each.key.partition(" #")[0] == key for each in levels)
        key = f"{key} #{taken + 1}" if taken else key
        return (*levels, Level(self._levels, key, node))

    def _simple(self, node: Any, levels: Levels) -> None:
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        self._none_in(("the target of an assignment", OUT), *targets)
        stop = self._expression(node.value, levels) if node.value else None
        if stop and isinstance(node, ast.AugAssign) and not _is_plain(node.target):
            self._twice(node.target)

    def _expression(self, node: ast.expr, levels: Levels) -> MarkCall | None:
        """Find the one stop that an expression may have."""
        known = self._none_nested_in(node)
        stop: MarkCall | None = None
        for each in _own_awaits(node, SCOPES):
            known.add(each.value)
            if not self._is_fine(each):
                continue
            if stop:
                reason = "is the second stop in one expression"
                self._problems.add(each, ast.unparse(each.value), reason, OUT)
                continue
            stop = self._stop(each, each.value, levels)
            known.update(call.node for call in stop.all)
            self._no_names_in(each.value)
            for before in _before(node, each):
                if not _is_plain(before):
                    self._twice(before)
        for inner in ast.walk(node):
            if inner not in known and self._mark(inner):
                self._no_await(inner)
        return stop

    def _none_nested_in(self, node: ast.AST) -> set[ast.AST]:
        """Refuse the stops of scopes within an expression; return them."""
        if isinstance(node, SCOPES):
            is_lambda = isinstance(node, ast.Lambda)
            found = [node] if is_lambda else [e for e in ast.walk(node) if isinstance(e, ast.Await)]
            self._none_in(_place_of(node), *found)
            return {call for each in found for call in self._calls.marks(each)}
        children = ast.iter_child_nodes(node)
        return {each for child in children for each in self._none_nested_in(child)}

    def _no_names_in(self, call: ast.AST) -> None:
        for each in ast.walk(call):
            if isinstance(each, ast.NamedExpr):
                reason = "is bound by the arguments of a stop, which are evaluated by themselves"
                fix = "bind it on a line before"
                self._problems.add(each, each.target.id, reason, fix)

    def _kind(self, node: ast.AST) -> str:
        mark = self._mark(node)
        return mark.kind if mark else ""

    def _is_fine(self, node: ast.Await) -> bool:
        kind = self._kind(node.value)
        if not kind and hasattr(node, "is_with"):
            self._problems.add(node, "async with", *NO_MANAGER)
        elif not kind:
            reason, fix = (
                "only stops are awaited in a definition",
                "write await step(function, ...)",
            )
            self._problems.add(node, ast.unparse(node.value), reason, fix)
        if kind == "go":
            self._no_await(node.value)
        return kind not in {"", "go"}

    def _no_await(self, node: ast.AST) -> None:
        text = ast.unparse(node)
        if self._kind(node) == "go":
            reason, fix = (
                "go is a statement of its own",
                "write it on a line of its own, not awaited",
            )
        else:
            reason, fix = "is not awaited", f"write await {text}"
        self._problems.add(node, text, reason, fix)

    def _none_in(self, place: tuple[str, str], *nodes: ast.AST | None) -> None:
        for node in filter(None, nodes):
            for call in self._calls.marks(node):
                reason = f"a stop cannot stand in {place[0]}"
                self._problems.add(call, ast.unparse(call), reason, place[1])
            for other in _own_awaits(node, FUNCTIONS):
                if not self._kind(other.value):
                    self._is_fine(other)

    def _twice(self, node: ast.AST) -> None:
        reason = "comes before a stop in one expression, so it would be evaluated twice"
        self._problems.add(node, ast.unparse(node), reason, "store it in a name on a line before")

    def _stop(self, node: Any, call: Any, levels: Levels) -> MarkCall:
        mark = self._mark(call)
        assert mark is not None  # noqa: S101 - it is the call of one
        found = self._calls.read(call, mark)
        self.stops.add(FoundStop(len(self.stops.all) + 1, node, found, levels))
        return found


def _check_names(stops: Stops, problems: Problems) -> None:
    """Refuse two stops of one name."""
    known: dict[str, FoundStop] = {}
    for stop in stops.all:
        other = known.setdefault(stop.name, stop)
        if other is not stop:
            fix = f'write name="{stop.name}-2" into its call'
            reason = f"is the name of the stop on line {other.node.lineno} already"
            problems.add(stop.node, stop.name, reason, fix)


def _numbered(kind: str, levels: Levels) -> str:
    return f"{kind} {sum(each.key.startswith(kind) for each in levels) + 1}"


def _own_awaits(node: ast.AST, scopes: tuple[type, ...]) -> Iterator[ast.Await]:
    """Yield each ``await`` but those within some nested scopes."""
    if isinstance(node, scopes):
        return
    if isinstance(node, ast.Await):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from _own_awaits(child, scopes)


def _is_plain(node: ast.AST) -> bool:
    """Return whether a part of an expression may be evaluated twice."""
    if isinstance(node, ast.expr_context):
        return True
    return isinstance(node, PLAIN) and all(map(_is_plain, ast.iter_child_nodes(node)))


def _before(node: ast.AST, stop: ast.AST) -> Iterator[ast.AST]:
    """Yield what is evaluated before a stop, and again when the function is entered there."""
    if node is stop:
        return
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        children = [each for pair in pairs for each in pair if each]
    at = next(index for index, child in enumerate(children) if stop in ast.walk(child))
    # Conditions are not evaluated again: entering goes past them.
    if not isinstance(node, ast.BoolOp | ast.IfExp):
        yield from (each for each in children[:at] if isinstance(each, ast.expr | ast.keyword))
    if isinstance(node, ast.Compare) and at > 1 and len(node.ops) > 1:
        yield node  # Whether the stop is reached depends on what was compared before.
    yield from _before(children[at], stop)


def _place_of(node: ast.AST) -> tuple[str, str]:
    """Return what people call a piece of syntax, and what to write instead of a stop in it."""
    return PLACES.get(type(node), (type(node).__name__.lower(), OUT))
