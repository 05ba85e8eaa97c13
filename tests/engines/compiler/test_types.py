"""The types of names that are not declared."""

import enum
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Generic, NewType, TypedDict, TypeVar

import attrs
import msgspec
import pytest

from flowstate.engines.workflow import CompileError
from tests.engines.compiler.driving import compiled

T = TypeVar("T")
UserId = NewType("UserId", int)


class Colour(enum.Enum):
    RED = "red"


class Pair(msgspec.Struct, Generic[T]):
    one: T
    many: list[T]


class Row(TypedDict):
    id: UserId
    size: int


@attrs.define
class Account:
    owner: str
    when: datetime
    rows: dict[str, Row]
    pair: Pair[int]
    colour: Colour = Colour.RED
    parent: "Account | None" = None

    @property
    def age(self) -> timedelta:
        return timedelta()

    def balance(self) -> Decimal:
        return Decimal(1)

    @classmethod
    def made(cls) -> "Account":
        raise NotImplementedError


def account() -> Account:
    raise NotImplementedError


def listed(a: int) -> list[tuple[int, str]]:
    return []


class Caller:
    def __call__(self, _: int) -> bytes:
        return b""

    async def method(self, _: int) -> float:
        return 0.5


caller = Caller()
CITIES = ["Oslo", "Bergen"]
LIMIT = 3
NAMES: dict[str, Any] = {
    "Account": Account,
    "CITIES": CITIES,
    "Colour": Colour,
    "Decimal": Decimal,
    "LIMIT": LIMIT,
    "Pair": Pair,
    "account": account,
    "caller": caller,
    "date": date,
    "datetime": datetime,
    "listed": listed,
    "partial": partial,
    "timedelta": timedelta,
    "typed_partial": partial(listed, 1),
}
ACCOUNT = "it = account()\n"

