"""Forgotten states on Redis: the keys that stay, those that go with compaction, and damage."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis

from flowstate import Data, State, Status, StoreCorruptError, Transition
from flowstate.data import DataRef, checksum_of
from flowstate.driver import Drop, DueQuery, Heartbeat, NewDelay, StateQuery, Writes
from flowstate.drivers.redis import RedisDriver
from flowstate.ground.frozen import FrozenDict
from flowstate.testcases.support import timer
from tests.redis.support import check_keys
from tests.redis_servers import RedisLike
from tests.support import commit_one

LABELS = FrozenDict({"kind": "order"})
DATA = Data(b"blob", checksum=checksum_of(Data(b"blob")))
HOUR = timedelta(hours=1)


@pytest.fixture
async def driver(redis_server: RedisLike, redis_namespace: str) -> AsyncIterator[RedisDriver]:
    """Of a store with one state, whose keys are looked at in the end."""
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
        await commit_one(driver, Writes("kept", (State("kept", transition=Transition("work")),)))
        yield driver
    check_keys(redis_server, redis_namespace)


@pytest.fixture
def client(redis_server: RedisLike) -> Iterator["Redis"]:
    with Redis.from_url(redis_server.url()) as client:
        yield client


def sizes(client: Any, namespace: str) -> dict[bytes, int]:
    """Return the kinds of keys, and how many members each has."""
    count = {b"hash": client.hlen, b"zset": client.zcard, b"stream": client.xlen}
    return {key: count[client.type(key)](key) for key in client.scan_iter(f"{{{namespace}}}:*")}


async def live(driver: RedisDriver, id: str) -> State:
    """Let a state have something under every kind of key; return its latest revision."""
    data = FrozenDict(blob=DataRef(1, DATA.checksum))
    first = State(id, labels=LABELS, data=data, transition=Transition(f"work {id}"))
    delay = NewDelay(first, "next", FrozenDict(), None, HOUR, commit=True, body="", put=0)
    timers = (timer(f"timer {id}", HOUR),)
    begin = Writes(f"begin {id}", (first,), data=(DATA,), delays=(delay,), timers=timers)
    (state,) = await commit_one(driver, begin)
    assert await driver.beat([Heartbeat(id, state.rev, 60.0, "note")]) == [True]
    paused = State(id, state.rev, labels=LABELS, status=Status.PAUSED)
    (state,) = await commit_one(driver, Writes(f"pause {id}", (paused,)))
    return state


def forgetting(state: State) -> Writes:
    last = State(state.id, state.rev, labels=LABELS, status=Status.ENDED)
    drops = (Drop(f"timer {state.id}", ""),)
    return Writes(f"forget {state.id} {state.rev}", (last,), drops=drops, forgets=(0,))


async def test_nothing_is_left(
    driver: RedisDriver, client: "Redis", redis_server: RedisLike, redis_namespace: str
) -> None:
    await commit_one(driver, Writes("moved", (State("kept", 1, transition=Transition("work")),)))
    await driver.compact(2**53)
    before = sizes(client, redis_namespace)
    for number in range(5):
        await commit_one(driver, forgetting(await live(driver, f"{number}")))
        check_keys(redis_server, redis_namespace)
    head = 2 + 3 * 5
    kept = State("kept", 2, transition=Transition("work"))
    await commit_one(driver, Writes("moved again", (kept,)))
    assert await driver.compact(head) == head - 2  # The first was compacted before.
    assert client.hlen(f"{{{redis_namespace}}}:latest") == 2
    check_keys(redis_server, redis_namespace)
    assert await driver.compact(2**53) == 1
    after = sizes(client, redis_namespace)
    # The stream of what has ended stays, without entries, and so does the alarm.
    assert {key for key in after if after[key]} - before.keys() == {
        f"{{{redis_namespace}}}:alarm".encode()
    }
    assert {key: after[key] for key in before} == before


async def test_what_begins_again_is_kept(
    driver: RedisDriver, redis_server: RedisLike, redis_namespace: str
) -> None:
    for _ in range(3):
        await commit_one(driver, forgetting(await live(driver, "a")))
        check_keys(redis_server, redis_namespace)
    state = await live(driver, "a")
    check_keys(redis_server, redis_namespace)
    assert await driver.compact(2**53) == 10
    assert (await driver.get_due(DueQuery("idle"))).due[0].state == state
    assert await driver.count(StateQuery(labels=(LABELS,))) == 1


async def test_a_batch(driver: RedisDriver) -> None:
    """A state is begun, forgotten and begun again, and forgotten, in one script."""
    begin = State("a", labels=LABELS, transition=Transition("work"))
    batch = [
        Writes("1", (begin,), bodies=('{"v":1,"id":"a","transition":{"to":"work"}}',)),
        Writes("2", (State("a", 2),), bodies=('{"v":1,"id":"a"}',), forgets=(0,)),
        Writes("3", (State("a"),), bodies=('{"v":1,"id":"a"}',)),
        Writes("4", (State("a", 4),), bodies=('{"v":1,"id":"a"}',), forgets=(0,)),
    ]
    assert [len(verdict) for verdict in await driver.commit(batch)] == [1] * 4  # type: ignore[arg-type]
    assert await driver.get_state("a") is None
    assert await driver.beat([Heartbeat("a", 0, 60.0, "")]) == [False]
    page = await driver.get_states(StateQuery(id="a"))
    assert [state.rev for state in page.states] == [2, 3, 4, 5]


@pytest.mark.parametrize("value", ["forgotten", "forgotten x", "forgotten 2 ", "2 forgotten"])
async def test_a_damaged_row(
    driver: RedisDriver, client: "Redis", redis_namespace: str, value: str
) -> None:
    """Nobody can tell what it was: no commit goes on from it, and compaction leaves all of it."""
    await commit_one(driver, Writes("a", (State("a", status=Status.ENDED),)))
    await commit_one(driver, forgetting(State("a", 2)))
    latest = f"{{{redis_namespace}}}:latest"
    stored: Any = client.hget(latest, "a")
    client.hset(latest, "a", value)
    for rev in (0, 2, 3):
        with pytest.raises(StoreCorruptError):
            await commit_one(driver, Writes(f"again {rev}", (State("a", rev),)))
    with pytest.raises(StoreCorruptError):
        await driver.get_state("a")
    await commit_one(driver, Writes("b", (State("b"),)))
    assert await driver.compact(2**53) == 0
    client.hset(latest, "a", stored)
