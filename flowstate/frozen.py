"""A dict that refuses changes, so that states can be shared without copying."""

from collections.abc import Mapping
from typing import Any, Never, TypeVar

from flowstate.errors import InvalidInputError

__all__ = ["EMPTY", "FrozenDict", "exact", "freeze"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")


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


def exact(value: T) -> T:
    """Return an instance of a subclass of ``str``, also of an enum, as an exact ``str``.

    Anything else is returned as it is. No method of the subclass is called.
    """
    if type(value) is not str and issubclass(type(value), str):
        return str.__str__(value)  # type: ignore[return-value]
    return value


def freeze(field: str, mapping: Mapping[K, V]) -> FrozenDict[K, V]:
    """Return a frozen copy of ``mapping``, or the one shared empty mapping.

    Keys and values of subclasses of ``str`` become exact.

    Raises:
        InvalidInputError: ``mapping`` is not a mapping, or cannot be read as one.
    """
    if type(mapping) is FrozenDict:
        return mapping
    try:
        if not isinstance(mapping, Mapping):
            raise InvalidInputError(field, f"must be a mapping, not {type(mapping).__name__}")
        copied = dict(mapping)
    except InvalidInputError:
        raise
    except Exception as error:
        reason = f"cannot be read as a mapping: {type(error).__name__}"
        raise InvalidInputError(field, reason) from error
    if not copied:
        return EMPTY
    for key, value in copied.items():
        if type(key) is not str or type(value) is not str:
            return _exact(field, copied)
    return FrozenDict(copied)


def _exact(field: str, mapping: dict[K, V]) -> FrozenDict[K, V]:
    try:
        made = FrozenDict({exact(key): exact(value) for key, value in mapping.items()})
    except Exception as error:
        reason = f"cannot be read as a mapping: {type(error).__name__}"
        raise InvalidInputError(field, reason) from error
    if len(made) != len(mapping):
        raise InvalidInputError(field, "has two keys with the same text")
    return made
