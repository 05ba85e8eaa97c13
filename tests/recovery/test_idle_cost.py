"""A recoverer and a delayer with nothing to do ask the store next to nothing, and write less.

When they ask is a matter of their clock, which is moved on by hand: ten minutes pass in a moment.
What a driver asks its server by itself is a matter of real time.
"""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from redis import Redis

from flowstate import Delayer, Engine, FakeClock, FlowRegistry, SystemClock
from flowstate.driver import Driver
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.recovery import Recoverer
from flowstate.testcases.support import end
from tests.redis_servers import RedisServer
from tests.scripted import settled
from tests.servers import FAST, PostgresServer

pytestmark = pytest.mark.slow

SECONDS = 600
STANDING = 3.0  # Real seconds in which their clock stands still.
LOOKS = 0.45  # In a second, of both; three heartbeats in the time of a lease, and twelve looks.
WRITES = {"commit", "beat", "compact"}
ASKED = (*WRITES, "get_state", "get_states", "count", "get_data", "get_due", "get_liveness")
COMMANDS = 8  # Of Redis in a call: the script, and six ranges in the page of what is due.

Record = Callable[[str, object], None]


class HandMovedClock(FakeClock):
    """A clock for those who look at times of a store as often as on a real one."""

    longest_sleep = SystemClock.longest_sleep


@attrs.define
class Asked:
    """What a driver is asked, and how many of these calls have not returned yet."""

    calls: Counter[str] = attrs.field(factory=Counter)
    on_their_way: int = 0

    @contextlib.contextmanager
    def call(self, name: str) -> Iterator[None]:
        self.calls[name] += 1
        self.on_their_way += 1
        try:
            yield
        finally:
            self.on_their_way -= 1

    def watch(self, driver: Driver) -> None:
        """Count what a driver is asked from now on."""

        def counting(name: str) -> Callable[..., Any]:
            method = getattr(driver, name)

            async def call(*args: Any) -> Any:
                with self.call(name):
                    return await method(*args)

            return call

        for name in ASKED:
            setattr(driver, name, counting(name))


@attrs.frozen
class Idle:
    """Both of them on a store with nothing to do."""

    engine: Engine
    asked: Asked
    clock: HandMovedClock

    async def wait(self, seconds: int) -> None:
        """Let so many seconds pass, however long the store takes for what it is asked."""
        for _ in range(seconds):
            self.clock.advance(1.0)
            await settled()
            while self.asked.on_their_way:  # noqa: ASYNC110 - real time, of the store
                await asyncio.sleep(0.0005)  # reason: as above


@contextlib.asynccontextmanager
async def idle(driver: Driver) -> AsyncIterator[Idle]:
    """Run both until they have settled, and on; check at the end that nothing was committed."""
    flows = FlowRegistry()
    flows.set("work", end)
    clock, asked = HandMovedClock(autojump=False), Asked()
    async with (
        Engine(driver, flows, clock=clock) as engine,
        Recoverer(engine) as recoverer,
        Delayer(engine),
    ):
        asked.watch(driver)
        store = Idle(engine, asked, clock)
        while not recoverer.is_leading:
            await store.wait(1)
        await store.wait(60)  # The first looks at the store are no idling.
        head = await engine.head()
        asked.calls.clear()
        yield store
        assert await engine.head() == head


def check_calls(store: Idle) -> None:
    assert store.asked.calls.total() < LOOKS * SECONDS, store.asked.calls
    assert set(store.asked.calls) & WRITES <= {"beat"}


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_calls_of_the_driver(
    kind: str, tmp_path: Path, record_testsuite_property: Record
) -> None:
    driver = MemoryDriver() if kind == "memory" else SQLiteDriver(tmp_path / "store.db")
    async with idle(driver) as store:
        await store.wait(SECONDS)
        check_calls(store)
        record_testsuite_property(f"idle_{kind}", dict(store.asked.calls))


async def test_statements_on_postgres(record_testsuite_property: Record) -> None:
    settings = {**FAST, "log_statement": "all", "log_min_messages": "log"}
    with PostgresServer(settings) as server:
        async with idle(PostgresDriver(server.url())) as store:
            began, before = time.monotonic(), len(server.log)
            await store.wait(SECONDS)
            await asyncio.sleep(STANDING)  # reason: the driver looks by itself
            took, sent = time.monotonic() - began, statements(server.log[before:])
            check_calls(store)
    record_testsuite_property("idle_postgres", {**sent, "seconds": took})
    # Each call is a statement, and the driver looks once a second.
    assert sent.total() <= store.asked.calls.total() + took + 1, (took, sent)


def statements(log: str) -> Counter[str]:
    lines = [line.partition("LOG:  ")[2] for line in log.splitlines()]
    return Counter(line[:60] for line in lines if line.startswith(("execute ", "statement: ")))


async def test_commands_on_redis(record_testsuite_property: Record) -> None:
    with RedisServer() as server, server.client() as client:
        async with idle(RedisDriver(server.url())) as store:
            began, before = time.monotonic(), commands(client)
            await store.wait(SECONDS)
            await asyncio.sleep(STANDING)  # reason: the driver looks by itself
            took, sent = time.monotonic() - began, commands(client) - before
            check_calls(store)
    record_testsuite_property("idle_redis", {**sent, "seconds": took})
    calls = store.asked.calls.total()
    # Each call is a script, and the driver looks by two commands every other second.
    assert sent["eval"] + sent["evalsha"] <= calls + 1, sent  # One may be sent as text at first.
    assert sent["xread"] + sent["hget"] <= took + 2, (took, sent)
    assert sent.total() <= COMMANDS * calls + took + 3, (took, sent)  # With our own look.


def commands(client: "Redis") -> Counter[str]:
    stats: Any = client.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()})
