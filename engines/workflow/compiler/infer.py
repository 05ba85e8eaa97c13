"""The types of expressions, as far as they are plain to see."""

import ast
import enum
from collections.abc import Callable, Iterator
from inspect import getattr_static
from itertools import product
from types import FunctionType, MethodType
from typing import Any, Never, get_args, get_origin

import attrs

from flowstate.engines.workflow.compiler.builtin_types import (
    SAMPLES,
    called,
    constructed,
    element,
    index,
    method,
    operated,
)
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

ATOMS = (bool, int, float, str, bytes, type(None))
MOST_ITEMS = 100  # Of a constant, that are looked at.
DISPLAYS = {
    ast.List: list,
    ast.Set: set,
    ast.ListComp: list,
    ast.SetComp: set,
    ast.GeneratorExp: Iterator,
}


@attrs.define
class Inference:
    """Tells types of expressions: ``UNKNOWN``, or ``NOTHING`` if it may be known later.

    Attributes:
        lookup: for names around the function.
        types: of the names of the function.
        stop_gives: the type of what an ``await`` gives.
        nested: the types of what nested functions return.
    """

    lookup: Lookup
    types: dict[str, Any]
    stop_gives: Callable[[ast.Await], Any]
    nested: dict[str, Any] = attrs.Factory(dict)

    def of(self, node: ast.expr) -> Any:
        """Return the type of an expression."""
        match node:
            case ast.Constant():
                return type(node.value) if isinstance(node.value, ATOMS) else UNKNOWN
            case ast.JoinedStr():
                return str
            case ast.Name():
                is_own = node.id in self.types
                return self.types[node.id] if is_own else _of_value(self.lookup.value(node))
            case ast.Attribute():
                return self._attribute(node)
            case ast.Call():
                return self._call(node)
            case ast.Await():
                return self.stop_gives(node)
            case ast.NamedExpr():
                return self.of(node.value)
            case ast.IfExp():
                return join(self.of(node.body), self.of(node.orelse))
            case ast.BoolOp():
                return self._bool_op(node)
            case ast.Compare() | ast.UnaryOp(op=ast.Not()):
                return bool
            case ast.UnaryOp():
                return self.operated(node.op, self.of(node.operand))
            case ast.BinOp():
                return self.operated(node.op, self.of(node.left), self.of(node.right))
            case ast.Subscript():
                return index(self.of(node.value), node.slice)
        return self._display(node)

    def _display(self, node: ast.expr) -> Any:
        match node:
            case ast.Tuple() if any(isinstance(each, ast.Starred) for each in node.elts):
                return made(tuple, self._joined(node.elts))
            case ast.Tuple():
                return made_tuple([self.of(each) for each in node.elts])
            case ast.List() | ast.Set():
                return made(DISPLAYS[type(node)], self._joined(node.elts))
            case ast.Dict():
                keys = [each for each in node.keys if each]
                is_plain = len(keys) == len(node.values)
                return (
                    _dict_of(self._joined(keys), self._joined(node.values)) if is_plain else UNKNOWN
                )
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp():
                return made(DISPLAYS[type(node)], self._within(node.generators).of(node.elt))
            case ast.DictComp():
                inner = self._within(node.generators)
                return _dict_of(inner.of(node.key), inner.of(node.value))
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
        owner = get_origin(kind) or kind
        if not isinstance(owner, type):
            return UNKNOWN
        if issubclass(owner, enum.Enum):
            values = [type(each.value) for each in owner] if name == "value" else [UNKNOWN]
            return str if name == "name" else join(*values)
        found = hints_of(owner).get(name, MISSING)
        if found is not MISSING:
            return _filled(found, kind)
        member = getattr_static(owner, name, MISSING)
        if isinstance(member, property) and member.fget:
            return hints_of(member.fget).get("return", UNKNOWN)
        value = getattr(SAMPLES.get(owner), name, MISSING)
        return type(value) if isinstance(value, ATOMS) else UNKNOWN

    def is_property(self, node: ast.expr) -> bool:
        """Return whether an expression is an attribute that is computed."""
        if not isinstance(node, ast.Attribute):
            return False
        owners = [get_origin(each) or each for each in members(self.of(node.value))]
        return any(isinstance(getattr_static(each, node.attr, None), property) for each in owners)

    def _call(self, node: ast.Call) -> Any:
        found = self.lookup.value(node.func)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if found is MISSING and isinstance(node.func, ast.Attribute):
            return self._method(node.func, [self.of(each) for each in node.args])
        if found is MISSING:
            return self.nested.get(name, UNKNOWN)
        if name and getattr(found, "__module__", "") == "builtins":
            return called(name, found, [self.of(each) for each in node.args])
        made_by = constructed(found)
        return returned_by(found) if made_by is UNKNOWN else made_by

    def _method(self, node: ast.Attribute, kinds: list[Any]) -> Any:
        owner = self.of(node.value)
        if owner in (UNKNOWN, NOTHING):
            return owner
        owner = without_none(owner)
        found = method(owner, node.attr, kinds)
        if found is not None:
            return found
        base = get_origin(owner) or owner
        is_class = isinstance(base, type)
        return returned_by(getattr_static(base, node.attr, MISSING)) if is_class else UNKNOWN

    def _bool_op(self, node: ast.BoolOp) -> Any:
        kinds = [self.of(each) for each in node.values]
        if isinstance(node.op, ast.Or):
            kinds[:-1] = map(without_none, kinds[:-1])  # Only the last can be the value then.
        return join(*kinds)

    def operated(self, op: ast.AST, left: Any, *right: Any) -> Any:
        """Return the type of what an operator gives for operands of some types."""
        for kind in (left, *right):
            if kind in (UNKNOWN, NOTHING):
                return kind
        return join(*(operated(op, *kinds) for kinds in product(*map(members, (left, *right)))))

    def _joined(self, nodes: list[ast.expr]) -> Any:
        """Return the type of the items of a display."""
        kinds = [
            item_of(self.of(each.value)) if isinstance(each, ast.Starred) else self.of(each)
            for each in nodes
        ]
        return join(*kinds) if kinds else Never

    def _within(self, generators: list[ast.comprehension]) -> "Inference":
        inner = attrs.evolve(self, types=dict(self.types))
        for each in generators:
            inner.types.update(inner.targets(each.target, item_of(inner.of(each.iter))))
        return inner

    def targets(self, node: ast.expr, kind: Any) -> Iterator[tuple[str, Any]]:
        """Yield the names of an assignment, and their types."""
        match node:
            case ast.Name():
                yield node.id, kind
            case ast.Tuple() | ast.List():
                after = False
                for at, each in enumerate(node.elts):
                    if isinstance(each, ast.Starred):
                        after = True
                        yield from self.targets(each.value, made(list, item_of(kind)))
                    else:
                        yield from self.targets(
                            each, item_of(kind) if after else element_at(kind, at)
                        )


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


def element_at(kind: Any, at: int) -> Any:
    """Return the type of one of the values that a value is taken apart into."""
    return element(get_args(kind), at) if get_origin(kind) is tuple else item_of(kind)


def _of_value(value: Any) -> Any:
    """Return the type of a value that is there when the function is compiled."""
    if isinstance(value, list | tuple | set | frozenset) and 0 < len(value) <= MOST_ITEMS:
        return made(type(value), join(*map(_of_value, value)))
    is_open = callable(value) or isinstance(value, list | tuple | set | frozenset | dict)
    return UNKNOWN if value is MISSING or is_open else type(value)


def _dict_of(key: Any, value: Any) -> Any:
    pair = made_tuple([key, value])
    return pair if pair in (UNKNOWN, NOTHING) else dict[key, value]


def _filled(found: Any, kind: Any) -> Any:
    """Return the type of a field, with the arguments of a generic class filled in."""
    parameters = getattr(get_origin(kind), "__parameters__", ())
    given = dict(zip(parameters, get_args(kind), strict=False))
    if found in given:
        return given[found]
    own = getattr(found, "__parameters__", ())
    return found[tuple(given.get(each, each) for each in own)] if own and given else bare(found)
