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
    ("a = 'x' * 3 + 'y'", str),
    ("a = s.n and 'x'", int | str),
    ("a = s.n < 3 <= 4", bool),
    ("a = (b := 3)", int),
    ("a = s.xs", list[int]),
    ("a = s.xs[0]", int),
    ("a = s.xs[1:]", list[int]),
    ("a = (1, 'x')", tuple[int, str]),
    ("a = (1, 'x')[1]", str),
    ("a = {1, 2}", set[int]),
    ("a = {'x': 1}", dict[str, int]),
    ("a = {'x': 1}['x']", int),
    ("a = list({'x': 1}.items())", list[tuple[str, int]]),
    ("a, b = 1, 'x'", int),
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
    ("a = str(s.n)", str),
    ("a = Decimal(1) * 3", Decimal),
    (ACCOUNT + "a = it", Account),
    (ACCOUNT + "a = it.owner", str),
    (ACCOUNT + "a = it.age", timedelta),
    (ACCOUNT + "a = it.balance()", Decimal),
    (ACCOUNT + "a = it.parent.owner", str),
    (ACCOUNT + "a = it.colour", Colour),
    ("a = Colour.RED", Colour),
    ("a = Account.made()", Account),
    ("a = listed(1)", list[tuple[int, str]]),
    ("a = caller(1)", bytes),
    ("a = await step(typed_partial, name='b')", list[tuple[int, str]]),
    ("a = await step(caller.method, 1)", float),
    ("a = await step(caller, 1)", bytes),
    ("match s.n:\n    case int(a):\n        pass", int),
    ("match account():\n    case Account(owner=a):\n        pass", str),
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
    "a = 2.0 ** s.n",
    "a = '%s' % s.n",
    "a = 0\na += 1.5",
    "a = s.xs + [1.5]",
    "a = [1] * 3",
    "a = (*s.xs, 2)",
    "a = [1, *s.xs, 'x']",
    "a = {1} | {2}",
    "a = {'x': 1} | {'y': 2}",
    "a = {'x': 1}.get('x')",
    "a = {'x': 1}.get('x', 'y')",
    "a = {'x': 1}.popitem()",
    "a = [v * 2.0 for v in s.xs]",
    "a = {v: str(v) for v in s.xs if v}",
    "a = {v for v, w in zip(s.xs, 'xy')}",
    "a = []\nif s.n:\n    a = [1]",
    "b, *a = 1, 2, 3",
    "a = sum([1.5])",
    "a = round(2.5)",
    "a = abs(-2.5)",
    "a = 'a b'.split()",
    "a = 'a'.upper().strip().encode()",
    "a = 'a'.partition('b')",
    "a = 'a'.startswith('a')",
    "a = datetime.now() - datetime.now()",
    "a = datetime.now() + timedelta(1)",
    "a = date.today().year",
    ACCOUNT + "a = it.when.isoformat()",
    ACCOUNT + "a = it.rows['x']['size']",
    ACCOUNT + "a = it.pair.one",
    ACCOUNT + "a = it.pair.many",
    ACCOUNT + "a = it.colour.value",
    "def f() -> int:\n    return 1\na = f()\ndel f",
    "match (1, ['x']):\n    case (b, [*a]):\n        pass",
    "match {'x': 1}:\n    case {'x': a, **b}:\n        pass",
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
    names: dict[str, Any] = {**NAMES, "untyped": untyped, "numbers": numbers}
    code = compiled(f"{body}\nawait step(number, 1)\nlog(s, a)", **names)

    with pytest.raises(CompileError) as raised:
        _ = code.compiled

    assert {problem.name for problem in raised.value.problems} == {"a"}
