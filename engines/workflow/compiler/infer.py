"""The types of expressions that are plain to see; a name with any other one is declared."""

import ast
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from inspect import getattr_static
from types import FunctionType, MethodType
from typing import Any, get_args, get_origin

import attrs

from flowstate.engines.workflow.compiler.kinds import (
    NOTHING,
    UNKNOWN,
    awaited,
    bare,
    item_of,
    join,
    made,
    made_tuple,
    members,
    without_none,
)
from flowstate.engines.workflow.compiler.lookup import MISSING, Lookup, hints_of

__all__ = ["Inference", "element_at", "returned_by"]

# What an operator gives for one value of each class tells what it gives for others.
SAMPLES: Mapping[Any, Any] = {
    bool: True,
    int: 2,
    float: 2.5,
    str: "",
    bytes: b"",
    date: date(2000, 1, 1),
    datetime: datetime(2000, 1, 1),  # noqa: DTZ001 - only its class matters
    timedelta: timedelta(1),
    Decimal: Decimal(2),
}
ATOMS = (*SAMPLES, type(None))
GIVES: Mapping[str, Any] = {"len": int, "isinstance": bool, "any": bool, "all": bool, "repr": str}
COLLECTS = {"list": list, "sorted": list, "set": set, "tuple": tuple, "reversed": Iterator}
MOST_ITEMS = 100  # Of a constant, that are looked at.
DISPLAYS = {ast.List: list, ast.Set: set}


@attrs.define
class Inference:
    """Tells types of expressions: ``UNKNOWN``, or ``NOTHING`` if it may be known later.

    Attributes:
        lookup: for names around the function.
        types: of the names of the function.
        stop_gives: the type of what an ``await`` gives.
    """

    lookup: Lookup
    types: dict[str, Any]
    stop_gives: Callable[[ast.Await], Any]

    def of(self, node: ast.expr) -> Any:
        """Return the type of an expression."""
        of = self.of
        match node:
            case ast.Constant():
                return _of_value(node.value)
            case ast.JoinedStr():
                return str
            case ast.Name():
                own = self.types.get(node.id, MISSING)
                return _of_value(self.lookup.value(node)) if own is MISSING else own
            case ast.Attribute():
                return self._attribute(node)
            case ast.Call():
                return self._call(node)
            case ast.Await():
                return self.stop_gives(node)
            case ast.NamedExpr():
                return of(node.value)
            case ast.IfExp():
                return join(*map(of, _filled([node.body, node.orelse])))
            case ast.BoolOp():
                kinds = list(map(of, _filled(node.values)))
                if isinstance(node.op, ast.Or):
                    kinds[:-1] = map(without_none, kinds[:-1])  # Only the last can be it then.
                return join(*kinds)
            case ast.Compare() | ast.UnaryOp(op=ast.Not()):
                return bool
            case ast.UnaryOp():
                return of(node.operand)
            case ast.BinOp():
                return self.operated(node.op, of(node.left), of(node.right))
            case ast.Subscript():
                return _at(of(node.value), node.slice)
            case ast.Tuple():
                return made_tuple(list(map(of, node.elts)))
            case ast.List() | ast.Set() if node.elts:
                return made(DISPLAYS[type(node)], join(*map(of, node.elts)))
            case ast.Dict() if node.keys and all(node.keys):
                keys = [of(each) for each in node.keys if each]
                return _dict_of(join(*keys), join(*map(of, node.values)))
        return UNKNOWN

    def _attribute(self, node: ast.Attribute) -> Any:
        found = self.lookup.value(node)
        if found is not MISSING:
            return _of_value(found)
        owner = self.of(node.value)
        if owner in (UNKNOWN, NOTHING):
            return owner
        return join(*(self.attribute(each, node.attr) for each in members(without_none(owner))))

    def attribute(self, kind: Any, name: str) -> Any:
        """Return the type of an attribute of values of a type."""
        if not isinstance(kind, type):
            return UNKNOWN
        found = hints_of(kind).get(name, MISSING)
        if found is not MISSING:
            return bare(found)
        member = getattr_static(kind, name, MISSING)
        is_computed = isinstance(member, property) and member.fget
        return hints_of(member.fget).get("return", UNKNOWN) if is_computed else UNKNOWN

    def is_property(self, node: ast.expr) -> bool:
        """Return whether an expression is an attribute that is computed."""
        if not isinstance(node, ast.Attribute):
            return False
        owners = members(self.of(node.value))
        return any(isinstance(getattr_static(each, node.attr, None), property) for each in owners)

    def _call(self, node: ast.Call) -> Any:
        found, kinds = self.lookup.value(node.func), [self.of(each) for each in node.args]
        if found is MISSING and isinstance(node.func, ast.Attribute):
            return self._method(self.of(node.func.value), node.func.attr)
        if isinstance(node.func, ast.Name) and getattr(found, "__module__", "") == "builtins":
            return _called(node.func.id, found, kinds)
        return UNKNOWN if found is MISSING else returned_by(found)

    def _method(self, owner: Any, name: str) -> Any:
        if get_origin(owner) is dict and name in {"items", "keys", "values"}:
            key, value = get_args(owner)
            pair = made_tuple([key, value])
            return made(Iterator, {"items": pair, "keys": key, "values": value}[name])
        base = get_origin(owner) or owner
        return returned_by(getattr_static(base, name, MISSING)) if base is owner else UNKNOWN

    def operated(self, op: ast.operator, left: Any, right: Any) -> Any:
        """Return the type of what an operator gives for operands of some types."""
        for kind in (left, right):
            if kind in (UNKNOWN, NOTHING):
                return kind
        if left in SAMPLES and right in SAMPLES:
            operation: Any = type(op)
            return _operated(operation, left, right)
        return left if left == right and isinstance(op, ast.Add) else UNKNOWN

    def targets(self, node: ast.expr, kind: Any) -> Iterator[tuple[str, Any]]:
        """Yield the names of an assignment, and their types."""
        match node:
            case ast.Name():
                yield node.id, kind
            case ast.Tuple() | ast.List():
                for at, each in enumerate(node.elts):
                    yield from self.targets(each, element_at(kind, at))
            case ast.Starred():
                yield from self.targets(node.value, UNKNOWN)


