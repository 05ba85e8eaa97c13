"""Namespaces with odd names, and keys that are not what they should be."""

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis

from flowstate import (
    Data,
    InvalidInputError,
    State,
    Status,
    StoreCorruptError,
    StoreVersionError,
)
from flowstate.data import DataRef, checksum_of
from flowstate.driver import NewDelay, NewTimer, StateQuery, Writes
from flowstate.drivers.redis import RedisDriver
from flowstate.ground.frozen import FrozenDict
from flowstate.state import Transition
from flowstate.testcases.support import encoded
from tests.redis.support import check_keys, dump, head_of
from tests.redis_servers import RedisLike
from tests.support import commit_one, put, read_log

BAD: list[Any] = ["", "{", "a}b", "\0", "x" * 201, "ä" * 101, "\ud800", None, b"a", 3]
ODD = ["a:b", "a*", "[a-z]?", "ä ö\n", "'\"\\", "%s", "日本語", "x" * 200]
DATA = Data(b"blob", checksum=checksum_of(Data(b"blob")))
KEYS = [
    "meta",
    "log",
    "latest",
    "status:active",
    "status:paused",
    "latest_status:active",
    "latest_status:paused",
    "label:active:1:ab",
    "latest_label:active:1:ab",
    f"data:{DATA.checksum}",
    "orphans",
    "due:delay:next",
    "due:stall:next",
    "due:idle:next",
    "flows:delay",
    "flows:stall",
    "flows:idle",
    "delay_heads",
    "delay_bodies",
    "delays_of:s",
    "timers_of:s",
    "alarm",
]


@pytest.mark.parametrize("name", ODD)
async def test_odd_namespaces(redis_server: RedisLike, name: str) -> None:
    namespace = secrets.token_hex(4) + name
    namespace = namespace[:200]
    other = RedisDriver(redis_server.url(), namespace=f"{namespace[:150]}x")
    async with RedisDriver(redis_server.url(), namespace=namespace) as driver, other:
        await commit_one(driver, full("1"))
        assert [state.rev for state in await read_log(driver)] == [1, 2]
        assert await head_of(other) == 0
    check_keys(redis_server, namespace)
    with Redis.from_url(redis_server.url()) as client:
        starts = tuple(f"{{{each}}}:".encode() for each in (namespace, f"{namespace[:150]}x"))
        keys: Any = client.keys()
        client.delete(*(key for key in keys if key.startswith(starts)))


@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_refused_namespaces(name: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"^namespace: "):
        RedisDriver("redis://127.0.0.1:1/0", namespace=name)


def full(token: str, count: int = 0) -> Writes:
    """Return writes of every kind, after so many of them."""
    state = State(
        "s",
        max(2 * count - 1, 0),
        labels={"a": "b"},
        data=FrozenDict(blob=DataRef(1, DATA.checksum)),
        transition=Transition("next"),
    )
    # It is idle; and in another flow each time, because what stays where it is touches no key.
    idle = State("i", 2 * count, status=Status.PAUSED, transition=Transition("next" * (1 - count)))
    day = timedelta(days=1)
    delay = NewDelay(state, "next", FrozenDict(), None, day, commit=True, body="", put=0)
    timer = NewTimer("timer", "name", 0, "next", None, day, "")
    puts, delays, timers = (state, idle), (delay,), (timer,)
    return encoded(Writes(token, puts, data=(DATA,), delays=delays, timers=timers))


# What is new has no heartbeats, and what goes on in a flow leaves the set of flows as it is.
STAYS = {"flows:delay", "flows:stall"}
CHANGED = [(key, count) for key in KEYS for count in (0, 1) if not (count and key in STAYS)]
CHANGED += [("beats", 1)]


@pytest.mark.parametrize(("key", "count"), CHANGED)
async def test_a_key_of_another_type(
    redis_server: RedisLike, redis_namespace: str, key: str, count: int
) -> None:
    """A script is not rolled back, so it must not even begin."""
    driver = RedisDriver(redis_server.url(), namespace=redis_namespace)
    with Redis.from_url(redis_server.url()) as client:
        async with driver:
            for number in range(count):
                await commit_one(driver, full(f"t{number}", number))
            name = f"{{{redis_namespace}}}:{key}"
            client.delete(name)
            client.set(name, "something else")
            before = dump(client, redis_namespace)
            with pytest.raises(StoreCorruptError):
                await commit_one(driver, full("x", count))
            assert dump(client, redis_namespace) == before


@pytest.mark.parametrize("key", ["meta", "log"])
async def test_a_key_that_is_missing(
    redis_server: RedisLike, redis_namespace: str, key: str
) -> None:
    driver = RedisDriver(redis_server.url(), namespace=redis_namespace)
    with Redis.from_url(redis_server.url()) as client:
        async with driver:
            await commit_one(driver, put("1", "a"))
            client.delete(f"{{{redis_namespace}}}:{key}")
            before = dump(client, redis_namespace)
            with pytest.raises(StoreCorruptError):
                await commit_one(driver, put("2", "b"))
            assert dump(client, redis_namespace) == before
        if key == "meta":
            with pytest.raises(StoreCorruptError):
                await driver.__aenter__()


async def test_a_head_that_went_back(redis_server: RedisLike, redis_namespace: str) -> None:
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
        for number in range(3):
            await commit_one(driver, put(f"{number}", f"{number}"))
        with Redis.from_url(redis_server.url()) as client:
            client.hset(f"{{{redis_namespace}}}:meta", "head", "1")
        with pytest.raises(StoreCorruptError, match="head"):
            await commit_one(driver, put("x", "x"))
        assert len((await driver.get_states(StateQuery())).states) <= 3


@pytest.mark.parametrize("status", ["active", "paused"])
async def test_a_stream_that_is_ahead(
    redis_server: RedisLike, redis_namespace: str, status: str
) -> None:
    """It takes no entry of the next revision, so nothing else may be written."""
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
        await commit_one(driver, full("1"))
        with Redis.from_url(redis_server.url()) as client:
            client.xadd(f"{{{redis_namespace}}}:status:{status}", {"": ""}, id="9-0")
            before = dump(client, redis_namespace)
            with pytest.raises(StoreCorruptError):
                await commit_one(driver, full("2", 1))
            assert dump(client, redis_namespace) == before


async def test_a_newer_version(redis_server: RedisLike, redis_namespace: str) -> None:
    driver = RedisDriver(redis_server.url(), namespace=redis_namespace)
    async with driver:
        pass
    with Redis.from_url(redis_server.url()) as client:
        client.hset(f"{{{redis_namespace}}}:meta", "version", "99")
    with pytest.raises(StoreVersionError, match="upgrade"):
        await driver.__aenter__()


async def test_one_damaged_commit_fails_no_other(
    redis_server: RedisLike, redis_namespace: str
) -> None:
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
        with Redis.from_url(redis_server.url()) as client:
            client.set(f"{{{redis_namespace}}}:label:active:1:ab", "something else")
        verdicts: Sequence[Any] = await driver.commit([put("1", "a"), full("2"), put("3", "c")])
        assert [type(verdict) for verdict in verdicts] == [tuple, StoreCorruptError, tuple]
        assert [state.rev for state in await read_log(driver)] == [1, 2]
