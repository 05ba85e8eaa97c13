"""Keys that let a message come once, bounds of mailboxes, and what is refused."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from random import Random
from typing import Any

import pytest

from flowstate import (
    CodecError,
    Command,
    Commit,
    Data,
    DataRef,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    InvalidCommandError,
    InvalidInputError,
    MailboxFullError,
    Pause,
    Receive,
    Stack,
    State,
    StateContext,
    Transit,
    UnknownFlowError,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.mailboxes import seen_keys
from flowstate.mailboxes.mailbox import MAILBOX_PREFIX, RECEIVE, Mailbox, mailbox_id
from flowstate.turns import turns_of
from tests.receivers import BOX, begun, latest, received, receiving, waiting
from tests.scripted import Scripted

NO_NAMES: Any = [5]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> Scripted:
    return Scripted(MemoryDriver(clock))


@pytest.fixture
def got() -> list[tuple[str, Any]]:
    """Names and values of the messages with which the flow ``next`` was entered."""
    return []


@pytest.fixture
def flows(got: list[tuple[str, Any]]) -> FlowRegistry:
    return receiving(got)


@pytest.fixture
async def engine(driver: Scripted, flows: FlowRegistry, clock: FakeClock) -> AsyncIterator[Engine]:
    async with Engine(driver, flows, clock=clock, rng=Random(1)) as engine:
        yield engine
        assert turns_of(driver.store_id)._lines == {}


# Keys


async def test_a_key_lets_a_message_come_once(engine: Engine) -> None:
    await begun(engine)
    assert await engine.signal("a", "m", 1, key="k")
    assert not await engine.signal("a", "m", 1, key="k")
    assert not await engine.signal("a", "n", 2, key="k")
    assert await received(engine) == [("m", 1)]
    assert not await engine.signal("a", "m", 1, key="k")
    assert await engine.signal("a", "m", 3, key="l")  # Delivered: it waits.
    assert not await engine.signal("a", "m", 3, key="l")
    ctx = await latest(engine)
    assert ctx.get(int, "m") == 3
    await engine.do(Commit(End(ctx)))
    assert not await engine.signal("a", "m", 1, key="k")  # It had got it before it ended.


async def test_one_key_at_the_same_time_lets_one_message_through(engine: Engine) -> None:
    await begun(engine)
    sent = [engine.signal("a", "m", value, key="k") for value in range(10)]
    assert sorted(await asyncio.gather(*sent)) == [False] * 9 + [True]
    assert len(await received(engine)) == 1


async def test_the_newest_keys_are_known_and_the_oldest_are_not(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seen_keys, "PART", 4 * 12)
    monkeypatch.setattr("flowstate.mailboxes.receiving.PARTS", 3)
    await waiting(engine)
    for number in range(30):
        assert await engine.signal("a", "m", number, key=f"key {number}")
        await received(engine)
    box = await engine.get_state(BOX)
    assert sorted(box.data) == ["keys.00000004", "keys.00000005", "keys.00000006"]
    await engine.compact(await engine.head())
    known = seen_keys.SeenKeys(engine.driver.get_data)
    box = await engine.get_state(BOX)
    found = [n for n in range(30) if await known.have(seen_keys.token_of(f"key {n}"), box)]
    assert found == list(range(16, 30))  # At least as many as the parts hold.
    assert await engine.signal("a", "m", 0, key="key 0")
    assert not await engine.signal("a", "m", 29, key="key 29")


async def test_ten_thousand_keys_are_known_and_cost_the_last_of_them_no_more(
    engine: Engine,
) -> None:
    def state(number: int) -> State:
        data = {f"keys.{part:08}": DataRef(1, f"{part}") for part in range(number // 250)}
        keys = "".join(tokens[number - number % 250 : number])
        return Mailbox(keys=keys).stored_in(State(BOX, data=data))

    async def get_data(checksum: str) -> Data:
        reads.append(checksum)
        part = int(checksum)
        return Data("".join(tokens[part * 250 : part * 250 + 250]).encode())

    tokens = [seen_keys.token_of(f"{number}") for number in range(10_100)]
    reads: list[str] = []
    known = seen_keys.SeenKeys(get_data)
    full = state(10_000)
    assert all([await known.have(token, full) for token in tokens[:10_000]])
    assert not any([await known.have(token, full) for token in tokens[10_000:]])
    assert sorted(map(int, reads)) == list(range(40))  # Each part once.
    assert len(set(tokens)) == len(tokens)


async def test_a_key_is_not_found_across_the_borders_of_two_others() -> None:
    mailbox = Mailbox(keys="abcdefghijkl" + "mnopqrstuvwx").stored_in(State(BOX))
    known = seen_keys.SeenKeys(MemoryDriver().get_data)
    assert await known.have("abcdefghijkl", mailbox)
    assert await known.have("mnopqrstuvwx", mailbox)
    assert not await known.have("ghijklmnopqr", mailbox)


# Bounds


async def test_a_mailbox_holds_a_thousand_messages(engine: Engine) -> None:
    await begun(engine)
    for value in range(1_000):
        await engine.signal("a", "m", value)
    with pytest.raises(MailboxFullError, match="'a'") as full:
        await engine.signal("a", "m", 1_000)
    assert full.value.id == "a"
    await engine.do(Commit(Receive(await latest(engine), "m", to="elsewhere")))
    assert await engine.signal("a", "m", 1_000)
    assert [value for _, value in await received(engine)] == list(range(1, 1_001))


async def test_a_mailbox_holds_as_many_bytes_as_a_state(engine: Engine) -> None:
    await begun(engine)
    large = "x" * 300_000
    for _ in range(3):
        await engine.signal("a", "m", large)
    with pytest.raises(MailboxFullError):
        await engine.signal("a", "m", large)
    assert await engine.signal("a", "m", "small")
    assert len(await received(engine)) == 4


@pytest.mark.parametrize("is_waiting", [False, True])
async def test_a_value_is_at_most_as_large_as_the_values_of_a_state(
    engine: Engine, is_waiting: bool
) -> None:
    await (waiting if is_waiting else begun)(engine)
    head = await engine.head()
    with pytest.raises(InvalidInputError) as caught:
        await engine.signal("a", "m", "x" * 10_000_000)
    assert (caught.value.field, await engine.head()) == ("values['m']", head)


async def test_a_state_without_room_for_the_value_refuses_it(engine: Engine) -> None:
    ctx = await begun(engine)
    ctx.put("x" * 900_000)
    await engine.do(Commit(Receive(ctx, "m", to="elsewhere")))
    with pytest.raises(InvalidInputError) as caught:
        await engine.signal("a", "m", "x" * 200_000)
    assert caught.value.field == "state.values"
    assert await engine.signal("a", "m", "small")


async def test_an_id_of_any_length_has_a_mailbox(engine: Engine) -> None:
    for id in ("i" * 494, "i" * 495, "i" * 512, "ö" * 256):
        await begun(engine, id)
        assert await engine.signal(id, "m", id)
        assert await received(engine, id=id) == [("m", id)]
        assert len(mailbox_id(id).encode()) <= 512
    assert mailbox_id("ö" * 256) != mailbox_id("ü" * 256)
    # No id names the mailbox of another one.
    assert mailbox_id(mailbox_id("i" * 512).removeprefix(MAILBOX_PREFIX)) != mailbox_id("i" * 512)


# Refused


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"id": ""}, "id"),
        ({"id": None}, "id"),
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
        ({"name": "a\0"}, "name"),
        ({"key": ""}, "key"),
        ({"key": "\ud800"}, "key"),
        ({"key": 5}, "key"),
        ({"early": 1}, "early"),
        ({"value": math.nan}, "values['m']"),
        ({"value": "\0"}, "values['m']"),
        ({"value": object()}, "values['m']"),
    ],
)
async def test_what_cannot_be_sent_is_refused(
    engine: Engine, arguments: dict[str, Any], field: str
) -> None:
    await waiting(engine)
    head = await engine.head()
    with pytest.raises(InvalidInputError) as caught:
        await engine.signal(**{"id": "a", "name": "m", **arguments})
    assert (caught.value.field, await engine.head()) == (field, head)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda ctx: [Receive(ctx, to="next")],
            InvalidCommandError,
            "names: must be from 1 to 100, not 0",
        ),
        (
            lambda ctx: [Receive(ctx, *map(str, range(101)), to="next")],
            InvalidCommandError,
            "names: must be from 1 to 100, not 101",
        ),
        (lambda ctx: [Receive(ctx, "", to="next")], InvalidInputError, "names: must not be empty"),
        (
            lambda ctx: [Receive(ctx, *NO_NAMES, to="next")],
            InvalidInputError,
            "names: must be a string",
        ),
        (lambda ctx: [Receive(ctx, "m", to="")], InvalidInputError, "to: must not be empty"),
        (lambda ctx: [Receive(ctx, "m", to="unknown")], UnknownFlowError, "unknown"),
        (lambda ctx: [Receive(ctx.current, "m", to="next")], InvalidInputError, "ctx: must be"),
        (
            lambda ctx: [Receive(ctx, "m", to="next"), Receive(ctx, "n", to="next")],
            InvalidCommandError,
            "'a' is moved on after its Receive",
        ),
        (
            lambda ctx: [Receive(ctx, "m", to="next"), Transit(ctx, "next")],
            InvalidCommandError,
            "'a' is moved on after its Receive",
        ),
        (
            lambda ctx: [Receive(ctx, "m", to="next"), Receive(ctx.copy(), "m", to="next")],
            InvalidCommandError,
            "changes one state through two contexts",
        ),
        (
            lambda ctx: [Stack(StateContext(State("b")), ctx, "x"), Receive(ctx, "m", to="next")],
            InvalidCommandError,
            "'a' is changed after its Stack",
        ),
    ],
)
@pytest.mark.parametrize("kept", [0, 3])
async def test_what_cannot_be_received_is_refused_and_takes_nothing(
    engine: Engine,
    make: Callable[[StateContext], list[Command[Any]]],
    error: type[Exception],
    text: str,
    kept: int,
) -> None:
    ctx = await begun(engine)
    for value in range(kept):
        await engine.signal("a", "m", value)
        await engine.signal("a", "n", value)
    before, head = ctx.current, await engine.head()
    with pytest.raises(error, match=text):
        await engine.do(Commit(*make(ctx)))
    assert (ctx.current, await engine.head()) == (before, head)


async def test_a_mailbox_that_cannot_be_read_is_named(engine: Engine) -> None:
    await begun(engine)
    box = StateContext(State(BOX))
    box.put([1, 2], "mailbox")
    await engine.do(Commit(Pause(box)))
    with pytest.raises(CodecError, match=r"mailbox .* cannot be read"):
        await engine.signal("a", "m", 1)
    with pytest.raises(CodecError, match=r"mailbox .* cannot be read"):
        await received(engine)


async def test_what_a_state_waits_for_and_cannot_be_read_is_named(engine: Engine) -> None:
    ctx = await begun(engine)
    await engine.do(Commit(Pause(ctx, {RECEIVE: "[]"})))
    with pytest.raises(CodecError, match="what 'a' waits for cannot be read"):
        await engine.signal("a", "m", 1)
