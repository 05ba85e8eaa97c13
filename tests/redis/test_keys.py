"""Namespaces with odd names, and keys that are not what they should be."""

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis

from flowstate import Data, InvalidInputError, State, StoreCorruptError, StoreVersionError
from flowstate.data import DataRef, checksum_of
from flowstate.driver import NewDelay, StateQuery, Writes
from flowstate.drivers.redis import RedisDriver
from flowstate.frozen import FrozenDict
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
    "latest_status:active",
    "label:active:1:ab",
    "latest_label:active:1:ab",
    f"data:{DATA.checksum}",
    "orphans",
    "due:delay:next",
    "due:stall:next",
    "flows:delay",
    "flows:stall",
    "delay_heads",
    "delay_bodies",
    "delays_of:s",
    "alarm",
]


@pytest.mark.parametrize("name", ODD)
async def test_odd_namespaces(redis_server: RedisLike, name: str) -> None:
    namespace = secrets.token_hex(4) + name
    namespace = namespace[:200]
    other = RedisDriver(redis_server.url(), namespace=f"{namespace[:150]}x")
    async with RedisDriver(redis_server.url(), namespace=namespace) as driver, other:
        await commit_one(driver, full("1", 0))
        assert [state.rev for state in await read_log(driver)] == [1]
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


def full(token: str, rev: int) -> Writes:
    """Return writes of every kind."""
    state = State(
        "s",
        rev,
        labels={"a": "b"},
        data=FrozenDict(blob=DataRef(1, DATA.checksum)),
        transition=Transition("next"),
    )
    delay = NewDelay(
        state, "next", FrozenDict(), None, timedelta(days=1), commit=True, body="", put=0
    )
    return encoded(Writes(token, (state,), data=(DATA,), delays=(delay,)))


# What is new has no heartbeats.
CHANGED = [(key, count) for key in KEYS for count in (0, 1)] + [("beats", 1)]


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
        verdicts: Sequence[Any] = await driver.commit([put("1", "a"), full("2", 0), put("3", "c")])
        assert [type(verdict) for verdict in verdicts] == [tuple, StoreCorruptError, tuple]
        assert [state.rev for state in await read_log(driver)] == [1, 2]
