"""Types of values: joined, taken apart, and judged whether a store can hold them."""

import types
from collections import deque
from collections.abc import (
    Awaitable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    MutableSequence,
    Sequence,
)
from collections.abc import (
    Set as AbstractSet,
)
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

__all__ = [
    "NOTHING",
    "UNKNOWN",
    "awaited",
    "bare",
    "item_of",
    "join",
    "made",
    "made_tuple",
    "members",
    "named",
    "reason_against",
    "without_none",
]


class _Special:
    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


UNKNOWN: Any = _Special("UNKNOWN")  # It cannot be known.
NOTHING: Any = _Special("NOTHING")  # It is not known yet.
SINGLE = (list, set, frozenset, deque, Sequence, MutableSequence, AbstractSet, Iterator, Iterable)


def bare(kind: Any) -> Any:
    """Return a type without ``Annotated``, and of an alias what it stands for."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return getattr(kind, "__value__", kind)


def members(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type."""
    kind = bare(kind)
    return get_args(kind) if get_origin(kind) in {Union, types.UnionType} else (kind,)


def join(*kinds: Any) -> Any:
    """Return the type of a value that has one of some types."""
    found: list[Any] = []
    for kind in kinds:
        if kind is UNKNOWN:
            return UNKNOWN
        if kind is not NOTHING:
            found += [each for each in members(kind) if each not in found]
    return Union[tuple(found)] if found else NOTHING  # noqa: UP007 - made at run time


def without_none(kind: Any) -> Any:
    """Return a type without ``None``."""
    if kind is UNKNOWN or kind is NOTHING:
        return kind
    return join(*(each for each in members(kind) if each is not type(None)))


def item_of(kind: Any) -> Any:
    """Return the type of what going over a value gives."""
    if kind is NOTHING or kind is UNKNOWN:
        return kind
    items = [_item_of(each) for each in members(without_none(kind))]  # None has no items.
    return items[0] if len(items) == 1 else UNKNOWN


def _item_of(kind: Any) -> Any:
    origin, args = get_origin(kind) or kind, get_args(kind)
    if origin is tuple and args:
        return join(*(each for each in args if each is not Ellipsis))
    if origin in SINGLE or origin in {dict, Mapping}:
        return args[0] if args else UNKNOWN
    return {str: str, range: int, bytes: int}.get(origin, UNKNOWN)


def made(base: Any, item: Any) -> Any:
    """Return the type of a collection of items."""
    if item in (UNKNOWN, NOTHING):
        return item
    return tuple[item, ...] if base is tuple else base[item]


def made_tuple(kinds: list[Any]) -> Any:
    """Return the type of a tuple of values of some types."""
    for special in (UNKNOWN, NOTHING):
        if special in kinds:
            return special
    return tuple[tuple(kinds)]  # type: ignore[misc] # made at run time


def awaited(kind: Any) -> Any:
    """Return the type of what awaiting a value gives, or the type itself."""
    if get_origin(kind) in {Awaitable, Coroutine}:
        return get_args(kind)[-1]
    return kind


def named(kind: Any) -> str:
    """Return a type as people write it."""
    return kind.__name__ if type(kind) is type else str(kind).replace("typing.", "")


@lru_cache(maxsize=512)
def _reason_against(kind: Any) -> str:
    try:
        msgspec.json.Decoder(kind)
        return _refused(msgspec.inspect.type_info(kind))
    except Exception as error:  # noqa: BLE001 - classes of the user's are looked into
        return str(error)


def reason_against(kind: Any) -> str:
    """Return why values of a type cannot be stored; empty if they can."""
    if any(isinstance(each, TypeVar) for each in _parts(kind)):
        return "a type variable"
    try:
        return _reason_against(kind)
    except TypeError:
        return "a type that cannot be hashed"


def _parts(kind: Any) -> Iterator[Any]:
    yield kind
    if get_origin(kind) is not Literal:
        for each in get_args(kind):
            yield from _parts(each)


def _refused(info: msgspec.inspect.Type) -> str:
    """Return what in a type cannot be decoded."""
    if isinstance(info, msgspec.inspect.CustomType):
        if isinstance(info.cls, type) and issubclass(info.cls, BaseException):
            return ""
        return f"{named(info.cls)} is no type of JSON"
    if isinstance(info, msgspec.inspect.UnionType):
        return next(filter(None, map(_refused, info.types)), "")
    inner = [getattr(info, name, None) for name in ("item_type", "key_type", "value_type")]
    inner += getattr(info, "item_types", ())
    return next(filter(None, (_refused(each) for each in inner if each is not None)), "")
