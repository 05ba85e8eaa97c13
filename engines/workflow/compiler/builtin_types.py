"""What the functions, methods and operators of Python's own types give."""

import ast
import operator
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Never, get_args, get_origin, is_typeddict
from uuid import UUID

from flowstate.engines.workflow.compiler.kinds import (
    NOTHING,
    UNKNOWN,
    item_of,
    join,
    made,
    made_tuple,
    without_none,
)
from flowstate.engines.workflow.compiler.lookup import hints_of

__all__ = ["SAMPLES", "called", "constructed", "element", "index", "method", "operated"]

# One value of each class: what an operator or a method gives for it tells what it gives for others.
SAMPLES: Mapping[Any, Any] = {
    bool: True,
    int: 2,
    float: 2.5,
    str: "",
    bytes: b"",
    datetime: datetime(2000, 1, 1),  # noqa: DTZ001 - only its class matters
    date: date(2000, 1, 1),
    time: time(1),
    timedelta: timedelta(1),
    Decimal: Decimal(2),
    UUID: UUID(int=1),
}
OPERATORS: Mapping[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
    ast.LShift: operator.lshift,
    ast.RShift: operator.rshift,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
}
NUMBERS = {bool, int, float}
FIXED: Mapping[str, Any] = {
    **dict.fromkeys(("len", "hash", "ord", "id"), int),
    **dict.fromkeys(("any", "all", "isinstance", "callable", "hasattr"), bool),
    **dict.fromkeys(("repr", "chr", "format"), str),
}
COLLECTED: Mapping[str, Any] = {
    "list": list,
    "sorted": list,
    "set": set,
    "frozenset": frozenset,
    "tuple": tuple,
    "reversed": Iterator,
}
CONSTRUCTORS = {"now", "today", "fromisoformat", "fromtimestamp", "strptime", "combine"}
SAME = {"copy", "union", "intersection", "difference", "symmetric_difference"}
# Methods of texts that cannot be called without arguments, or give another type.
OF_TEXTS: Mapping[str, Any] = {
    **dict.fromkeys(("find", "rfind", "index", "rindex", "count"), int),
    **dict.fromkeys(("startswith", "endswith"), bool),
    "encode": bytes,
    "decode": str,
}
SAME_TEXT = {"replace", "join", "center", "ljust", "rjust", "zfill", "removeprefix", "removesuffix"}


def constructed(function: Any) -> Any:
    """Return the class of which a builtin function, such as ``datetime.now``, makes a value."""
    owner = getattr(function, "__self__", None)
    is_one = isinstance(owner, type) and getattr(function, "__name__", "") in CONSTRUCTORS
    return owner if is_one and owner in SAMPLES else UNKNOWN


def called(name: str, function: Any, kinds: list[Any]) -> Any:
    """Return the type of what a builtin function gives for arguments of some types."""
    head = kinds[0] if kinds else UNKNOWN
    if name in FIXED:
        return FIXED[name]
    if name in COLLECTED:
        return made(COLLECTED[name], item_of(head) if kinds else Never)
    match name:
        case "enumerate":
            return made(Iterator, made_tuple([int, item_of(head)]))
        case "zip":
            return made(Iterator, made_tuple([item_of(kind) for kind in kinds]))
        case "min" | "max":
            return item_of(head) if len(kinds) == 1 else join(*kinds)
        case "sum":
            return join(item_of(head), *(kinds[1:] or [int]))
        case "abs" | "round":
            return int if name == "round" and kinds == [float] else head
        case "dict":
            return head if get_origin(head) is dict else UNKNOWN if kinds else dict[Never, Never]
    return function if function in SAMPLES or function is range else UNKNOWN


def method(owner: Any, name: str, kinds: list[Any]) -> Any:
    """Return the type of what a method of a builtin type gives; ``None`` if it has none."""
    base, inner = get_origin(owner) or owner, get_args(owner)
    if base is dict and inner:
        return _of_dict(name, inner[0], inner[1], kinds[1:])
    if base in {list, set, frozenset, tuple} and inner:
        known = {"pop": inner[0], "index": int, "count": int}
        return owner if name in SAME else known.get(name, UNKNOWN)
    if base not in SAMPLES:
        return None
    if base in {str, bytes} and name in {"partition", "rpartition"}:
        return made_tuple([base] * 3)
    if base in {str, bytes} and name in {*SAME_TEXT, *OF_TEXTS}:
        return OF_TEXTS.get(name, base)
    return _given(base, name)


def _given(base: Any, name: str) -> Any:
    """Return the type of what a method without arguments gives for a sample."""
    try:
        value = getattr(SAMPLES[base], name)()
    except (AttributeError, TypeError, ValueError):
        return UNKNOWN
    return made(list, base) if isinstance(value, list) else type(value)


def _of_dict(name: str, key: Any, value: Any, rest: list[Any]) -> Any:
    match name:
        case "get":
            return join(value, *(rest or [type(None)]))
        case "pop" | "setdefault":
            return join(value, *rest)
        case "copy":
            return dict[key, value]
        case "popitem":
            return made_tuple([key, value])
        case "items":
            return made(Iterator, made_tuple([key, value]))
    return made(Iterator, {"keys": key, "values": value}.get(name, UNKNOWN))


def operated(op: ast.AST, *kinds: Any) -> Any:
    """Return the type of what an operator gives."""
    bases = [get_origin(kind) or kind for kind in kinds]
    if isinstance(op, ast.Mod) and bases[0] is str:
        return str
    if isinstance(op, ast.Pow):
        return float if float in bases and set(bases) <= NUMBERS else UNKNOWN
    if bases == [list, list] and isinstance(op, ast.Add) and all(map(get_args, kinds)):
        return made(list, join(*(get_args(kind)[0] for kind in kinds)))
    if bases == [list, int] and isinstance(op, ast.Mult):
        return kinds[0]
    if bases[0] in {set, frozenset, dict} and bases[0] is bases[-1]:
        return join(*kinds) if isinstance(op, ast.BitOr) else kinds[0]
    try:
        return type(OPERATORS[type(op)](*(SAMPLES[base] for base in bases)))
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return UNKNOWN


def index(kind: Any, at: ast.expr) -> Any:
    """Return the type of ``value[at]``."""
    if kind is UNKNOWN or kind is NOTHING:
        return kind
    kind = without_none(kind)
    base, inner = get_origin(kind) or kind, get_args(kind)
    if isinstance(at, ast.Slice):
        return kind if base in {list, str, bytes} else UNKNOWN
    if isinstance(at, ast.Constant) and base is tuple:
        return element(inner, at.value)
    if isinstance(at, ast.Constant) and is_typeddict(base):
        return hints_of(base).get(str(at.value), UNKNOWN)
    if base in {dict, Mapping}:
        return inner[1] if inner else UNKNOWN
    return item_of(kind) if base in {list, str, bytes, tuple} else UNKNOWN


def element(inner: tuple[Any, ...], at: Any) -> Any:
    """Return the type of one item of a tuple of types."""
    if inner[-1:] == (Ellipsis,):
        return inner[0]
    is_there = isinstance(at, int) and -len(inner) <= at < len(inner)
    return inner[at] if is_there else UNKNOWN
