"""Tells where in another version of a document an instance can go on."""

from typing import Any

from msgspec import Struct

from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.documents.validating import kind_of
from flowstate.engines.tasks.pointers import parts_of, pointer_of

__all__ = ["Misfit", "fits"]


class Misfit(Struct, frozen=True):
    """A place has no counterpart in another document.

    Attributes:
        reason: for people.
    """

    reason: str


def fits(old: Document, new: Document, place: str) -> str | Misfit:
    """Return where in a new document a place of an old one is.

    Tasks are found by their names: each in the same list, of the same kind, at any index. All that
    enclose the place must be there, too.

    Args:
        old: in which the instance stands.
        new: to which it is to go.
        place: the JSON pointer of a task, or of a list in one.
    """
    try:
        return _fits(parts_of(place), old.content, new.content)
    except (LookupError, ValueError, TypeError):
        return Misfit(f"{place} is no place of {old.key}")


def _fits(keys: list[str], left: Any, right: Any) -> str | Misfit:
    path: list[str | int] = []
    while keys:
        key = keys.pop(0)
        if not isinstance(left, list):
            left = left[key]
            if key not in right:
                return Misfit(f"there is no {pointer_of([*path, key])}")
            right = right[key]
            path.append(key)
            continue
        name, names = keys.pop(0), [next(iter(each)) for each in right]
        left = left[int(key)][name]
        if name not in names:
            return Misfit(f"there is no {name!r} in {pointer_of(path)}")
        index = names.index(name)
        right = right[index][name]
        path += [index, name]
        if kind_of(left) != kind_of(right):
            return Misfit(f"{pointer_of(path)} is {kind_of(right)}, and was {kind_of(left)}")
    return pointer_of(path)
