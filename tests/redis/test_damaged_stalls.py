"""Damaged keys of what stalls: nothing is half-written, and the rest goes on."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis

from flowstate import State, Status, StoreCorruptError
from flowstate.driver import DamagedState, Heartbeat, NewDelay, StalledQuery, Writes
from flowstate.drivers.redis import RedisDriver
from flowstate.frozen import FrozenDict
from flowstate.stalling import RETRY_AFTER
from flowstate.state import Transition
from tests.redis_servers import RedisLike
from tests.support import commit_one

AT_ONCE = FrozenDict({RETRY_AFTER: "0.001"})
NEXT = Transition("next")


@pytest.fixture
def client(redis_server: RedisLike) -> Iterator["Redis"]:
    with Redis.from_url(redis_server.url()) as client:
        yield client


@pytest.fixture
def prefix(redis_namespace: str) -> str:
    return f"{{{redis_namespace}}}:"


@pytest.fixture
async def driver(redis_server: RedisLike, redis_namespace: str) -> AsyncIterator[RedisDriver]:
    """Of a store with three states, "0" to "2", that stall at the same time."""
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
        states = [State(f"{n}", annotations=AT_ONCE, transition=NEXT) for n in range(3)]
        await commit_one(driver, Writes("first", tuple(states)))
        await asyncio.sleep(0.002)  # reason: the server's clock is to pass that time
        yield driver


def append(client: "Redis", prefix: str, id: str, body: bytes) -> None:
    """Write revision 4 of a state, as a driver that is out of its mind would."""
    entry: Any = {"i": id, "p": 1, "s": "active", "c": 1, "u": "", "t": "", "l": "", "r": ""}
    client.xadd(f"{prefix}log", {**entry, "b": body}, id="4-0")
    client.hset(f"{prefix}meta", "head", "4")
    client.hset(f"{prefix}latest", id, "4 active 0 1000")


async def read_in_pages(
    driver: RedisDriver, limit: int
) -> tuple[list[str], list[tuple[str, int]], list[DamagedState]]:
    states: list[str] = []
    damaged: list[DamagedState] = []
    query = StalledQuery(limit=limit)
    while True:
        page = await driver.get_stalled(query)
        assert len(page.states) + len(page.damaged) <= limit
        states += [state.id for state in page.states]
        damaged += page.damaged
        if not page.more:
            return states, [(each.id, each.rev) for each in damaged], damaged
        query = StalledQuery(page.end, limit)


@pytest.mark.parametrize("limit", [1, 2, 100])
@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b'{"v":9,"id":"1"}', b'{"v":1,"id":"2"}'])
async def test_a_damaged_body(
    driver: RedisDriver, client: "Redis", prefix: str, body: bytes, limit: int
) -> None:
    append(client, prefix, "1", body)
    states, damaged, whole = await read_in_pages(driver, limit)
    assert (states, damaged) == (["0", "2"], [("1", 4)])
    assert whole[0].error


@pytest.mark.parametrize("limit", [1, 100])
async def test_what_is_not_stored(
    driver: RedisDriver, client: "Redis", prefix: str, limit: int
) -> None:
    client.xdel(f"{prefix}log", "2-0")  # Of "1".
    client.hset(f"{prefix}latest", "2", "nonsense")
    client.zadd(f"{prefix}stalls", {b"nobody": 1, b"\xff\x00": 2, b"\xff\x01": 2, b"": 3})
    states, damaged, whole = await read_in_pages(driver, limit)
    assert states == ["0"]
    nobody = [("nobody", 0), ("\ufffd\0", 0), ("\ufffd\1", 0), ("", 0)]
    assert damaged == [*nobody, ("1", 2), ("2", 0)]
    assert all("not stored" in each.error for each in whole)


@pytest.mark.parametrize("score", ["-inf", "+inf", "-1e300", "1e300", "0.5"])
async def test_scores_that_are_no_times(
    driver: RedisDriver, client: "Redis", prefix: str, score: str
) -> None:
    client.zadd(f"{prefix}stalls", {"1": score})
    states, damaged, _ = await read_in_pages(driver, 1)
    assert sorted(states) == (["0", "2"] if score in {"+inf", "1e300"} else ["0", "1", "2"])
    assert damaged == []
    assert await driver.get_liveness("1")


@pytest.mark.parametrize("value", [b"", b"\xff", b"1 x note", b"1 1", b"1 1 \xff"])
async def test_a_damaged_heartbeat(
    driver: RedisDriver, client: "Redis", prefix: str, value: bytes
) -> None:
    """It is as good as none, or has a note that cannot be read."""
    client.hset(f"{prefix}beats", "0", value)
    found = await driver.get_liveness("0")
    assert found is not None
    assert found.note in {"", "\ufffd"}
    beats = [Heartbeat(f"{n}", n + 1, 60.0, "fine") for n in range(3)]
    assert await driver.beat(beats) == [True] * 3
    mended = await driver.get_liveness("0")
    assert mended is not None
    assert mended.note == "fine"


def dump(client: "Redis", prefix: str) -> dict[bytes, Any]:
    keys: Any = client.scan_iter(f"{prefix}*")
    return {key: client.dump(key) for key in keys}


@pytest.mark.parametrize("key", ["latest", "beats", "stalls"])
async def test_a_heartbeat_and_a_key_of_another_type(
    driver: RedisDriver, client: "Redis", prefix: str, key: str
) -> None:
    await driver.beat([Heartbeat("0", 1, 60.0, "")])
    client.delete(prefix + key)
    client.set(prefix + key, "something else")
    before = dump(client, prefix)
    with pytest.raises(StoreCorruptError):
        await driver.beat([Heartbeat(f"{n}", n + 1, 60.0, "") for n in range(3)])
    if key != "latest":
        assert await driver.head() == 3
    with pytest.raises(StoreCorruptError):
        await driver.get_liveness("0")
    assert dump(client, prefix) == before


def of_every_kind() -> list[Writes]:
    """Return writes that move what stalls: an end, a revision, and a delay by itself."""
    delay = NewDelay(
        State("0", 1),
        "next",
        FrozenDict(),
        datetime.now(UTC) + timedelta(days=1),
        None,
        commit=True,
    )
    return [
        Writes("end", (State("0", 1, status=Status.ENDED),)),
        Writes("go", (State("0", 1, transition=NEXT),)),
        Writes("delay", delays=(delay,)),
    ]


@pytest.mark.parametrize("writes", of_every_kind(), ids=lambda writes: writes.token)
@pytest.mark.parametrize("key", ["stalls", "beats"])
async def test_a_commit_and_a_key_of_another_type(
    driver: RedisDriver, client: "Redis", prefix: str, writes: Writes, key: str
) -> None:
    """A script is not rolled back, so it must not even begin."""
    client.delete(prefix + key)
    client.set(prefix + key, "something else")
    before = dump(client, prefix)
    if (writes.token, key) == ("delay", "beats"):  # Which it does not touch.
        await commit_one(driver, writes)
        return
    with pytest.raises(StoreCorruptError):
        await commit_one(driver, writes)
    assert dump(client, prefix) == before
