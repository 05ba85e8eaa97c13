"""Frozen values: a dict that refuses changes, and the base of structs that can be logged."""

from collections.abc import Mapping
from typing import Any, Never, TypeVar

from msgspec import Struct

from flowstate.errors import InvalidInputError

__all__ = ["EMPTY", "FrozenDict", "Value", "exact", "freeze"]

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")
HIDDEN = frozenset({"bodies", "body", "note"})


class Value(Struct, frozen=True):
    """A struct whose ``repr`` has no secrets: of mappings the keys, of blobs and texts the size.

    Ids, flows and numbers are shown. Fields with default values are left out.
    """

    def __repr__(self) -> str:
        names, defaults = self.__struct_fields__, self.__struct_defaults__
        default = dict(zip(names[len(names) - len(defaults) :], defaults, strict=True))
        values = {name: getattr(self, name) for name in names}
        shown = [
            f"{name}={_size(value) if name in HIDDEN else _shown(value)}"
            for name, value in values.items()
            if name not in default or value is not default[name]
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        keys = map(repr, value) if isinstance(value, dict) else ("...",)
        return f"{{{', '.join(keys)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    return _size(value) if isinstance(value, bytes | bytearray | memoryview) else repr(value)


def _size(value: Any) -> str:
    if isinstance(value, tuple):
        return f"<{len(value)} texts>"
    return f"<{len(value)} {'characters' if isinstance(value, str) else 'bytes'}>"


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
    """
    if type(mapping) is FrozenDict:
        return mapping
    try:
        is_mapping = type(mapping) is dict or isinstance(mapping, Mapping)
        copied = dict(mapping) if is_mapping else {}
        made = {
            key if type(key) is str else exact(key): value if type(value) is str else exact(value)
            for key, value in copied.items()
        }
    except Exception as error:
        reason = f"cannot be read as a mapping: {type(error).__name__}"
        raise InvalidInputError(field, reason) from error
    if not is_mapping:
        raise InvalidInputError(field, f"must be a mapping, not {type(mapping).__name__}")
    if len(made) != len(copied):
        raise InvalidInputError(field, "has two keys with the same text")
    return FrozenDict(made) if made else EMPTY
