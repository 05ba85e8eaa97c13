"""Commits that wait until they are on disk, here and elsewhere."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from flowstate import CommitUnknownError, StoreUnavailableError
from flowstate.drivers.redis import RedisDriver
from tests.load import Load
from tests.redis.support import head_of, liveness_of
from tests.redis_servers import DURABLE, RedisServer, needs_old_server
from tests.support import commit_one, put, read_log

pytestmark = pytest.mark.slow

EVERY_SECOND = {"appendonly": "yes", "appendfsync": "everysec"}


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(EVERY_SECOND) as server:
        yield server


async def test_it_promises_more(server: RedisServer) -> None:
    async with RedisDriver(server.url()) as driver:
        assert driver.durability == "process"
    async with RedisDriver(server.url(), wait_aof=(0, 0)) as driver:
        assert driver.durability == "process"
    waiting = RedisDriver(server.url(), wait_aof=(1, 0), require_durability="power")
    async with waiting as driver:
        for number in range(3):
            await commit_one(driver, put(f"{number}", f"{number}"))
        server.ask("SCRIPT", "FLUSH")
        await commit_one(driver, put("3", "3"))
        server.kill()
        server.start()
        assert [state.rev for state in await read_log(driver)] == [1, 2, 3, 4]
        assert (await liveness_of(driver, "3")).stalls_at is not None


async def test_a_server_killed(server: RedisServer) -> None:
    async with Load(RedisDriver(server.url(), wait_aof=(1, 0))) as load:
        await load.more(20)
        server.kill()
        server.start()
    assert load.outcomes["acknowledged"] > 20


async def test_too_few_replicas(server: RedisServer) -> None:
    async with RedisDriver(server.url(), wait_aof=(1, 1), timeout=5.0) as driver:
        started = time.monotonic()
        verdicts = await driver.commit([put("1", "a"), put("2", "b")])
        assert [type(verdict) for verdict in verdicts] == [CommitUnknownError] * 2
        assert time.monotonic() - started < 7.0
        assert await head_of(driver) == 2
        settings = {**DURABLE, "replicaof": f"127.0.0.1 {server.port}"}
        password = server.password
        with RedisServer(settings, password=password) as replica:
            await asyncio.to_thread(wait_until_up, replica)
            (state,) = await commit_one(driver, put("3", "c"))
            assert state.rev == 3


def wait_until_up(replica: RedisServer) -> None:
    """Wait until it has a copy, also on its disk."""
    give_up = time.monotonic() + 20.0
    with replica.client() as client:
        while (
            client.info("replication")["master_link_status"] != "up"
            or client.info("persistence")["aof_rewrite_in_progress"]
            or client.info("persistence")["aof_rewrite_scheduled"]
        ):
            assert time.monotonic() < give_up
            time.sleep(0.05)  # reason: it does not tell


async def opening_fails(server: RedisServer, why: str) -> None:
    with pytest.raises(StoreUnavailableError, match=why):
        await RedisDriver(server.url(), wait_aof=(1, 0)).__aenter__()


@needs_old_server
async def test_servers_that_cannot() -> None:
    with RedisServer(EVERY_SECOND, version="6.2") as old:
        await opening_fails(old, r"7\.2")
    with RedisServer() as forgetful:
        await opening_fails(forgetful, "appendonly")
    with RedisServer({"appendonly": "yes", "appendfsync": "no"}) as careless:
        await opening_fails(careless, "appendfsync")
