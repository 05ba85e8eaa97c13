"""A store of the first edition is brought up to date when it is opened."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace
from redis import Redis, ResponseError

from flowstate import Data, DataNotFoundError, Engine, FlowRegistry, State, Status
from flowstate.driver import DueQuery, StateQuery, Writes
from flowstate.drivers.redis import RedisDriver
from flowstate.frozen import FrozenDict
from tests.redis.first_edition import BLOB, CHECKSUM, DUE, HEAD, STATES, write_first_edition
from tests.redis.support import check_keys, dump, liveness_of
from tests.redis_servers import RedisLike
from tests.support import commit_one, read_log

LATEST = STATES[60:]


@pytest.fixture
def client(redis_server: RedisLike, redis_namespace: str) -> Iterator["Redis"]:
    with Redis.from_url(redis_server.url()) as client:
        write_first_edition(client, redis_namespace)
        yield client


@pytest.fixture
def driver(redis_server: RedisLike, redis_namespace: str) -> RedisDriver:
    return RedisDriver(redis_server.url(), namespace=redis_namespace)


async def test_all_of_it_is_there(
    client: "Redis", redis_server: RedisLike, redis_namespace: str, driver: RedisDriver
) -> None:
    async with driver:
        assert driver.store_id == "redis-first"
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
        active = {state.id for state in LATEST if state.status is Status.ACTIVE}
        delayed = {each.state.id for each in page.due}
        flows = ("flow-0", "flow-1")
        stalled = (await driver.get_due(DueQuery("stall", flows=flows))).due
        assert {each.id for each in stalled} == active - delayed
        assert all(each.to == each.state.transition.to for each in stalled)
        later = (await driver.get_due(DueQuery("stall", everything=True))).due
        assert {each.id for each in later} == active


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
    client: "Redis", redis_server: RedisLike, redis_namespace: str, driver: RedisDriver
) -> None:
    async with driver:
        expected = dump(client, redis_namespace)
    client.delete(*expected)
    write_first_edition(client, redis_namespace)
    opening = asyncio.ensure_future(driver.__aenter__())
    while client.hget(f"{{{redis_namespace}}}:meta", "upgraded") is None:
        await asyncio.wait([opening], timeout=0)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    async with driver:
        check_keys(redis_server, redis_namespace)
    assert dump(client, redis_namespace).keys() == expected.keys()


async def test_the_first_edition_cannot_commit_any_more(
    client: "Redis", redis_namespace: str, driver: RedisDriver
) -> None:
    """It takes the time of the last commit from a field that is gone, before it writes."""
    script = "return math.max(1, tonumber(redis.call('HMGET', KEYS[1], 'head', 'last')[2]))"
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
    log = f"{{{redis_namespace}}}:log"
    entries: Any = client.xrange(log)
    client.delete(log)
    for id, entry in entries:
        if id == b"61-0":
            entry.pop(field.encode())
            entry.update({b"l": b"\x92\x01"} if field == "l" else {})
        client.xadd(log, entry, id=id)
    async with driver:
        query = StateQuery((FrozenDict({"third": "2"}),), latest_only=True, limit=1_000)
        found = (await driver.get_states(query)).states
        assert {state.id for state in found} == {
            state.id for state in LATEST if state.labels.get("third") == "2"
        }
