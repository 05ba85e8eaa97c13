"""The store is emptied, or lost with its server, while it is open."""

import asyncio
from collections.abc import Iterator

import pytest

from flowstate import Engine, FlowRegistry, HistoryRewoundError, StoreCorruptError
from flowstate.driver import DueQuery, StateQuery
from flowstate.drivers.redis import RedisDriver
from tests.redis.support import head_of
from tests.redis_servers import RedisServer
from tests.support import commit_one, put, read_log


@pytest.fixture(scope="module")
def _forgetful() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def forgetful(_forgetful: RedisServer) -> RedisServer:
    """A server that keeps nothing on disk, of which a test may dispose."""
    _forgetful.start()
    return _forgetful


def lose(server: RedisServer, how: str) -> None:
    if how == "flushed":
        server.ask("FLUSHALL")
    else:
        server.kill()
        server.start()


@pytest.mark.parametrize("how", ["flushed", "restarted"])
async def test_a_watch_hears_of_it(forgetful: RedisServer, how: str) -> None:
    driver = RedisDriver(forgetful.url(), namespace=how)
    assert driver.durability == "none"
    async with Engine(driver, FlowRegistry()) as engine, engine.watch(since_rev=0) as states:
        await commit_one(driver, put("1", "a"))
        assert (await anext(states)).rev == 1
        waiting = asyncio.ensure_future(anext(states))
        await asyncio.sleep(0.1)  # reason: it is to wait for the server, not on its way there
        await asyncio.to_thread(lose, forgetful, how)
        with pytest.raises(HistoryRewoundError):
            await asyncio.wait_for(waiting, 10.0)
        with pytest.raises(HistoryRewoundError):
            async with engine.watch(since_rev=1) as others:
                await anext(others)


async def test_nothing_is_written_where_the_store_was(forgetful: RedisServer) -> None:
    """Another opening makes a new one; the old one could not tell them apart later."""
    driver = RedisDriver(forgetful.url(), namespace="gone")
    async with driver:
        store_id = driver.store_id
        await commit_one(driver, put("1", "a"))
        lose(forgetful, "flushed")
        with pytest.raises(StoreCorruptError, match="open it again"):
            await commit_one(driver, put("2", "a", 1))
        assert await head_of(driver) == 0
        assert await driver.get_state("a") is None
        assert await driver.get_state("a", 1) is None
        assert await driver.get_data("x") is None
        assert await driver.compact(5) == 0
        assert not (await driver.get_states(StateQuery())).states
        assert not (await driver.get_due(DueQuery("delay"))).due
        assert forgetful.ask("DBSIZE") == 0
    async with driver:
        assert driver.store_id != store_id
        await commit_one(driver, put("3", "a"))
        assert [state.rev for state in await read_log(driver)] == [1]
