"""How each loop with a stop keeps its place."""

import ast
from collections import deque
from collections.abc import Mapping, MutableSequence, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, get_origin

import attrs

from flowstate.engines.workflow.compiler.errors import Problems
from flowstate.engines.workflow.compiler.infer import Inference
from flowstate.engines.workflow.compiler.kinds import (
    UNKNOWN,
    item_of,
    made,
    members,
    reason_against,
    without_none,
)
from flowstate.engines.workflow.compiler.scope import names_of, path_of
from flowstate.engines.workflow.compiler.stops import Stops

__all__ = ["LoopKind", "kind_of_loop", "loops_of"]

ABSTRACT = (Sequence, MutableSequence, AbstractSet, Mapping)
FINITE = (list, tuple, set, frozenset, dict, str, bytes, range, deque, *ABSTRACT)
INDEXED = (list, tuple, str)
ITERATES = {"enumerate", "zip", "reversed", "items", "keys", "values"}


@attrs.frozen
class LoopKind:
    """What a loop stores.

    Attributes:
        stores: its position alone, that of a ``range``, or all items with the position.
        items: the type of the list of all items.
    """

    stores: Literal["position", "range", "items"]
    items: Any = None


def loops_of(
    node: ast.AsyncFunctionDef, stops: Stops, infer: Inference, problems: Problems
) -> dict[ast.For, LoopKind]:
    """Return the loops that have stops within."""
    loops = (each for each in ast.walk(node) if isinstance(each, ast.For))
    return {each: kind_of_loop(each, infer, problems) for each in loops if stops.below(*each.body)}


def kind_of_loop(node: ast.For, infer: Inference, problems: Problems) -> LoopKind:
    """Return what a loop stores, and add it to the problems if that cannot be told."""
    if _is_range(node.iter, infer):
        return LoopKind("range")
    kind = without_none(infer.of(node.iter))
    origins = [get_origin(each) or each for each in members(kind)]
    path = path_of(node.iter)
    # What is bound again within the loop is another object than the one that it goes over.
    is_kept = path and not infer.is_property(node.iter) and not _is_rebound(path, node)
    if is_kept and all(each in INDEXED for each in origins):
        return LoopKind("position")
    item = item_of(kind)
    text = ast.unparse(node.iter)
    if item is UNKNOWN or not (all(each in FINITE for each in origins) or _iterates(node.iter)):
        reason = "the loop has a stop, and it is not known to go over a list"
        fix = "go over a name with a type: items: list[...] = list(...)"
        problems.add(node.iter, text, reason, fix)
    elif reason := reason_against(made(list, item)):
        problems.add(
            node.iter, text, f"its items cannot be stored: {reason}", "go over other items"
        )
    return LoopKind("items", list[Any] if item is UNKNOWN else made(list, item))


def _is_range(node: ast.expr, infer: Inference) -> bool:
    return isinstance(node, ast.Call) and infer.lookup.value(node.func) is range


def _iterates(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    return name in ITERATES


def _is_rebound(path: tuple[str, ...], loop: ast.For) -> bool:
    """Return whether a loop binds a name, or assigns to an attribute, of what it goes over."""
    if path[0] in names_of(loop.target, *loop.body).binds:
        return True
    paths = [
        path_of(each)
        for each in ast.walk(loop)
        if isinstance(each, ast.Attribute) and not isinstance(each.ctx, ast.Load)
    ]
    return any(each == path[: len(each)] for each in paths if each)
