"""Compiles a coroutine function into code that can be entered at each of its stops."""

import ast
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flowstate.engines.kernel.code import Stop
from flowstate.engines.kernel.outside import Event, Result
from flowstate.engines.workflow.compiler.bindings import Types, types_of
from flowstate.engines.workflow.compiler.bound import unbound_names
from flowstate.engines.workflow.compiler.compiled import (
    Compiled,
    Finish,
    finished_timeout,
)
from flowstate.engines.workflow.compiler.errors import Problems
from flowstate.engines.workflow.compiler.finding import find_stops
from flowstate.engines.workflow.compiler.frames import Entry, Held, Kept, decoder_of
from flowstate.engines.workflow.compiler.kinds import NOTHING, UNKNOWN, named, reason_against
from flowstate.engines.workflow.compiler.liveness import live_names
from flowstate.engines.workflow.compiler.lookup import Lookup, hints_of
from flowstate.engines.workflow.compiler.loops import LoopKind, loops_of
from flowstate.engines.workflow.compiler.refusals import refuse
from flowstate.engines.workflow.compiler.rewrite import Rewriter
from flowstate.engines.workflow.compiler.scope import names_of
from flowstate.engines.workflow.compiler.source import Source, made_function, read_source
from flowstate.engines.workflow.compiler.stops import FoundStop, Level, MarkCall, Stops
from flowstate.engines.workflow.marks import Timeout
from flowstate.engines.workflow.sources import Source as MessageSource

__all__ = ["compile_function"]


def compile_function(function: Any, name: str, renamed: Mapping[str, str]) -> Compiled:
    """Compile a coroutine function whose first parameter is the data.

    Args:
        function: with source.
        name: what frames call it.
        renamed: see ``Compiled``.

    Raises:
        CompileError: has all that is wrong with it.
    """
    code = getattr(function, "__code__", None)
    file = getattr(code, "co_filename", "?")
    problems = Problems(file, getattr(function, "__qualname__", name))
    source = read_source(function, problems)
    return _Compiling(source, name, renamed, problems).compiled()


