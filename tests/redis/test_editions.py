"""A store of an earlier edition is brought up to date when it is opened."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from redis import Redis, ResponseError
from redis.asyncio import Redis as AsyncRedis

from flowstate import Data, DataNotFoundError, Engine, FlowRegistry, State, Status
from flowstate.driver import DueQuery, StateQuery, Writes
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.redis.scripts import Scripts
from flowstate.ground.frozen import FrozenDict
from flowstate.recovery_rules import stalls_after
from tests.redis.editions import BLOB, CHECKSUM, DUE, EDITIONS, HEAD, STATES
from tests.redis.support import check_keys, dump, liveness_of
from tests.redis_servers import RedisLike
from tests.support import commit_one, read_log

LATEST = STATES[60:]


@pytest.fixture(params=EDITIONS)
def edition(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def client(redis_server: RedisLike, redis_namespace: str, edition: str) -> Iterator["Redis"]:
    with Redis.from_url(redis_server.url()) as client:
        EDITIONS[edition](client, redis_namespace)
        yield client


@pytest.fixture
def driver(redis_server: RedisLike, redis_namespace: str) -> RedisDriver:
    return RedisDriver(redis_server.url(), namespace=redis_namespace)


async def test_all_of_it_is_there(
    client: "Redis", redis_server: RedisLike, redis_namespace: str, driver: RedisDriver
) -> None:
    async with driver:
        assert driver.store_id == "redis-old"
        assert [
            replace(s, rev=0, committed_at=None, delayed_until=None) for s in await read_log(driver)
        ] == [replace(s, rev=0) for s in STATES]
        labels = FrozenDict({"queue": "mäil", "third": "1"})
        for status in (None, *Status):
            query = StateQuery(labels=(labels,), latest_only=True, status=status)
            found = (await driver.get_states(query)).states
            expected = [s for s in LATEST if s.labels == labels and status in (None, s.status)]
            assert [state.id for state in found] == [state.id for state in expected]
        assert (await liveness_of(driver, "state-0")).note == "alive"
    keys: Any = client.keys(f"{{{redis_namespace}}}:*")
    kinds = {key.decode().split(":")[1] for key in keys}
    assert kinds.isdisjoint({"due:", "delays", "stalls"})
    check_keys(redis_server, redis_namespace)


async def test_what_is_due(client: "Redis", driver: RedisDriver) -> None:
    async with driver:
        page = await driver.get_due(DueQuery("delay", flows=("later",), everything=True))
        revs = [rev for rev in range(61, HEAD + 1) if rev % 12 in (0, 1)]
        assert [each.due for each in page.due] == [DUE + timedelta(seconds=rev) for rev in revs]
        assert [each.state.rev for each in page.due] == revs
        stalling = {state.id for state in LATEST if stalls_after(state) is not None}
        delayed = {each.state.id for each in page.due}
        flows = ("flow-0", "flow-1")
        stalled = (await driver.get_due(DueQuery("stall", flows=flows))).due
        assert {each.id for each in stalled} == stalling - delayed
        assert all(each.to == each.state.transition.to for each in stalled)
        later = (await driver.get_due(DueQuery("stall", everything=True))).due
        assert {each.id for each in later} == stalling


@pytest.mark.parametrize("flow", ["flow-0", "flow-1", ""])
async def test_what_is_idle(client: "Redis", driver: RedisDriver, flow: str) -> None:
    async with driver:
        idle = (await driver.get_due(DueQuery("idle", flows=(flow,)))).due
        assert {(each.id, each.state.transition) for each in idle} == {
            (state.id, state.transition)
            for state in LATEST
            if state.status is not Status.ENDED
            and stalls_after(state) is None
            and state.transition.to == flow
        }
        assert idle


async def test_a_damaged_state_that_is_idle(
    client: "Redis", redis_namespace: str, driver: RedisDriver
) -> None:
    """It is on the pages of all flows, because its flow cannot be read."""
    damage(client, redis_namespace, 62, b=b'{"v":1,"id":')
    async with driver:
        page = await driver.get_due(DueQuery("idle", flows=("flow-1",)))
        assert [bad.id for bad in page.damaged] == ["state-1"]
        assert page.due
        await commit_one(driver, Writes("x", (State("state-1", 62),)))
        assert not (await driver.get_due(DueQuery("idle", flows=("flow-1",)))).damaged


async def test_delays_keep_their_data(client: "Redis", driver: RedisDriver) -> None:
    async with driver:
        await commit_one(driver, Writes("x", (State("other"),)))
        await driver.compact(HEAD + 1)
        assert await driver.get_data(CHECKSUM) == Data(BLOB.blob, checksum=CHECKSUM)
        states = (await driver.get_states(StateQuery(latest_only=True, limit=1_000))).states
        await commit_one(driver, Writes("y", tuple(states)))
        await driver.compact(HEAD + 100)
        assert await driver.get_data(CHECKSUM) is None
        (verdict,) = await driver.commit([Writes("n", needs=(CHECKSUM,))])
        assert isinstance(verdict, DataNotFoundError)


async def test_several_processes_open_it(
    client: "Redis", redis_server: RedisLike, redis_namespace: str
) -> None:
    drivers = [RedisDriver(redis_server.url(), namespace=redis_namespace) for _ in range(4)]
    await asyncio.gather(*(driver.__aenter__() for driver in drivers))
    check_keys(redis_server, redis_namespace)
    for driver in drivers:
        await driver.__aexit__(None, None, None)


async def test_it_goes_on_where_it_broke_off(
    client: "Redis",
    redis_server: RedisLike,
    redis_namespace: str,
    driver: RedisDriver,
    edition: str,
) -> None:
    """Some parts have been done, and the rest is when it is opened the next time."""
    async with driver:
        expected = dump(client, redis_namespace)
    first = 1 if edition == "first" else 2
    async with AsyncRedis.from_url(redis_server.url()) as other:
        scripts = Scripts(other, f"{{{redis_namespace}}}")
        for parts in (1, 2, 5, 20):
            client.delete(*expected)
            EDITIONS[edition](client, redis_namespace)
            for part in range(parts):
                # Another process may be ahead, or behind.
                await scripts.run(f"upgrade_{max(first, 1 + part % 2)}", 7)
            async with driver:
                check_keys(redis_server, redis_namespace)
            assert dump(client, redis_namespace).keys() == expected.keys()


async def test_the_older_one_cannot_commit_any_more(
    client: "Redis", redis_namespace: str, driver: RedisDriver, edition: str
) -> None:
    """It takes the time of the last commit from a field that is gone, before it writes."""
    field = {"first": "last", "second": "stamp"}[edition]
    script = f"return math.max(1, tonumber(redis.call('HMGET', KEYS[1], 'head', '{field}')[2]))"
    assert client.eval(script, 1, f"{{{redis_namespace}}}:meta")
    async with driver:
        pass
    with pytest.raises(ResponseError):
        client.eval(script, 1, f"{{{redis_namespace}}}:meta")


async def test_an_engine_works_on_it(client: "Redis", driver: RedisDriver) -> None:
    async with Engine(driver, FlowRegistry()) as engine, engine.watch(since_rev=0) as states:
        assert [(await anext(states)).rev for _ in range(HEAD)] == list(range(1, HEAD + 1))


@pytest.mark.parametrize("field", ["l", "i", "s"])
async def test_a_damaged_revision_stops_nothing(
    client: "Redis", redis_namespace: str, driver: RedisDriver, field: str
) -> None:
    changed = {"l": b"\x92\x01", "i": None, "s": None}[field]
    damage(client, redis_namespace, 61, **{field: changed})
    async with driver:
        query = StateQuery((FrozenDict({"third": "2"}),), latest_only=True, limit=1_000)
        found = (await driver.get_states(query)).states
        assert {state.id for state in found} == {
            state.id for state in LATEST if state.labels.get("third") == "2"
        }


def damage(client: "Redis", namespace: str, rev: int, **fields: bytes | None) -> None:
    """Write one revision again, with other fields, and without those that are ``None``."""
    log = f"{{{namespace}}}:log"
    entries: Any = client.xrange(log)
    client.delete(log)
    for id, entry in entries:
        if id == b"%d-0" % rev:
            entry |= {name.encode(): value for name, value in fields.items()}
        client.xadd(log, {k: v for k, v in entry.items() if v is not None}, id=id)
