"""The source of a function: found, parsed, and compared with what was imported."""

import ast
import linecache
from collections.abc import Iterator, Mapping
from functools import lru_cache
from inspect import iscoroutinefunction
from types import CodeType, FunctionType
from typing import Any

import attrs

from flowstate.engines.workflow.compiler.errors import Problems
from flowstate.engines.workflow.compiler.unfolding import unfold

__all__ = ["Source", "made_function", "read_source"]

FUTURE = 0x1FF0000  # The flags of a code object that come from `from __future__ import`.
PYTEST = "@py"  # Begins the names that pytest adds to assertions.


@attrs.frozen
class Source:
    """A function and its syntax tree.

    Attributes:
        function: as it was imported.
        node: a tree of its own, which may be changed; lines and columns are those of the file.
        within: the name of the class that it stands in, by which private names are mangled.
        imports: names that the file imports. Python calls their attributes with other code.
    """

    function: Any
    node: ast.AsyncFunctionDef
    within: str
    imports: tuple[str, ...]


def read_source(function: Any, problems: Problems) -> Source:
    """Return the source of a coroutine function.

    Raises:
        CompileError: there is none, or it is not that of the function.
    """
    if hasattr(function, "__wrapped__"):
        problems.add(
            _line(function), _name(function), "a decorator has wrapped it", "remove the decorator"
        )
    elif not isinstance(function, FunctionType) or not iscoroutinefunction(function):
        problems.add(
            _line(function), _name(function), "is not a coroutine function", "write async def"
        )
    problems.check()
    code = function.__code__
    linecache.checkcache(code.co_filename)
    found = _find("".join(linecache.getlines(code.co_filename, function.__globals__)), code)
    if found is None:
        problems.add(
            code.co_firstlineno,
            code.co_name,
            "its source cannot be had",
            "define it in a file or a notebook, not by exec",
        )
        problems.check()
        raise AssertionError
    source = Source(function, *found)
    if not _is_alike(made_function(source).__code__, code):
        problems.add(
            code.co_firstlineno,
            code.co_name,
            "its source is not what was imported",
            "import it again, and leave its code as the source says",
        )
        problems.check()
    unfold(source.node, problems)
    return source


def _line(function: Any) -> int:
    return int(getattr(getattr(function, "__code__", None), "co_firstlineno", 0))


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _find(text: str, code: CodeType) -> tuple[ast.AsyncFunctionDef, str, tuple[str, ...]] | None:
    """Return a new tree of the function, the class that it stands in, and what its file imports."""
    try:
        # Parsed as a whole file: lines, columns and texts of many lines stay as they are.
        tree = _parse(text)
    except (SyntaxError, ValueError):
        return None
    found = _functions(tree).get((code.co_firstlineno, code.co_name))
    return (_copy(found[0]), found[1], _imports(tree)) if found else None


