"""After all that can happen to a server, a closed driver leaves no task and no connection."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstate import (
    Commit,
    DriverError,
    Engine,
    EngineStoppedError,
    FlowRegistry,
    State,
    StateContext,
    Transit,
)
from flowstate.driver import Seen
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.redis.watcher import LONGEST_BLOCK
from flowstate.testing.faults import Proxy
from tests.redis.support import head_of
from tests.redis_servers import RedisLike
from tests.support import commit_one, put, read_log, through_proxy

TIMEOUT = 5.0
LIMIT = 2.0


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Check that what was started inside ends soon, and all of it."""
    before = asyncio.all_tasks()
    started = time.monotonic()
    yield
    assert time.monotonic() - started < LIMIT
    left = {task for task in asyncio.all_tasks() - before if "Proxy" not in repr(task)}
    assert not left


async def test_it_closes_at_once_while_its_watch_begins(
    redis_server: RedisLike, redis_namespace: str
) -> None:
    took = []
    for _ in range(3):
        async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
            await driver.changed(Seen())  # Then the task that watches blocks on the server.
            began = time.monotonic()
        took.append(time.monotonic() - began)
    assert min(took) < LONGEST_BLOCK / 2


async def no_connection_left(proxy: Proxy) -> None:
    gc.collect()  # An attempt to connect that was cancelled ends with the last of its frames.
    await asyncio.wait_for(proxy.until_open(0), LIMIT)


@contextlib.asynccontextmanager
async def at_work(url: str, namespace: str) -> AsyncIterator[RedisDriver]:
    """Open a driver which commits, watches, and is waited for; close it at the end."""
    driver = RedisDriver(url, namespace=namespace, timeout=TIMEOUT)
    async with driver:
        seen = await driver.changed(Seen())
        waiting = asyncio.ensure_future(wait_for_more(driver, seen))
        await commit_one(driver, put("1", "a"))
        await asyncio.gather(*(head_of(driver) for _ in range(20)))
        yield driver
    (outcome,) = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(outcome, DriverError)


async def wait_for_more(driver: RedisDriver, seen: Seen) -> None:
    while True:
        seen = await driver.changed(seen)


async def test_close(redis_server: RedisLike, redis_namespace: str) -> None:
    async with through_proxy(redis_server.url()) as (proxy, url):
        async with nothing_left(), at_work(url, redis_namespace):
            assert proxy.open >= 2
        await no_connection_left(proxy)


@pytest.mark.parametrize("reachable", ["refused", "stalled"])
async def test_close_while_the_server_is_away(
    redis_server: RedisLike, redis_namespace: str, reachable: str
) -> None:
    async with through_proxy(redis_server.url()) as (proxy, url):
        async with nothing_left(), at_work(url, redis_namespace):
            if reachable == "refused":
                proxy.refuse()
                proxy.cut()
            else:
                proxy.stall()
        proxy.go_on()
        await no_connection_left(proxy)


async def test_close_while_it_reads_and_commits(
    redis_server: RedisLike, redis_namespace: str
) -> None:
    flows = FlowRegistry()
    flows.declare("next")
    async with through_proxy(redis_server.url()) as (proxy, url), nothing_left():
        driver = RedisDriver(url, namespace=redis_namespace, timeout=TIMEOUT)
        async with Engine(driver, flows) as engine:
            contexts = [StateContext(State(f"state-{number}")) for number in range(20)]
            working: list[asyncio.Future[Any]] = [
                asyncio.ensure_future(engine.do(Commit(Transit(ctx, "next")))) for ctx in contexts
            ]
            working += [asyncio.ensure_future(driver.get_liveness(["x"])) for _ in range(20)]
            await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
            proxy.cut()
        outcomes = await asyncio.gather(*working, return_exceptions=True)
        for outcome in outcomes:
            assert outcome is None or isinstance(outcome, list | DriverError | EngineStoppedError)
        async with driver:
            revs = [ctx.committed.rev for ctx in contexts if ctx.committed.rev]
            assert [state.rev for state in await read_log(driver)] == sorted(revs)
