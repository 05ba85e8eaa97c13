"""A server that stands still with its connections open: every operation ends all the same."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from flowstate import (
    Commit,
    CommitUnknownError,
    DriverError,
    Engine,
    FlowRegistry,
    Pause,
    State,
    StateContext,
    StoreUnavailableError,
)
from flowstate.driver import DueQuery, Heartbeat, Seen, StateQuery
from flowstate.drivers.redis import RedisDriver
from tests.redis_servers import RedisServer
from tests.support import commit_one, put

TIMEOUT = 0.5
LIMIT = 2.5 * TIMEOUT + 1.0  # An attempt, the last one, and a busy machine.

READS: dict[str, Callable[[RedisDriver], Awaitable[Any]]] = {
    "get_state": lambda driver: driver.get_state("a"),
    "get_states": lambda driver: driver.get_states(StateQuery()),
    "get_data": lambda driver: driver.get_data("x"),
    "get_due": lambda driver: driver.get_due(DueQuery("delay")),
    "beat": lambda driver: driver.beat([Heartbeat("a", 1, 60.0, "")]),
    "get_liveness": lambda driver: driver.get_liveness(["a"]),
    "compact": lambda driver: driver.compact(1),
    "open": lambda driver: RedisDriver(driver.store, timeout=TIMEOUT).__aenter__(),
}


@pytest.fixture(params=["url", "client"])
async def store(request: pytest.FixtureRequest, server: RedisServer) -> AsyncIterator[Any]:
    """A URL, or a client that waits without end."""
    if request.param == "url":
        yield server.url()
        return
    async with Redis.from_url(server.url(), socket_timeout=None) as client:
        yield client


@pytest.fixture
async def server() -> AsyncIterator[RedisServer]:
    with RedisServer() as server:
        yield server
        os.kill(server.pid, signal.SIGCONT)


@pytest.fixture
async def driver(server: RedisServer, store: Any) -> AsyncIterator[RedisDriver]:
    """It is open, and its server stands still."""
    async with RedisDriver(store, timeout=TIMEOUT) as driver:
        await commit_one(driver, put("1", "a"))
        await driver.changed(Seen())
        os.kill(server.pid, signal.SIGSTOP)
        yield driver


async def test_reads(driver: RedisDriver) -> None:
    started = time.monotonic()
    asked = [asyncio.ensure_future(read(driver)) for read in READS.values()]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert time.monotonic() - started < LIMIT
    for name, outcome in zip(READS, outcomes, strict=True):
        assert isinstance(outcome, StoreUnavailableError), name


async def test_a_commit(server: RedisServer, driver: RedisDriver) -> None:
    started = time.monotonic()
    verdicts = await driver.commit([put("2", "b"), put("3", "c")])
    assert time.monotonic() - started < LIMIT
    assert [type(verdict) for verdict in verdicts] == [CommitUnknownError] * 2
    os.kill(server.pid, signal.SIGCONT)
    assert (await commit_one(driver, put("4", "d")))[0].rev >= 2


async def test_news(driver: RedisDriver) -> None:
    seen = await driver.changed(Seen())
    started = time.monotonic()
    with pytest.raises(DriverError):
        await wait_for_more(driver, seen)
    assert time.monotonic() - started < LIMIT + TIMEOUT


async def wait_for_more(driver: RedisDriver, seen: Seen) -> None:
    while True:
        seen = await driver.changed(seen)


async def test_closing(server: RedisServer, store: Any) -> None:
    started = time.monotonic()
    async with RedisDriver(store, timeout=TIMEOUT) as driver:
        await driver.changed(Seen())
        waiting = asyncio.ensure_future(driver.get_state("a"))
        os.kill(server.pid, signal.SIGSTOP)
        await asyncio.sleep(0.01)  # reason: it is to wait for the server
    assert time.monotonic() - started < LIMIT
    assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], DriverError)


async def test_an_engine(server: RedisServer, store: Any) -> None:
    """A deadline of the caller's own ends a commit within the driver's timeout."""
    async with Engine(RedisDriver(store, timeout=TIMEOUT), FlowRegistry()) as engine:
        ctx = StateContext(State("a"))
        await engine.do(Commit(Pause(ctx)))
        os.kill(server.pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises((TimeoutError, CommitUnknownError)):
            async with asyncio.timeout(TIMEOUT / 5):
                await engine.do(Commit(Pause(ctx)))
        assert time.monotonic() - started < LIMIT
        started = time.monotonic()
    assert time.monotonic() - started < LIMIT


async def test_what_waits_behind_a_commit(driver: RedisDriver) -> None:
    """It is not sent any more, and takes no longer than the commit that it waited for."""
    flows = FlowRegistry()
    flows.declare("work")
    async with Engine(driver, flows, shutdown_timeout=0.1) as engine:
        started = time.monotonic()
        commit = asyncio.ensure_future(engine.do(Commit(Pause(StateContext(State("b"))))))
        await asyncio.sleep(0.01)  # reason: it is to be on its way
        starts = [engine.start(StateContext(State(f"s-{n}")), "work") for n in range(100)]
        found = await asyncio.gather(commit, *starts, return_exceptions=True)
        assert time.monotonic() - started < LIMIT
    assert [type(each) for each in found] == [CommitUnknownError, *[StoreUnavailableError] * 100]
    assert isinstance(found[0], CommitUnknownError)
    assert isinstance(found[0].__cause__, StoreUnavailableError)