@lru_cache(maxsize=256)
def _operated(op: type[ast.operator], left: Any, right: Any) -> Any:
    names = [ast.Name(name, ast.Load()) for name in "ab"]
    whole = ast.fix_missing_locations(ast.Expression(ast.BinOp(names[0], op(), names[1])))
    samples = {"a": SAMPLES[left], "b": SAMPLES[right]}
    try:
        kind = type(eval(compile(whole, "", "eval"), samples))  # noqa: S307 - an operator
    except (TypeError, ArithmeticError):
        return UNKNOWN
    return UNKNOWN if op is ast.Pow else kind  # Whole numbers give others for a negative power.


def returned_by(call: Any) -> Any:
    """Return the type of what calling something gives, from its annotations."""
    while hasattr(call, "func") and not isinstance(call, type):
        call = call.func  # Of functools.partial.
    if isinstance(call, classmethod | staticmethod):
        call = call.__func__
    if isinstance(call, type):
        return call
    if not isinstance(call, FunctionType | MethodType):
        call = getattr_static(type(call), "__call__", call)
    return awaited(hints_of(call).get("return", UNKNOWN))


def element_at(kind: Any, at: Any) -> Any:
    """Return the type of one of the values that a value is taken apart into."""
    inner = get_args(kind)
    if get_origin(kind) is not tuple or inner[-1:] == (Ellipsis,):
        return item_of(kind)
    return inner[at] if at in range(len(inner)) else UNKNOWN


def _filled(nodes: list[ast.expr]) -> list[ast.expr]:
    """Return expressions without an empty list in place of another one, as in ``xs or []``."""
    return [each for each in nodes if not (isinstance(each, ast.List) and not each.elts)]


def _of_value(value: Any) -> Any:
    """Return the type of a value that is there when the function is compiled."""
    if type(value) in (list, tuple) and 0 < len(value) <= MOST_ITEMS:
        return made(type(value), join(*map(_of_value, value)))
    return type(value) if type(value) in ATOMS or isinstance(value, Enum) else UNKNOWN


def _called(name: str, function: Any, kinds: list[Any]) -> Any:
    """Return the type of what a builtin function gives for arguments of some types."""
    items = [item_of(kind) for kind in kinds]
    if name in GIVES:
        return GIVES[name]
    if name in COLLECTS and items:
        return made(COLLECTS[name], items[0])
    match name:
        case "enumerate":
            return made(Iterator, made_tuple([int, *items[:1]]))
        case "zip":
            return made(Iterator, made_tuple(items))
        case "min" | "max":
            return items[0] if len(items) == 1 else join(*kinds)
    return function if function in SAMPLES or function is range else UNKNOWN


def _dict_of(key: Any, value: Any) -> Any:
    pair = made_tuple([key, value])
    return pair if pair in (UNKNOWN, NOTHING) else dict[key, value]


def _at(kind: Any, at: ast.expr) -> Any:
    """Return the type of ``value[at]``."""
    if kind in (UNKNOWN, NOTHING):
        return kind
    kind = without_none(kind)
    if isinstance(at, ast.Slice):
        return kind if (get_origin(kind) or kind) in {list, str, bytes} else UNKNOWN
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    return element_at(kind, at.value) if isinstance(at, ast.Constant) else item_of(kind)