@lru_cache(maxsize=2)
def _parse(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SystemError:
        # Python miscounts its depth if what is collected meanwhile has source parsed, as a
        # warning about a forgotten coroutine does.
        return ast.parse(text)


@lru_cache(maxsize=2)
def _functions(tree: ast.Module) -> Mapping[tuple[int, str], tuple[ast.AsyncFunctionDef, str]]:
    """Return each coroutine function by its first line and name, and the class around it."""
    return {(_first_line(node), node.name): (node, it) for node, it in _functions_in(tree, "")}


@lru_cache(maxsize=2)
def _imports(tree: ast.Module) -> tuple[str, ...]:
    """Return the names that a file imports, outside of its functions and classes."""
    return tuple({each: None for each in _imports_in(tree) if each != "*"})


def _imports_in(node: ast.AST) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield from (each.asname or each.name.partition(".")[0] for each in child.names)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _imports_in(child)


def _first_line(node: ast.AsyncFunctionDef) -> int:
    return min([node.lineno, *(each.lineno for each in node.decorator_list)])


def _functions_in(node: ast.AST, within: str) -> Iterator[tuple[ast.AsyncFunctionDef, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.AsyncFunctionDef):
            yield child, within
        if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            inner = child.name if isinstance(child, ast.ClassDef) else within
            yield from _functions_in(child, inner)


def _copy(node: Any) -> Any:
    """Copy a tree; quicker than ``deepcopy``, which is most of the time otherwise."""
    if isinstance(node, ast.AST):
        copied = node.__class__.__new__(node.__class__)  # Its __init__ asks for fields.
        copied.__dict__.update({name: _copy(value) for name, value in node.__dict__.items()})
        return copied
    return [_copy(each) for each in node] if isinstance(node, list) else node


def made_function(source: Source) -> Any:
    """Compile the tree of a source, with the globals and the closure of its function."""
    function, node = source.function, source.node
    names = function.__code__.co_freevars
    changes: Any = {"decorator_list": [], "returns": None, "args": _without_annotations(node.args)}
    bare = _made(ast.AsyncFunctionDef, **{**vars(node), **changes})
    if source.within:
        bare = _made(ast.ClassDef, name=source.within, bases=[], keywords=[], body=[bare])
    free = ast.arguments([], [ast.arg(name) for name in names], None, [], [], None, [])
    own = [] if node.name in names or source.within else [ast.Global([node.name])]  # It may recur.
    outer = _made(ast.FunctionDef, name=".outer", args=free, body=[*own, bare])
    imports: list[ast.stmt] = [ast.Import([ast.alias(each)]) for each in source.imports]
    tree = ast.fix_missing_locations(ast.Module([*imports, outer], []))
    flags = function.__code__.co_flags & FUTURE
    whole = compile(tree, function.__code__.co_filename, "exec", flags, dont_inherit=True)
    code = _nested(whole, node.name)
    cells = dict(zip(names, function.__closure__ or (), strict=True))
    closure = tuple(cells[name] for name in code.co_freevars)
    return FunctionType(code, function.__globals__, node.name, None, closure)


def _without_annotations(args: ast.arguments) -> ast.arguments:
    """Return arguments that evaluate nothing but have the same names."""
    return ast.arguments(
        [ast.arg(each.arg) for each in args.posonlyargs],
        [ast.arg(each.arg) for each in args.args],
        args.vararg and ast.arg(args.vararg.arg),
        [ast.arg(each.arg) for each in args.kwonlyargs],
        [None] * len(args.kwonlyargs),
        args.kwarg and ast.arg(args.kwarg.arg),
        [],
    )


def _made(kind: Any, **fields: Any) -> ast.stmt:
    """Make a statement; Python 3.12 has added a field that is a list."""
    lists: dict[str, Any] = {
        name: [] for name in ("decorator_list", "type_params") if name in kind._fields
    }
    made: ast.stmt = kind(**{**lists, **fields})
    return made


def _nested(code: CodeType, name: str) -> CodeType:
    """Return the code of the function, which is the only one within ``.outer`` or its class."""
    for each in code.co_consts:
        if isinstance(each, CodeType):
            return each if each.co_name == name and each.co_flags & 0x80 else _nested(each, name)
    raise AssertionError(name)


def _is_alike(one: CodeType, other: CodeType) -> bool:
    """Return whether two pieces of code do the same, wherever they stand."""
    if any(name.startswith(PYTEST) for name in other.co_varnames):
        return True  # Its assertions are rewritten, as a test wants them.
    return (
        one.co_code == other.co_code
        and one.co_names == other.co_names
        and one.co_varnames == other.co_varnames
        and len(one.co_consts) == len(other.co_consts)
        and all(map(_is_same, one.co_consts, other.co_consts))
    )


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, CodeType) and isinstance(other, CodeType):
        return _is_alike(one, other)
    if isinstance(one, str) and "<locals>" in one:
        return True  # The qualified name of a nested function.
    return type(one) is type(other) and repr(one) == repr(other)
