"""A dict that refuses changes, so that states can be shared without copying."""

from collections.abc import Mapping
from typing import Any, Never, TypeVar

from flowstate.errors import InvalidInputError

__all__ = ["EMPTY", "FrozenDict", "freeze"]

K = TypeVar("K")
V = TypeVar("V")


class FrozenDict(dict[K, V]):
    """A ``dict`` whose every mutating method raises :class:`TypeError`; hashable by content.

    It is a real dict because lookups, comparison and JSON encoding are then as fast as C.
    """

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __copy__(self) -> "FrozenDict[K, V]":
        return self

    def __deepcopy__(self, memo: Any) -> "FrozenDict[K, V]":
        return self

    def __reduce__(self) -> Any:
        return FrozenDict, (dict(self),)

    def _refuse(self, *_args: object, **_kwargs: object) -> Never:
        raise TypeError("this mapping is frozen; make a changed copy")

    __setitem__ = _refuse
    __delitem__ = _refuse
    __ior__ = _refuse
    clear = _refuse
    pop = _refuse
    popitem = _refuse
    setdefault = _refuse
    update = _refuse


EMPTY: FrozenDict[Any, Any] = FrozenDict()


def freeze(field: str, mapping: Mapping[K, V]) -> FrozenDict[K, V]:
    """Return a frozen copy of ``mapping``, or the one shared empty mapping.

    Raises:
        InvalidInputError: ``mapping`` is not a mapping.
    """
    if not isinstance(mapping, Mapping):
        raise InvalidInputError(field, f"must be a mapping, not {type(mapping).__name__}")
    return FrozenDict(mapping) if mapping else EMPTY