class _Compiling:
    """The compilation of one function."""

    def __init__(
        self, source: Source, name: str, renamed: Mapping[str, str], problems: Problems
    ) -> None:
        self._source = source
        self._name = name
        self._renamed = renamed
        self._problems = problems
        self._node = source.node
        arguments = source.node.args
        parameters = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        self._parameters = [each.arg for each in parameters]
        self._data = self._parameters[0] if self._parameters else ""
        names = names_of(*source.node.body)
        self._local = frozenset((names.binds - names.shared) | set(self._parameters))
        self._lookup = Lookup(source.function, self._local)

    def compiled(self) -> Compiled:
        """Return the compiled function."""
        node, problems, lookup = self._node, self._problems, self._lookup
        stops = find_stops(node, lookup, problems)
        refuse(node, stops, lookup, problems)
        hints = hints_of(self._source.function)
        parameters = {name: hints.get(name, UNKNOWN) for name in self._parameters}
        types = types_of(node, stops, lookup, parameters, problems)
        loops = loops_of(node, stops, types.infer, problems)
        gives = hints.get("return", Any)
        entries = self._entries(stops, types, loops, gives)
        takes = self._takes(parameters)
        problems.check()
        finishes = {stop.name: _finish(stop.call, lookup) for stop in stops.all}
        targets = [each.target for stop in stops.all for each in stop.call.all if each.target]
        held = {each.name for entry in entries.values() for each in entry.names}
        levels = {level.number: level.node for stop in stops.all for level in stop.levels}
        rewriter = Rewriter(stops, loops)
        made = rewriter.function(node, self._data, held | set(takes))
        return Compiled(
            name=self._name,
            data=hints.get(self._data, Any),
            takes=takes,
            gives=gives,
            targets=targets,
            entries=entries,
            renamed=self._renamed,
            function=self._made(made),
            parameters=[self._held(name, kind) for name, kind in takes.items()],
            defaults=_defaults(self._source.function),
            points=rewriter.points,
            is_indexed={
                number: loops[each].stores != "items"
                for number, each in levels.items()
                if isinstance(each, ast.For)
            },
            finishes={name: each for name, each in finishes.items() if each},
            with_sources=frozenset(
                stop.name for stop in stops.all if _has_sources(stop.call, lookup)
            ),
        )

    def _made(self, node: Any) -> Any:
        try:
            return made_function(attrs.evolve(self._source, node=node))
        except SyntaxError as error:  # Python bounds how deep blocks nest, and there are more now.
            fix = "put the inner ones into a @helper, and write await sub(helper, ...)"
            self._problems.add(error.lineno or 0, self._name, error.msg, fix)
            self._problems.check()
            raise

    def _takes(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        for name in self._parameters[1:]:
            if reason := _reason(parameters[name]):
                fix = f"write {name}: ... with a type that JSON can hold"
                self._problems.add(self._node, name, f"is a parameter, and {reason}", fix)
        return {name: parameters[name] for name in self._parameters[1:]}

    def _entries(
        self, stops: Stops, types: Types, loops: Mapping[ast.For, LoopKind], gives: Any
    ) -> dict[str, Entry]:
        kept = [each for each, loop in loops.items() if loop.stores == "position"]
        live = live_names(self._node.body, stops, self._local, kept)
        parameters = frozenset(self._parameters)
        unbound = unbound_names(self._node.body, stops, live, parameters)
        entries = {}
        for stop in stops.all:
            # What `except ... as` binds comes back with the error.
            caught = {getattr(level.node, "name", None) for level in stop.levels}
            # What has no type at the end never gets a value.
            names = sorted(
                n for n in live[stop] - caught - {self._data} if types.of[n] is not NOTHING
            )
            known = [name for name in names if self._is_known(name, stop, types)]
            held = [self._held(each, types.of[each], (stop, each) in unbound) for each in known]
            levels = [self._kept(each, loops, gives) for each in stop.levels]
            entries[stop.name] = Entry(stop.number, _stop(stop, held, self._lookup), held, levels)
        return entries

    def _held(self, name: str, kind: Any, is_optional: bool = False) -> Held:
        local = name
        if self._source.within and name.startswith("__") and not name.endswith("__"):
            local = f"_{self._source.within.lstrip('_')}{name}"
        return Held(name, local, kind, _decoder(kind), is_optional)

    def _is_known(self, name: str, stop: FoundStop, types: Types) -> bool:
        """Return whether a live name can be stored; else add it to the problems."""
        reason = _reason(types.of[name])
        if not reason:
            return True
        where = f"is alive at the stop {stop.name!r} on line {stop.node.lineno}, and {reason}"
        line = types.lines.get(name, self._node.lineno)
        self._problems.add(line, name, where, _fix(name, types))
        return False

    def _kept(self, level: Level, loops: Mapping[ast.For, LoopKind], gives: Any) -> Kept:
        number, key, node = level.number, level.key, level.node
        if isinstance(node, ast.For):
            loop = loops[node]
            return Kept(number, key, loop.stores, _decoder(loop.items))
        if isinstance(node, ast.ExceptHandler):
            return Kept(number, key, "except", _decoder(None), _caught(node, self._lookup))
        returns = [
            each for part in (*node.body, *node.handlers, *node.orelse) for each in _returns(part)
        ]
        if returns and (reason := _reason(gives)):
            reason = f"passes a finally with a stop, and {reason}"
            self._problems.add(returns[0], "return", reason, "annotate what the function returns")
        return Kept(number, key, "finally", _decoder(gives))


def _caught(node: ast.ExceptHandler, lookup: Lookup) -> frozenset[str]:
    """Return the names of the classes that an ``except`` catches, as far as they are known."""
    parts = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    found = [lookup.value(part) if part else BaseException for part in parts]
    return frozenset(each.__name__ if isinstance(each, type) else "BaseException" for each in found)


def _stop(stop: FoundStop, held: Sequence[Held], lookup: Lookup) -> Stop:
    calls = [*stop.call.all]
    sources = [arg for each in calls if each.mark.name == "wait" for arg in each.node.args]
    classes = [each for each in map(lookup.value, sources) if isinstance(each, type)]
    return Stop(
        stop.name,
        stop.call.mark.kind,
        stop.node.lineno,
        {each.name: each.kind for each in held},
        frozenset(each.name for each in held if each.is_optional),
        [level.key for level in stop.levels],
        {each.__name__: each for each in classes},
        not all(_is_told(each, lookup) for each in sources),
        [each.target for each in calls if each.target and each.mark.kind != "each"],
    )


def _is_told(source: ast.expr, lookup: Lookup) -> bool:
    """Return whether the source of a wait says which messages it stands for, if any."""
    if isinstance(source, ast.Call):
        return lookup.value(source.func) in (Timeout, Event, Result)
    kind = lookup.value(source)
    is_message = isinstance(kind, type) and not issubclass(kind, MessageSource)
    return is_message or isinstance(source, ast.Constant)


def _decoder(kind: Any) -> Any:
    return decoder_of(Any if _reason(kind) else kind)


def _reason(kind: Any) -> str:
    if kind is UNKNOWN:
        return "its type is not known"
    reason = reason_against(kind)
    return f"its type {named(kind)} cannot be stored: {reason}" if reason else ""


def _fix(name: str, types: Types) -> str:
    match types.nodes.get(name):
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return "define it after the stop, or outside of the function"
        case ast.alias():
            return "import it at the top of the file"
        case ast.Assign(value=ast.Await()):
            return (
                f"write {name}: ... = ... with a type that JSON can hold, or annotate the function"
            )
        case ast.AugAssign() | ast.Assign() | ast.AnnAssign():
            return f"write {name}: ... = ... with a type that JSON can hold"
    return f"write {name}: ... with a type that JSON can hold on a line before"


def _returns(node: ast.AST) -> list[ast.AST]:
    """Return the returns with a value, without those of nested functions."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        return []
    own: list[ast.AST] = [node] if isinstance(node, ast.Return) and node.value else []
    return own + [each for child in ast.iter_child_nodes(node) for each in _returns(child)]


def _defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _has_sources(call: MarkCall, lookup: Lookup) -> bool:
    """Return whether a wait has, or may have, sources to be set up."""
    if call.mark.name != "wait":
        return False
    sources = (each for each in call.node.args if not isinstance(each, ast.Constant))
    found = (lookup.value(each.func if isinstance(each, ast.Call) else each) for each in sources)
    return any(not isinstance(each, type) or issubclass(each, MessageSource) for each in found)


def _finish(call: MarkCall, lookup: Lookup) -> Finish | None:
    """Return what makes the value of a stop from that of its operation."""
    if call.mark.name != "wait":
        return None
    calls = (each for each in call.node.args if isinstance(each, ast.Call))
    is_timed = any(lookup.value(each.func) is Timeout for each in calls)
    return finished_timeout if is_timed else None
