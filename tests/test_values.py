"""Typed values: what JSON they become, what is refused, and what is said when one does not fit."""

import dataclasses
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, tzinfo
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from flowstate import (
    CodecError,
    Commit,
    End,
    Engine,
    FlowRegistry,
    InvalidInputError,
    Pause,
    Put,
    State,
    StateContext,
    Transit,
    ValueDecodeError,
    ValueNotFoundError,
)
from flowstate.codec import decode_state, encode_body
from flowstate.drivers.memory import MemoryDriver
from flowstate.ground.frozen import FrozenDict
from flowstate.ground.limits import MAX_VALUES_BYTES
from flowstate.testcases.support import end
from flowstate.values import get_value, is_json, with_value, without_value

T = TypeVar("T")
OF = ("a", 7)


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    flows = FlowRegistry()
    flows.set("work", end)
    async with Engine(MemoryDriver(), flows) as engine:
        yield engine


def get(raw: bytes, kind: Any) -> Any:
    return get_value({"value": Raw(raw)}, OF, kind, "value", msgspec.UNSET)


# What can be stored


@pytest.mark.parametrize(
    "raw",
    [b"1", b"null", b'""', b"[1,2]", b'{"a":{}}', b'"\\\\u0000"', b'"\\\\\\\\u0000"'],
)
def test_json_that_is_stored(raw: bytes) -> None:
    assert is_json(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b" 1",
        b"1\n",
        b"1, 2",
        b"1]",
        b"],[",
        b"nul",
        b'"\\u0000"',
        b'"\\\\\\u0000"',
        b'{"\\u0000":1}',
        b'"\xff"',
        b"1e400",
        b"[" * 5_000 + b"]" * 5_000,
        b"[" * 501 + b"]" * 501,
        b'{"a":' * 501 + b"1" + b"}" * 501,
    ],
)
def test_json_that_no_store_is_given(raw: bytes) -> None:
    assert not is_json(raw)


def test_brackets_in_texts_are_not_depth() -> None:
    assert is_json(b'["' + b"[{" * 600 + b'"]')
    assert is_json(b'["\\"' + b"[" * 600 + b'\\\\",' + b"[]," * 600 + b"[]]")


@pytest.mark.parametrize("depth", [1, 101, 500])
def test_depth_up_to_the_bound_is_stored(depth: int) -> None:
    assert is_json(b"[" * depth + b"]" * depth)


def test_many_values_next_to_each_other_are_not_deep() -> None:
    row = b'{"a":[1,"]}\\"[{",{}]},'

    assert is_json(b"[" + row * 2_000 + b"1]")
    assert not is_json(b"[" + row * 2_000 + b"[" * 501 + b"]" * 501 + b"]")


def test_json_is_stored_as_it_is() -> None:
    raw = b'{"a":null,"b":[1.5,null]}'

    assert bytes(with_value({}, "value", Raw(raw))["value"]) == raw


def test_json_within_a_value_is_stored_as_it_is() -> None:
    raw = Raw(b'{"a":null}')

    assert bytes(with_value({}, "value", {"b": [raw]})["value"]) == b'{"b":[{"a":null}]}'
    with pytest.raises(InvalidInputError, match="NaN"):
        with_value({}, "value", [raw, float("nan")])


def test_a_value_may_look_like_what_is_refused() -> None:
    for text in ("\\u0000", "\\\\u0000", "null", "NaN", "u0000"):
        values = with_value(FrozenDict(), "value", {"null": [text, None]})
        found = get_value(values, OF, Any, "value", msgspec.UNSET)
        assert found == {"null": [text, None]}


def test_numbers_that_json_lacks_are_found_wherever_they_are() -> None:
    class Point(msgspec.Struct):
        x: float | None

    @dataclasses.dataclass
    class Line:
        points: tuple[Point, ...]

    for value in (
        float("nan"),
        [None, {"a": float("inf")}],
        Line((Point(None), Point(float("-inf")))),
        {"a": {1.5, float("nan")}},
        frozenset({float("nan")}),
    ):
        with pytest.raises(InvalidInputError, match=r"^values\['x'\]: must not contain NaN"):
            with_value({}, "x", value)
    assert bytes(with_value({}, "x", [None, Line((Point(None), Point(1.5)))])["x"])


@pytest.mark.parametrize("size", [MAX_VALUES_BYTES, 10 * MAX_VALUES_BYTES])
def test_the_bound_holds_for_all_values_together(size: int) -> None:
    fits = with_value({}, "a", "x" * (MAX_VALUES_BYTES - 3))
    assert sum(len(name) + len(bytes(raw)) for name, raw in fits.items()) == MAX_VALUES_BYTES
    with pytest.raises(InvalidInputError, match=r"^values\['b'\]: "):
        with_value(fits, "b", "x" * size)
    with pytest.raises(InvalidInputError, match=r"^values\['a'\]: "):
        with_value(fits, "a", "x" * size)


def test_values_that_stay_the_same_are_the_same_mapping() -> None:
    values = with_value({}, "a", {"b": 1})

    assert with_value(values, "a", {"b": 1}) is values
    assert without_value(values, "b") is values
    assert without_value(values, "a") == {}
    assert with_value(values, "a", {"b": True}) != values


class LoudError(Exception):
    """Of a user's class."""


class OddZone(tzinfo):
    """Raises where it is read."""

    def utcoffset(self, _: datetime | None) -> timedelta:
        raise LoudError("secret" * 1_000)


def test_what_a_class_of_the_user_raises_is_named() -> None:
    with pytest.raises(InvalidInputError) as caught:
        with_value({}, "odd", [datetime(2030, 1, 1, tzinfo=OddZone())])  # type: ignore[abstract]
    assert caught.value.field == "values['odd']"
    assert caught.value.reason == "cannot be stored as JSON: LoudError"
    assert isinstance(caught.value.__cause__, LoudError)


