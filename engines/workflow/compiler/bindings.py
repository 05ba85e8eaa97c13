"""The types of the names of a function, from all that binds them."""

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_origin

import attrs

from flowstate.engines.kernel.outside import Event, Result
from flowstate.engines.workflow.compiler.errors import Problems
from flowstate.engines.workflow.compiler.infer import Inference, returned_by
from flowstate.engines.workflow.compiler.kinds import (
    NOTHING,
    UNKNOWN,
    item_of,
    join,
    made,
    members,
    named,
)
from flowstate.engines.workflow.compiler.lookup import MISSING, Lookup
from flowstate.engines.workflow.compiler.scope import names_of
from flowstate.engines.workflow.compiler.stops import MarkCall, Stops
from flowstate.engines.workflow.marks import Timeout
from flowstate.engines.workflow.sources import Source, message_of

__all__ = ["Types", "types_of"]

MOST_ROUNDS = 10  # Types that grow for longer, such as a list within itself, are not known.

PLAIN = (ast.Name, ast.Constant, ast.Attribute, ast.expr_context)  # They bind nothing.


@attrs.define
class Types:
    """What is known about the names of a function.

    Attributes:
        of: their types.
        lines: where each gets a value first.
        nodes: what binds it there.
        infer: tells types of expressions.
    """

    of: dict[str, Any]
    lines: dict[str, int]
    nodes: dict[str, ast.AST]
    infer: Inference


def types_of(
    node: ast.AsyncFunctionDef,
    stops: Stops,
    lookup: Lookup,
    parameters: Mapping[str, Any],
    problems: Problems,
) -> Types:
    """Return the types of the names of a function, and set those of its stops."""
    found = _Bindings(stops, lookup, parameters, problems)
    nodes = [each for each in _own_nodes(node) if not isinstance(each, PLAIN)]
    found.declare(nodes)
    found.settle(nodes)
    for stop in stops.all:
        found.set_points(stop.call)
    for each in nodes:
        found.set_declared(each)
    return Types(found.types, found.lines, found.nodes, found.infer)


