"""Clients of the user's own, with every setting that matters."""

import asyncio

import pytest
from redis.asyncio import Redis

from flowstate import Clock
from flowstate.driver import Seen
from flowstate.drivers.redis import RedisDriver
from flowstate.testcases import ALL, Capabilities, Case, run, select
from tests.redis.support import head_of
from tests.redis_servers import RedisLike
from tests.support import commit_one, put, read_log

pytestmark = pytest.mark.slow

CAPABILITIES = Capabilities(shared=True, durable=True, fake_clock=False, any_loop=False)
# Not what takes real time: there other event loops take part, and a client belongs to one.
CASES = [case for case in select(ALL, CAPABILITIES) if not case.real_time][::8]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_conformance(
    redis_server: RedisLike, redis_namespace: str, case: Case, protocol: int, *, decode: bool
) -> None:
    url = redis_server.url()
    async with Redis.from_url(url, decode_responses=decode, protocol=protocol) as client:

        def make(clock: Clock) -> RedisDriver:
            return RedisDriver(client, namespace=redis_namespace)

        await run(case, make, CAPABILITIES)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [True, False])
async def test_hears_of_other_processes(
    redis_server: RedisLike, redis_namespace: str, protocol: int, *, decode: bool
) -> None:
    url = redis_server.url()
    async with (
        Redis.from_url(url, decode_responses=decode, protocol=protocol) as client,
        RedisDriver(client, namespace=redis_namespace) as driver,
        RedisDriver(url, namespace=redis_namespace) as other,
    ):
        waiting = asyncio.ensure_future(driver.changed(await driver.changed(Seen())))
        await asyncio.sleep(0.1)  # reason: it is to wait for the server, not on its way there
        await commit_one(other, put("1", "a"))
        await asyncio.wait_for(waiting, 0.5)
        assert [state.rev for state in await read_log(driver)] == [1]


async def test_a_client_stays_open(redis_server: RedisLike, redis_namespace: str) -> None:
    async with Redis.from_url(redis_server.url()) as client:
        async with RedisDriver(client, namespace=redis_namespace) as driver:
            await commit_one(driver, put("1", "a"))
        assert await client.ping()
        async with driver:
            assert await head_of(driver) == 1


async def test_a_client_that_waits_for_less_than_the_server_lets_it(
    redis_server: RedisLike, redis_namespace: str
) -> None:
    """Nothing new for a while is no failure of the client."""
    url = redis_server.url()
    async with (
        Redis.from_url(url, socket_timeout=0.3) as client,
        RedisDriver(client, namespace=redis_namespace) as driver,
        RedisDriver(url, namespace=redis_namespace) as other,
    ):
        for rev in range(1, 4):
            waiting = asyncio.ensure_future(driver.changed(await driver.changed(Seen())))
            await asyncio.sleep(0.7)  # reason: longer than the client waits
            await commit_one(other, put(f"{rev}", f"{rev}"))
            await asyncio.wait_for(waiting, 2.0)
            assert (await waiting).head == rev
