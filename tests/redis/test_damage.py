"""What cannot be read: it is named, hides nothing else, and nothing is half-written over it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import msgpack
from msgspec.structs import replace
from redis import Redis

from flowstate import CodecError, DamagedRevisionError, State, Status, StoreCorruptError
from flowstate.driver import (
    DamagedDelay,
    DueQuery,
    Heartbeat,
    NewDelay,
    Seen,
    StateQuery,
    Writes,
)
from flowstate.drivers.redis import RedisDriver
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.recovery_rules import RETRY_AFTER
from flowstate.state import Transition
from tests.redis.support import dump, head_of, liveness_of
from tests.redis_servers import RedisLike
from tests.support import commit_one

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
DIGITS = "063082281600000000"
NO_UTF8 = b'{"v":1,"id":"\xff"}'
AT_ONCE = FrozenDict({RETRY_AFTER: "0.001"})
NEXT = Transition("next")
DELAYS, STALLS = DueQuery("delay"), DueQuery("stall")


@pytest.fixture
def client(redis_server: RedisLike) -> Iterator["Redis"]:
    with Redis.from_url(redis_server.url()) as client:
        yield client


@pytest.fixture
def prefix(redis_namespace: str) -> str:
    return f"{{{redis_namespace}}}:"


@pytest.fixture
async def driver(redis_server: RedisLike, redis_namespace: str) -> AsyncIterator[RedisDriver]:
    """Of a store with three states, "0" to "2": each is delayed, and stalls."""
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
        for number in range(3):
            state = State(f"{number}", annotations=AT_ONCE, transition=NEXT)
            delay = NewDelay(state, "next", EMPTY, LONG_AGO, None, commit=True, body="", put=0)
            await commit_one(driver, Writes(f"t{number}", (state,), delays=(delay,)))
        yield driver


def rewrite(client: Any, prefix: str, rev: int, **fields: bytes) -> None:
    """Write one revision again, with other fields; with none of them, remove it."""
    entries = client.xrange(f"{prefix}log")
    client.delete(f"{prefix}log")
    for number, (entry, old) in enumerate(entries, 1):
        if number != rev:
            client.xadd(f"{prefix}log", old, id=entry)
        elif fields:
            client.xadd(f"{prefix}log", {**old, **fields}, id=entry)


async def states_in_pages(driver: RedisDriver, query: StateQuery) -> tuple[list[str], list[int]]:
    ids: list[str] = []
    damaged: list[int] = []
    while True:
        page = await driver.get_states(query)
        ids += [state.id for state in page.states]
        damaged += [each.rev for each in page.damaged]
        if not page.more:
            return ids, damaged
        query = replace(query, after=page.scanned_to)


async def due_in_pages(
    driver: RedisDriver, query: DueQuery
) -> tuple[list[str], list[DamagedDelay]]:
    due: list[str] = []
    damaged: list[DamagedDelay] = []
    while True:
        page = await driver.get_due(query)
        due += [each.state.id for each in page.due]
        damaged += page.damaged
        if not page.more:
            return due, damaged
        query = replace(query, after=page.end)


BODIES = [b"", b"{}", NO_UTF8, b'{"v":9,"id":"1"}', b'{"v":1,"id":"2"}']
FIELDS: list[dict[str, bytes]] = [*({"b": body} for body in BODIES), {"c": b"x"}, {"u": b"x"}, {}]


@pytest.mark.parametrize("limit", [1, 100])
@pytest.mark.parametrize("fields", FIELDS, ids=str)
async def test_a_revision(
    driver: RedisDriver, client: "Redis", prefix: str, fields: dict[str, bytes], limit: int
) -> None:
    rewrite(client, prefix, 2, **fields)
    with pytest.raises(DamagedRevisionError) as caught:
        await driver.get_state("1")
    assert (caught.value.rev, caught.value.id) == (2, "1")
    for query in (StateQuery(limit=limit), StateQuery(latest_only=True, limit=limit)):
        assert await states_in_pages(driver, query) == (["0", "2"], [2])
    for due in (DELAYS, STALLS):
        found, bad = await due_in_pages(driver, replace(due, limit=limit))
        assert found == ["0", "2"]
        assert len(bad) == 1
        assert bad[0].error
    assert (await driver.beat([Heartbeat("1", 2, 60.0, "")])) == [True]


@pytest.mark.parametrize("value", [b"", b"\x92", b"\x91\xa1k", msgpack.encode([1, 2]), b"\x07"])
async def test_the_labels_of_a_revision(
    driver: RedisDriver, client: "Redis", prefix: str, value: bytes
) -> None:
    (state,) = await commit_one(driver, Writes("l", (State("l", labels=FrozenDict({"k": "v"})),)))
    rewrite(client, prefix, state.rev, l=value, r=value)
    (moved,) = await commit_one(driver, Writes("m", (State("l", state.rev),)))
    assert await driver.compact(moved.rev) == 1


HEADS = [
    b"",
    b"\xc1",
    NO_UTF8,
    msgpack.encode([-1, [], None]),
    msgpack.encode([DIGITS, "1", "x", {}]),
    msgpack.encode([DIGITS, "1", 2**62, "next", "", []]),
    msgpack.encode([DIGITS, "1", 9, "next", "", []]),
]


@pytest.mark.parametrize("limit", [1, 100])
@pytest.mark.parametrize("value", HEADS, ids=repr)
async def test_the_head_of_a_delay(
    driver: RedisDriver, client: "Redis", prefix: str, value: bytes, limit: int
) -> None:
    client.hset(f"{prefix}delay_heads", "t1.0", value)
    due, damaged = await due_in_pages(driver, replace(DELAYS, flows=("next",), limit=limit))
    assert due == ["0", "2"]
    assert [(bad.id, bad.due) for bad in damaged] == [("t1.0", LONG_AGO)]
    assert (await liveness_of(driver, "1")).delay_due is None
    await commit_one(driver, Writes("x", (State("1", 2, transition=NEXT),)))
    assert await due_in_pages(driver, DELAYS) == (["0", "2"], [])


@pytest.mark.parametrize("body", [b"", NO_UTF8, b"{}", b'{"v":9,"to":"next"}', b'{"v":1,"to":3}'])
async def test_the_body_of_a_delay(
    driver: RedisDriver, client: "Redis", prefix: str, body: bytes
) -> None:
    """Recovery is not to wait for it."""
    client.hset(f"{prefix}delay_bodies", "t1.0", body)
    due, damaged = await due_in_pages(driver, DELAYS)
    assert due == ["0", "2"]
    assert [(bad.id, bad.state_id, bad.due) for bad in damaged] == [("t1.0", "1", LONG_AGO)]
    found = [await liveness_of(driver, f"{number}") for number in range(3)]
    assert [each.delay_due for each in found] == [LONG_AGO, None, LONG_AGO]


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("query", [DELAYS, DueQuery("delay", flows=("next",)), STALLS])
async def test_places_that_are_none(
    driver: RedisDriver, client: "Redis", prefix: str, query: DueQuery, limit: int
) -> None:
    """Members without a time, of an unknown flow, and of what is not there."""
    members = [
        *(b"00%d" % n for n in range(5)),
        b"",
        b"no time",
        DIGITS.encode() + b"gone",
        DIGITS.encode() + b"\xff\x00",
    ]
    for flow in (b"next", b""):
        client.zadd(f"{prefix}due:{query.kind}:".encode() + flow, dict.fromkeys(members, 0))
    client.zadd(f"{prefix}flows:{query.kind}", {"": 0})
    due, damaged = await due_in_pages(driver, replace(query, limit=limit))
    assert due == ["0", "1", "2"]
    with_time = [bad.due for bad in damaged if bad.due is not None]
    assert set(with_time) == {LONG_AGO}
    assert len(with_time) >= 2
    assert len(damaged) - len(with_time) == 4


@pytest.mark.parametrize("value", [b"", b"\xff", b"1 x note", b"1 1", b"1 1 \xff"])
async def test_a_heartbeat(driver: RedisDriver, client: "Redis", prefix: str, value: bytes) -> None:
    """It is as good as none, or has a note that cannot be read."""
    client.hset(f"{prefix}beats", "0", value)
    assert (await liveness_of(driver, "0")).note in {"", "\ufffd"}
    beats = [Heartbeat(f"{n}", n + 1, 60.0, "fine") for n in range(3)]
    assert await driver.beat(beats) == [True] * 3
    assert (await liveness_of(driver, "0")).note == "fine"


async def test_the_latest_revision_of_a_state(
    driver: RedisDriver, client: "Redis", prefix: str
) -> None:
    client.hset(f"{prefix}latest", "1", "nonsense")
    with pytest.raises(StoreCorruptError):
        await driver.get_state("1")
    assert (await due_in_pages(driver, STALLS))[0] == ["0", "2"]
    batch = [Writes(f"x{n}", checks=((f"{n}", n + 1),)) for n in range(3)]
    verdicts = await driver.commit(batch)
    assert [type(verdict) for verdict in verdicts] == [tuple, StoreCorruptError, tuple]
    assert await driver.compact(10) == 0


@pytest.mark.parametrize("field", ["head", "floor", "time"])
async def test_the_store(driver: RedisDriver, client: "Redis", prefix: str, field: str) -> None:
    client.hset(f"{prefix}meta", field, "x")
    with pytest.raises((StoreCorruptError, CodecError)):
        await (commit_one(driver, Writes("x")) if field == "time" else head_of(driver))


def of_every_kind() -> list[Writes]:
    """Return writes that move what stalls: an end, a revision, and a delay by itself."""
    due = datetime.now(UTC) + timedelta(days=1)
    delay = NewDelay(State("0", 1), "next", EMPTY, due, None, commit=True, body="")
    return [
        Writes("end", (State("0", 1, status=Status.ENDED),)),
        Writes("go", (State("0", 1, transition=NEXT),)),
        Writes("delay", delays=(delay,)),
    ]


@pytest.mark.parametrize("writes", of_every_kind(), ids=lambda writes: writes.token)
@pytest.mark.parametrize("key", ["due:stall:next", "beats"])
async def test_a_commit_and_a_key_of_another_type(
    driver: RedisDriver, client: "Redis", redis_namespace: str, writes: Writes, key: str
) -> None:
    """A script is not rolled back, so it must not even begin."""
    name = f"{{{redis_namespace}}}:{key}"
    client.delete(name)
    client.set(name, "something else")
    before = dump(client, redis_namespace)
    if (writes.token, key) == ("delay", "beats"):  # Which it does not touch.
        await commit_one(driver, writes)
        return
    with pytest.raises(StoreCorruptError):
        await commit_one(driver, writes)
    assert dump(client, redis_namespace) == before


@pytest.mark.parametrize("key", ["latest", "beats", "due:stall:next"])
async def test_a_heartbeat_and_a_key_of_another_type(
    driver: RedisDriver, client: "Redis", redis_namespace: str, key: str
) -> None:
    name = f"{{{redis_namespace}}}:{key}"
    client.delete(name)
    client.set(name, "something else")
    before = dump(client, redis_namespace)
    with pytest.raises(StoreCorruptError):
        await driver.beat([Heartbeat(f"{n}", n + 1, 60.0, "") for n in range(3)])
    assert dump(client, redis_namespace) == before


async def test_news_of_a_damaged_store(
    redis_server: RedisLike,
    redis_namespace: str,
    driver: RedisDriver,
    client: "Redis",
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The tasks that wait get an error, and news go on when it is repaired."""
    prefix = f"{{{redis_namespace}}}:"
    seen = await driver.changed(Seen())
    waiting = asyncio.ensure_future(wait_for_more(driver, seen))
    await asyncio.sleep(0.05)  # reason: it is to wait for the server
    client.hset(f"{prefix}meta", "head", "damaged")
    client.xadd(f"{prefix}alarm", {"": ""})
    with pytest.raises(StoreCorruptError):
        await asyncio.wait_for(waiting, 5.0)
    assert len([record for record in caplog.records if "no news" in record.message]) == 1
    client.hset(f"{prefix}meta", "head", "3")
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as other:
        await commit_one(other, Writes("x", (State("x"),)))
    seen = await asyncio.wait_for(until_head(driver, 4), 5.0)
    assert seen.head == 4


async def wait_for_more(driver: RedisDriver, seen: Seen) -> None:
    while True:
        seen = await driver.changed(seen)


async def until_head(driver: RedisDriver, head: int) -> Seen:
    seen = Seen()
    while seen.head < head:
        with contextlib.suppress(StoreCorruptError):
            seen = await driver.changed(seen)
    return seen