class _Bindings:
    def __init__(
        self, stops: Stops, lookup: Lookup, parameters: Mapping[str, Any], problems: Problems
    ) -> None:
        self.types: dict[str, Any] = dict.fromkeys(lookup.local, NOTHING)
        self.types.update(parameters)
        self.lines: dict[str, int] = {}
        self.nodes: dict[str, ast.AST] = {}
        self.infer = Inference(lookup, self.types, self._stop_gives)
        self._declared = dict(parameters)
        self._stops = stops
        self._lookup = lookup
        self._problems = problems

    def declare(self, nodes: Iterable[ast.AST]) -> None:
        """Note the types that the source says."""
        for each in nodes:
            if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
                self._declare(each, each.target.id)

    def _declare(self, node: ast.AnnAssign, name: str) -> None:
        text = ast.unparse(node.annotation)
        kind = self._lookup.type_at(node.annotation)
        if kind is MISSING:
            self._problems.add(node, name, f"{text!r} cannot be evaluated", "import the type")
            kind = UNKNOWN
        if self._declared.setdefault(name, kind) != kind:
            reason = f"is declared as {named(self._declared[name])} before"
            self._problems.add(node, name, reason, "declare one type, or use two names")
        self.types[name] = kind

    def settle(self, nodes: Sequence[ast.AST]) -> None:
        """Go through all that binds names until no type changes."""
        before: dict[str, Any] = {}
        for _ in range(MOST_ROUNDS):
            before = dict(self.types)
            for each in nodes:
                for name, kind in self._bound_by(each):
                    self._bind(name, kind, each)
            if self.types == before:
                return
        changing = {name for name, kind in self.types.items() if kind != before[name]}
        self.types.update(dict.fromkeys(changing - set(self._declared), UNKNOWN))

    def _bind(self, name: str, kind: Any, node: ast.AST) -> None:
        self.lines.setdefault(name, getattr(node, "lineno", 0))
        self.nodes.setdefault(name, node)
        if name not in self._declared and name in self.types:
            self.types[name] = join(self.types[name], kind)

    def _bound_by(self, node: ast.AST) -> Iterator[tuple[str, Any]]:
        """Yield names that a node binds, and their types."""
        of = self.infer.of
        match node:
            case ast.Assign():
                for target in node.targets:
                    yield from self.infer.targets(target, of(node.value))
            case ast.AugAssign(target=ast.Name(id=name)):
                yield name, self.infer.operated(node.op, self.types[name], of(node.value))
            case ast.NamedExpr(target=ast.Name(id=name)) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name, of(node.value) if node.value else NOTHING
            case ast.For():
                yield from self.infer.targets(node.target, item_of(of(node.iter)))
            case ast.withitem(optional_vars=ast.expr() as target):
                yield from self.infer.targets(target, UNKNOWN)
            case ast.ExceptHandler(name=str(name), type=ast.expr() as kind):
                yield name, self._caught(kind)
            case ast.Match():
                for case in node.cases:
                    yield from self._captured(case.pattern, of(node.subject))
            case ast.alias():
                yield (node.asname or node.name).partition(".")[0], UNKNOWN
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, UNKNOWN
            case ast.Nonlocal():
                yield from ((name, UNKNOWN) for name in node.names)

    def _caught(self, node: ast.expr) -> Any:
        kinds = node.elts if isinstance(node, ast.Tuple) else [node]
        found = [self._lookup.value(each) for each in kinds]
        return join(*(each if isinstance(each, type) else UNKNOWN for each in found))

    def _captured(self, pattern: ast.pattern | None, kind: Any) -> Iterator[tuple[str, Any]]:
        match pattern:
            case ast.MatchAs(name=name, pattern=inner):
                if name:
                    yield name, self._matched(inner, kind)
                yield from self._captured(inner, kind)
            case ast.MatchOr():
                for each in pattern.patterns:
                    yield from self._captured(each, kind)
            case ast.MatchClass():
                yield from self._captured_of_class(pattern)
            case ast.pattern():
                yield from ((name, UNKNOWN) for name in names_of(pattern).binds)

    def _matched(self, pattern: ast.pattern | None, kind: Any) -> Any:
        """Return the type of a value that a pattern takes."""
        if not isinstance(pattern, ast.MatchClass):
            return kind
        found = self._lookup.value(pattern.cls)
        same = [each for each in members(kind) if (get_origin(each) or each) is found]
        return same[0] if same else found if isinstance(found, type) else UNKNOWN

    def _captured_of_class(self, pattern: ast.MatchClass) -> Iterator[tuple[str, Any]]:
        found = self._lookup.value(pattern.cls)
        names = list(getattr(found, "__match_args__", ()))
        for index, each in enumerate(pattern.patterns):
            is_whole = not names and index == 0  # ``int(x)``: the value itself.
            kind = found if is_whole else self._field(found, names[index : index + 1])
            yield from self._captured(each, kind)
        for name, each in zip(pattern.kwd_attrs, pattern.kwd_patterns, strict=True):
            yield from self._captured(each, self._field(found, [name]))

    def _field(self, owner: Any, names: list[str]) -> Any:
        return self.infer.attribute(owner, names[0]) if names else UNKNOWN

    def _stop_gives(self, node: ast.Await) -> Any:
        stop = self._stops.at(node)
        return self._gives(stop.call) if stop else UNKNOWN

    def _gives(self, call: MarkCall) -> Any:
        """Return the type of the value of a stop or a branch."""
        args = call.node.args
        match call.mark.name:
            case "step":
                return returned_by(self._lookup.value(args[0])) if args else UNKNOWN
            case "wait":
                sources = (each for each in args if not isinstance(each, ast.Constant))
                return join(*map(self._message, sources))
            case "sub" | "each":
                kind = call.target.gives if call.target else UNKNOWN
                kind = UNKNOWN if kind is Any else kind  # It may just not have been said.
                is_list = call.mark.name == "each"
                return made(list, kind) if is_list else kind
        return self._joined(call) if call.mark.is_join else type(None)

    def _joined(self, call: MarkCall) -> Any:
        kinds = [self._gives(each) for each in call.branches]
        kind = join(*kinds)
        if call.mark.name == "any_of" or kind in (UNKNOWN, NOTHING):
            return kind
        is_fixed = call.mark.name == "all_of" and len(call.branches) == len(call.node.args)
        return tuple[tuple(kinds)] if is_fixed else tuple[kind, ...]  # type: ignore[misc, valid-type]

    def _message(self, node: ast.expr) -> Any:
        found = self._lookup.value(node.func if isinstance(node, ast.Call) else node)
        if not isinstance(node, ast.Call) or found is Timeout:
            return found if isinstance(found, type) else UNKNOWN
        if isinstance(found, type) and issubclass(found, Source):
            kind = message_of(found)
            return UNKNOWN if kind is Any else kind
        if found not in (Event, Result) or not node.args:
            return UNKNOWN
        first = self._lookup.value(node.args[0])
        kind = first if found is Event else getattr(first, "gives", UNKNOWN)
        return UNKNOWN if kind is Any else kind

    def set_points(self, call: MarkCall) -> None:
        """Tell the running code by which type a value is decoded."""
        for each in call.branches:
            self.set_points(each)
        kind = self._gives(call)
        if kind not in (UNKNOWN, NOTHING, MISSING):
            call.point.set_type(kind)

    def set_declared(self, node: ast.AST) -> None:
        """Take the declared type of a name for the stop whose value it is given."""
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Await() as value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Await() as value)
            ):
                stop = self._stops.at(value)
                if stop and name in self._declared:
                    stop.call.point.set_type(self._declared[name])


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function, without those of nested ones."""
    for child in ast.iter_child_nodes(node):
        yield child
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from (each for each in ast.walk(child) if isinstance(each, ast.Nonlocal))
        else:
            yield from _own_nodes(child)
