"""Python values that a caller may pass where a text, a number or a mapping is expected."""

import enum
from collections import OrderedDict, UserDict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import msgspec

from flowstate import State, Status, Transition
from flowstate.ground.frozen import FrozenDict

__all__ = ["SECRET", "odd_values"]

SECRET = "s3cret"  # noqa: S105 - it must not come back in an error


class Text(str):
    """A subclass that changes nothing."""

    __slots__ = ()


class Liar(str):
    """A text that answers wrongly about itself."""

    __slots__ = ()

    def __str__(self) -> str:
        return "other"

    def __repr__(self) -> str:
        return "repr"

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 7

    def __len__(self) -> int:
        return 3

    def __contains__(self, part: object) -> bool:
        return False

    def __iter__(self) -> Iterator[str]:
        return iter("lie")

    def encode(self, *_: object, **__: object) -> bytes:
        return b"\xff"

    def isascii(self) -> bool:
        return True

    def strip(self, *_: object) -> str:
        return self


class Kind(enum.StrEnum):
    """A label as applications have them."""

    ORDER = "order"


class OldKind(str, enum.Enum):  # noqa: UP042 - the older way, of which str() differs
    """The same, before there was ``StrEnum``."""

    ORDER = "order"


class Number(enum.IntEnum):
    """A number with a name."""

    ONE = 1


class WholeNumber(int):
    """A subclass that changes nothing."""


class Raising:
    """An object of which nothing can be asked."""

    def _raise(self, *_: object) -> Any:
        raise RuntimeError(SECRET)

    __eq__ = __hash__ = __repr__ = __str__ = __bool__ = __len__ = _raise
    __iter__ = __getitem__ = __contains__ = __lt__ = __index__ = __float__ = _raise


class RaisingText(str):
    """A text of which nothing can be asked but what ``str`` itself says."""

    __slots__ = ()

    def _raise(self, *_: object, **__: object) -> Any:
        raise RuntimeError(SECRET)

    __eq__ = __hash__ = __repr__ = __str__ = __len__ = __iter__ = _raise
    encode = isascii = startswith = __contains__ = __getitem__ = _raise


class OddMapping(Mapping[Any, Any]):
    """A mapping that says one thing and then another."""

    def __init__(self, items: dict[Any, Any], length: int) -> None:
        self._items = items
        self._length = length

    def __getitem__(self, key: object) -> object:
        return self._items[key]

    def __iter__(self) -> Iterator[object]:
        return iter(self._items)

    def __len__(self) -> int:
        return self._length


class RaisingMapping(OddMapping):
    """A mapping that fails in the middle."""

    def __iter__(self) -> Iterator[object]:
        yield "a"
        raise RuntimeError(SECRET)


class OddZone(tzinfo):
    """A time zone that fails."""

    def utcoffset(self, _: datetime | None) -> timedelta | None:
        raise RuntimeError(SECRET)

    def dst(self, _: datetime | None) -> timedelta | None:
        raise RuntimeError(SECRET)

    def tzname(self, _: datetime | None) -> str | None:
        raise RuntimeError(SECRET)


def _deep(kind: type[Any], depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = {"k": value} if kind is dict else [value]
    return value


def _circular() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["k"] = value
    return value


TEXTS: tuple[str, ...] = (
    "",
    "a",
    " ",
    "\0",
    "a\0b",
    "\ud800",
    "a\udfffb",
    "\U0001f600",
    "e\u0301",
    "\u2028\ufeff\uffff",
    "x" * 512,
    "x" * 513,
    "é" * 256,
    "é" * 257,
    "x" * 3_000,
    "x" * 100_000,
    "\"'\\{}%s$1:\n\r\t\x1b",
    "flowstate.recovery.attempt",
    "flowstate.stack.x",
    "null",
    Text("text"),
    Text("\0"),
    Text("x" * 600),
    Liar("liar"),
    Liar("\0"),
    Liar("\ud800"),
    Liar("x" * 600),
    RaisingText("raising"),
    Kind.ORDER,
    OldKind.ORDER,
    Status.ENDED,
)
NUMBERS: tuple[object, ...] = (
    True,
    False,
    0,
    -1,
    1,
    7,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**70,
    -(2**70),
    10**5_000,
    WholeNumber(1),
    Number.ONE,
    0.5,
    1.0,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    Decimal(1),
    Fraction(1, 2),
    1j,
)
TIMES: tuple[object, ...] = (
    datetime(2030, 1, 1),  # noqa: DTZ001 - it is to be refused
    datetime(2030, 1, 1, tzinfo=UTC),
    datetime.min.replace(tzinfo=UTC),
    datetime.max.replace(tzinfo=UTC),
    datetime.min.replace(tzinfo=timezone(timedelta(hours=23))),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-23))),
    datetime(2030, 1, 1, tzinfo=OddZone()),
    datetime(2030, 1, 1, tzinfo=UTC).date(),
    timedelta(0),
    timedelta(-1),
    timedelta.max,
    timedelta(microseconds=1),
)


def _mappings() -> Iterator[object]:
    yield from ({}, {"a": "b"}, {"": ""}, {"a": ""}, {1: "b"}, {"a": 1}, {"a": None}, {None: "b"})
    yield from ({"a": b"b"}, {b"a": "b"}, {"a": {"b": "c"}}, {"a": ["b"]}, {("a",): "b"})
    yield from ({"a": "\0"}, {"\0": "a"}, {"a": "\ud800"}, {"\ud800": "a"}, {"x" * 513: "a"})
    yield {str(number): "x" for number in range(64)}
    yield {str(number): "x" for number in range(65)}
    yield {f"{number}": "x" * 10_000 for number in range(150)}
    yield {Kind.ORDER: OldKind.ORDER, Text("t"): Liar("l")}
    yield {Text("same"): "one", "same": "other"}
    yield FrozenDict({"a": "b"})
    yield MappingProxyType({"a": "b"})
    yield OrderedDict(a="b")
    yield UserDict({"a": "b"})
    yield OddMapping({"a": "b"}, 0)
    yield OddMapping({"a": "b"}, 10**6)
    yield OddMapping({"a": "b"}, -1)
    yield OddMapping({1: 2}, 1)
    yield RaisingMapping({"a": "b"}, 1)
    yield {"a": Raising()}
    yield {"a": _deep(dict, 5_000)}
    yield _circular()


def odd_values() -> list[object]:
    """Return all of them."""
    return [
        None,
        *TEXTS,
        *NUMBERS,
        *TIMES,
        *_mappings(),
        b"",
        b"bytes",
        bytearray(b"bytes"),
        memoryview(b"bytes"),
        [],
        ["a"],
        [{"a": "b"}],
        ("a", "b"),
        (("a", "b"),),
        {"a"},
        frozenset(),
        _deep(list, 5_000),
        iter("ab"),
        (part for part in "ab"),
        range(3),
        str,
        State,
        len,
        lambda: None,
        object(),
        ...,
        NotImplemented,
        msgspec.UNSET,
        msgspec.Raw(b"{"),
        State("a"),
        Transition("a"),
        Raising(),
        Raising,
        ValueError(SECRET),
    ]