TYPES: list[tuple[str, Any]] = [
    ("a = 1", int),
    ("a = 1\nif s.n:\n    a = None", int | None),
    ("a = 'x' if s.n else 2", str | int),
    ("a = f'{s.n}'", str),
    ("a = not s.n", bool),
    ("a = -s.n", int),
    ("a = s.n + 1.5", float),
    ("a = s.n / 2", float),
    ("a = s.n // 2", int),
    ("a = 2.0 ** s.n", float),
    ("a = 'x' * 3 + 'y'", str),
    ("a = '%s' % s.n", str),
    ("a = s.n and 'x'", int | str),
    ("a = s.n < 3 <= 4", bool),
    ("a = (b := 3)", int),
    ("a = 0\na += 1.5", int | float),
    ("a = s.xs", list[int]),
    ("a = s.xs[0]", int),
    ("a = s.xs[1:]", list[int]),
    ("a = s.xs + [1.5]", list[int | float]),
    ("a = [1] * 3", list[int]),
    ("a = (1, 'x')", tuple[int, str]),
    ("a = (1, 'x')[1]", str),
    ("a = (*s.xs, 2)", tuple[int, ...]),
    ("a = [1, *s.xs, 'x']", list[int | str]),
    ("a = {1, 2}", set[int]),
    ("a = {1} | {2}", set[int]),
    ("a = {'x': 1} | {'y': 2}", dict[str, int]),
    ("a = {'x': 1}", dict[str, int]),
    ("a = {'x': 1}['x']", int),
    ("a = {'x': 1}.get('x')", int | None),
    ("a = {'x': 1}.get('x', 'y')", int | str),
    ("a = list({'x': 1}.items())", list[tuple[str, int]]),
    ("a = {'x': 1}.popitem()", tuple[str, int]),
    ("a = [v * 2.0 for v in s.xs]", list[float]),
    ("a = {v: str(v) for v in s.xs if v}", dict[int, str]),
    ("a = {v for v, w in zip(s.xs, 'xy')}", set[int]),
    ("a = []\nif s.n:\n    a = [1]", list[int]),
    ("a, b = 1, 'x'", int),
    ("b, *a = 1, 2, 3", list[int]),
    ("(b, [a]), c = (1, ['x']), 3", str),
    ("for a in range(3):\n    pass", int),
    ("for b, a in enumerate('xyz'):\n    pass", str),
    ("for b, (c, a) in zip(s.xs, listed(1)):\n    pass", str),
    ("for a in reversed(CITIES):\n    pass", str),
    ("a = LIMIT", int),
    ("a = CITIES[0]", str),
    ("a = len(s.xs)", int),
    ("a = sorted(s.xs)", list[int]),
    ("a = tuple(s.xs)", tuple[int, ...]),
    ("a = max(s.xs)", int),
    ("a = max(1, 2.5)", int | float),
    ("a = sum([1.5])", float | int),
    ("a = round(2.5)", int),
    ("a = abs(-2.5)", float),
    ("a = str(s.n)", str),
    ("a = 'a b'.split()", list[str]),
    ("a = 'a'.upper().strip().encode()", bytes),
    ("a = 'a'.partition('b')", tuple[str, str, str]),
    ("a = 'a'.startswith('a')", bool),
    ("a = datetime.now() - datetime.now()", timedelta),
    ("a = datetime.now() + timedelta(1)", datetime),
    ("a = date.today().year", int),
    ("a = Decimal(1) * 3", Decimal),
    (ACCOUNT + "a = it", Account),
    (ACCOUNT + "a = it.owner", str),
    (ACCOUNT + "a = it.when.isoformat()", str),
    (ACCOUNT + "a = it.age", timedelta),
    (ACCOUNT + "a = it.balance()", Decimal),
    (ACCOUNT + "a = it.rows['x']['size']", int),
    (ACCOUNT + "a = it.pair.one", int),
    (ACCOUNT + "a = it.pair.many", list[int]),
    (ACCOUNT + "a = it.parent.owner", str),
    (ACCOUNT + "a = it.colour.value", str),
    (ACCOUNT + "a = it.colour", Colour),
    ("a = Colour.RED", Colour),
    ("a = Account.made()", Account),
    ("a = listed(1)", list[tuple[int, str]]),
    ("a = caller(1)", bytes),
    ("def f() -> int:\n    return 1\na = f()\ndel f", int),
    ("a = await step(typed_partial, name='b')", list[tuple[int, str]]),
    ("a = await step(caller.method, 1)", float),
    ("a = await step(caller, 1)", bytes),
    ("match s.n:\n    case int(a):\n        pass", int),
    ("match account():\n    case Account(owner=a):\n        pass", str),
    ("match (1, ['x']):\n    case (b, [*a]):\n        pass", list[str]),
    ("match {'x': 1}:\n    case {'x': a, **b}:\n        pass", int),
    ("match s.n:\n    case (1 | 2) as a:\n        pass", int),
    ("try:\n    pass\nexcept KeyError as e:\n    a = e", KeyError),
]


@pytest.mark.parametrize(("body", "kind"), TYPES, ids=[body for body, _ in TYPES])
def test_the_type_of_a_name_is_known(body: str, kind: Any) -> None:
    code = compiled(f"{body}\nawait step(number, 1)\nlog(s, a)", **NAMES)

    assert code.stops["number"].names["a"] == kind


def untyped():  # type: ignore[no-untyped-def] # noqa: ANN201 - that is the point
    return 1


def numbers() -> Iterator[int]:
    yield 1


UNKNOWN = [
    "a = untyped()",
    "a = untyped() + 1",
    "a = [untyped()]",
    "a = {**{}}",
    "a = (lambda: 1)()",
    "a = next(numbers())",
    "a = 2 ** s.n",
    "a = 'x' - 1",
    "a = 1\nif s.n:\n    a = untyped()",
    "a = [1]\nwhile s.n:\n    a = [a]",
    "with open('x') as f:\n    a = f.read()",
    "a = object",
]


@pytest.mark.parametrize("body", UNKNOWN)
def test_the_type_of_a_name_is_not_guessed(body: str) -> None:
    names: dict[str, Any] = {"untyped": untyped, "numbers": numbers}
    code = compiled(f"{body}\nawait step(number, 1)\nlog(s, a)", **names)

    with pytest.raises(CompileError) as raised:
        _ = code.compiled

    assert {problem.name for problem in raised.value.problems} == {"a"}