# What is read back


class Item(msgspec.Struct):
    """Has a place of its own in an error."""

    price: int


@pytest.mark.parametrize(
    ("raw", "kind", "path"),
    [
        (b'"1"', int, "$"),
        (b'[{"price":1},{"price":"x"}]', list[Item], "$[1].price"),
        (b'{"a":[{"price":null}]}', dict[str, list[Item]], "$[...][0].price"),
        (b"{}", Item, "$"),
        (b'{"price":1.5}', Item, "$.price"),
        (b"null", str, "$"),
        (b'"x"', Annotated[str, msgspec.Meta(min_length=2)], "$"),
    ],
)
def test_an_error_says_where_the_value_does_not_fit(raw: bytes, kind: Any, path: str) -> None:
    with pytest.raises(ValueDecodeError) as caught:
        get(raw, kind)
    error = caught.value
    assert (error.id, error.rev, error.name, error.path) == ("a", 7, "value", path)
    assert isinstance(error, CodecError)
    assert str(error).count(path) == 1
    assert " - at `" not in str(error)


class Newer(msgspec.Struct, Generic[T]):
    """Reads what an older version has stored, as far as it knows that."""

    items: list[T]

    @classmethod
    def __flowstate_upgrade__(cls, old: Any) -> Any:
        """Return the new form."""
        if old == "loud":
            raise LoudError("x" * 1_000_000)
        if old == "odd":
            return object()
        return {"items": old}


def test_a_type_upgrades_what_it_no_longer_decodes() -> None:
    assert get(b'{"items":[1]}', Newer[int]) == Newer([1])
    assert get(b"[1,2]", Newer[int]) == Newer([1, 2])
    assert get(b'["1"]', Newer[str]) == Newer(["1"])


@pytest.mark.parametrize(
    ("raw", "path", "reason"),
    [
        (b'["x"]', "$.items[0]", "Expected `int`, got `str`"),
        (b'"loud"', "$", "LoudError"),
        (b'"odd"', "$", "TypeError"),
    ],
)
def test_an_upgrade_that_does_not_fit_is_named(raw: bytes, path: str, reason: str) -> None:
    with pytest.raises(ValueDecodeError) as caught:
        get(raw, Newer[int])
    assert caught.value.path == path
    assert str(caught.value).endswith(f"cannot be decoded, at {path}: {reason}")


def test_an_attribute_that_is_no_function_upgrades_nothing() -> None:
    class Odd(msgspec.Struct):
        a: int
        __flowstate_upgrade__ = 5

    with pytest.raises(ValueDecodeError):
        get(b"1", Odd)


def test_what_a_constructor_raises_is_named() -> None:
    @dataclasses.dataclass
    class Strict:
        a: int

        def __post_init__(self) -> None:
            raise LoudError

    with pytest.raises(ValueDecodeError, match=r"LoudError$"):
        get(b'{"a":1}', Strict)


@pytest.mark.parametrize("kind", [int | str | dict[str, int] | Item, 5, "int", [int]])
def test_what_is_no_type_is_refused(kind: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^kind: "):
        get(b"1", kind)


# In states and contexts


async def test_a_commit_of_a_step_stores_the_values(engine: Engine) -> None:
    ctx = StateContext(State("a"))
    ctx.put(1)
    await engine.do(Commit(Transit(ctx, "work")))
    known = ctx.current
    ctx.put(1)
    assert ctx.current is known
    await engine.do(Commit(Transit(ctx, "work")))
    assert ctx.committed.values is known.values
    ctx.put(2)
    other = StateContext(State("b"))
    await engine.do(Commit(Pause(ctx), Transit(other, "work")))
    state = await engine.get_state("a")
    assert (state.get(int), state.rev, other.committed.rev) == (2, 3, 4)


async def test_a_state_that_was_committed_and_one_that_was_not_say_so(engine: Engine) -> None:
    ctx = StateContext(State("a"))
    with pytest.raises(ValueNotFoundError, match="'a' has no value 'x' at revision 0"):
        ctx.get(int, "x")
    await engine.do(Commit(End(ctx)))
    with pytest.raises(ValueNotFoundError, match="'a' has no value 'value' at revision 1"):
        (await engine.get_state("a")).get(int)
    assert ctx.get(int, default=None) is None
    assert ctx.get(int, "x", "none") == "none"


async def test_assigned_values_are_checked(engine: Engine) -> None:
    ctx = StateContext(State("a"))
    await engine.do(Commit(Transit(ctx, "work")))
    for values in (
        None,
        "ab",
        {"a": None},
        {"a": 1},
        {"a": Raw(b"")},
        {"": Raw(b"1")},
        {1: Raw(b"1")},
    ):
        ctx.current = replace(ctx.current, values=values)
        with pytest.raises(InvalidInputError, match=r"^state\.values"):
            await engine.do(Commit(Put(ctx)))
    ctx.current = replace(ctx.current, values={"a": Raw(b"1")})
    ctx.put(2, "b")
    await engine.do(Commit(Put(ctx)))
    assert (ctx.get(int, "a"), ctx.get(int, "b")) == (1, 2)


def test_values_are_part_of_the_stored_form() -> None:
    ctx = StateContext(State("a"))
    ctx.put({"b": [1, None]})
    body = encode_body(ctx.current)

    assert body == '{"v":1,"id":"a","values":{"value":{"b":[1,null]}}}'
    assert decode_state(body) == ctx.current
    assert "b" not in repr(ctx.current)
