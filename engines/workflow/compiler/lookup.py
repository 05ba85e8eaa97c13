"""What names in a definition stand for when it is compiled."""

import ast
import builtins
import inspect
import sys
from collections import ChainMap
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, get_type_hints

import attrs

__all__ = ["Lookup", "MISSING", "evaluated", "hints_of"]


class Missing:
    """The type of ``MISSING``."""


MISSING = Missing()


def hints_of(thing: Any) -> Mapping[str, Any]:
    """Return the annotations of a function or a class, as types; those that can be had."""
    with suppress(Exception):  # Names in annotations may be anything.
        return _hints_of(thing)
    module = sys.modules.get(getattr(thing, "__module__", ""), builtins)
    names = dict(getattr(thing, "__globals__", vars(module)))
    kinds = getattr(thing, "__annotations__", {}).items()
    found = {name: evaluated(kind, names) for name, kind in kinds}
    return {name: kind for name, kind in found.items() if kind is not MISSING}


@lru_cache(maxsize=256)
def _hints_of(thing: Any) -> Mapping[str, Any]:
    return get_type_hints(thing, include_extras=True)


def evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    """Return the type that an annotation means; else ``MISSING``."""

    def holder() -> None:
        """Carry the annotation."""

    # Python resolves texts within annotations only where a function has them.
    holder.__annotations__ = {"it": annotation}
    try:
        return get_type_hints(holder, names, include_extras=True)["it"]
    except Exception:  # noqa: BLE001 - as above
        return MISSING


@attrs.define
class Lookup:
    """Finds values without running code of the user's.

    Attributes:
        function: whose globals and closure are looked in.
        local: names that are bound within it.
    """

    function: Any
    local: frozenset[str] = frozenset()
    names: Mapping[str, Any] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        around = self.function.__globals__
        self.names = ChainMap(_closure(self.function), around, vars(builtins))

    def value(self, node: ast.AST) -> Any:
        """Return what a name, or an attribute of one, stands for; else ``MISSING``."""
        if isinstance(node, ast.Name):
            return MISSING if node.id in self.local else self.names.get(node.id, MISSING)
        if not isinstance(node, ast.Attribute):
            return MISSING
        owner = self.value(node.value)
        if owner is MISSING:
            return MISSING
        found = inspect.getattr_static(owner, node.attr, MISSING)
        if found is MISSING or isinstance(found, property):
            return MISSING
        return getattr(owner, node.attr, MISSING)

    def type_at(self, annotation: ast.expr) -> Any:
        """Return the type that an annotation in the source means; else ``MISSING``."""
        return evaluated(ast.unparse(annotation), dict(self.names))


def _closure(function: Any) -> dict[str, Any]:
    """Return the names of a closure that have a value."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if _has_value(cell)}


def _has_value(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True
