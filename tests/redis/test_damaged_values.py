"""Values that cannot be read: the declared errors, and the others are read as ever."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from msgspec import msgpack
from redis import Redis

from flowstate import CodecError, CommitUnknownError, State
from flowstate.driver import DelayQuery as Query
from flowstate.driver import Driver, NewDelay, StateQuery, Writes
from flowstate.drivers.redis import RedisDriver
from flowstate.frozen import EMPTY
from tests.redis_servers import RedisLike
from tests.support import put

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
DIGITS = "063082281600000000"
NO_UTF8 = b'{"v":1,"id":"\xff"}'


@pytest.fixture
def client(redis_server: RedisLike) -> Iterator["Redis"]:
    with Redis.from_url(redis_server.url()) as client:
        yield client


@pytest.fixture
async def driver(redis_server: RedisLike, redis_namespace: str) -> AsyncIterator[RedisDriver]:
    """Of a store with three delayed states, "0" to "2"."""
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
        for number in range(3):
            state = State(f"{number}")
            delay = NewDelay(state, "next", EMPTY, LONG_AGO, None, commit=True, put=0)
            await driver.commit([Writes(f"t{number}", (state,), delays=(delay,))])
        yield driver


def damage_log(client: Any, namespace: str, **fields: bytes) -> None:
    """Write the second revision again, with other fields."""
    log = f"{{{namespace}}}:log"
    entries = client.xrange(log)
    client.delete(log)
    for number, (entry, old) in enumerate(entries, 1):
        client.xadd(log, {**old, **(fields if number == 2 else {})}, id=entry)


@pytest.mark.parametrize("fields", [{"b": NO_UTF8}, {"b": b""}, {"c": b"x"}, {"u": b"x"}], ids=str)
async def test_a_revision(
    driver: Driver, client: "Redis", redis_namespace: str, fields: dict[str, bytes]
) -> None:
    damage_log(client, redis_namespace, **fields)
    with pytest.raises(CodecError):
        await driver.get_state("1")
    with pytest.raises(CodecError):
        await driver.get_states(StateQuery())
    page = await driver.get_delayed(Query(limit=2))
    assert [delay.state.id for delay in page.delayed] == ["0"]
    assert [(bad.id, bad.due, page.more) for bad in page.damaged] == [("t1.0", LONG_AGO, True)]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xc1",
        NO_UTF8,
        msgpack.encode([DIGITS, "1", 2, NO_UTF8]),
        msgpack.encode([DIGITS, "1", 2**62, "{}"]),
        msgpack.encode([-1, [], None]),
        msgpack.encode([DIGITS, "1", "x", {}]),
    ],
    ids=repr,
)
async def test_a_delay(driver: Driver, client: "Redis", redis_namespace: str, value: bytes) -> None:
    client.hset(f"{{{redis_namespace}}}:delays", "t1.0", value)
    page = await driver.get_delayed(Query())
    assert [delay.state.id for delay in page.delayed] == ["0", "2"]
    assert [(bad.id, bad.due) for bad in page.damaged] == [("t1.0", LONG_AGO)]


async def test_a_floor(driver: Driver, client: "Redis", redis_namespace: str) -> None:
    client.hset(f"{{{redis_namespace}}}:meta", "floor", "")
    with pytest.raises(CodecError):
        await driver.get_states(StateQuery())


async def test_a_replay_in_a_batch(driver: Driver, client: "Redis", redis_namespace: str) -> None:
    damage_log(client, redis_namespace, b=NO_UTF8)
    replay, other = await driver.commit([Writes("t1", (State("1"),)), put("other", "other")])
    assert isinstance(replay, CommitUnknownError)
    assert isinstance(other, tuple)
