"""Servers killed and connections cut under load: no answer of a commit turns out to be wrong."""

import asyncio
import random

import pytest

from flowstate import Commit, Engine, FlowRegistry, State, StateContext, Transit
from flowstate.drivers.redis import RedisDriver
from tests.load import MARKER, Load
from tests.redis_servers import RedisServer
from tests.support import commit_one, put, read_log, through_proxy

pytestmark = pytest.mark.slow

KILLS = 10
AFTER_A_KILL = 50
CUTS = 200


async def test_server_killed(private_redis: RedisServer) -> None:
    driver = RedisDriver(private_redis.url(), namespace="killed", require_durability="power")
    async with Load(driver) as load:
        for _ in range(KILLS):
            await load.more(AFTER_A_KILL)
            await asyncio.to_thread(private_redis.kill)
            await asyncio.to_thread(private_redis.start)
    assert load.outcomes["acknowledged"] >= KILLS * AFTER_A_KILL


async def test_connections_cut(private_redis: RedisServer) -> None:
    chance = random.Random(1)
    async with through_proxy(private_redis.url()) as (proxy, url):
        driver = RedisDriver(url, namespace="cut")
        async with Load(driver) as load:
            for number in range(CUTS):
                await load.more(2)
                if number % 3 == 0:
                    await proxy.cut_after(chance.randint(1, 2_000)).wait()
                elif number % 3 == 1:
                    await proxy.cut_before_reply(MARKER).wait()
                else:
                    proxy.cut()
    assert load.outcomes["acknowledged"] >= 2 * CUTS


async def test_scripts_forgotten(private_redis: RedisServer) -> None:
    """The server forgets them when it is restarted, or told to."""
    async with Load(RedisDriver(private_redis.url(), namespace="forgotten")) as load:
        for _ in range(20):
            await load.more(10)
            await asyncio.to_thread(private_redis.ask, "SCRIPT", "FLUSH")
        await asyncio.to_thread(private_redis.restart)
        await load.more(10)
    assert set(load.outcomes) <= {"acknowledged", "RevisionMismatchError"}


async def test_the_next_watch_sees_what_came_while_the_server_was_away(
    private_redis: RedisServer,
) -> None:
    flows = FlowRegistry()
    flows.declare("next")
    driver = RedisDriver(private_redis.url(), namespace="watched")
    other = RedisDriver(private_redis.url(), namespace="watched")
    async with Engine(driver, flows) as engine, other, engine.watch() as states:
        await engine.do(Commit(Transit(StateContext(State("a")), "next")))
        assert (await anext(states)).rev == 1
        waiting = asyncio.ensure_future(anext(states))
        await asyncio.to_thread(private_redis.restart)
        await commit_one(other, put("1", "b"))
        assert (await waiting).rev == 2
        assert [state.rev for state in await read_log(other)] == [1, 2]
