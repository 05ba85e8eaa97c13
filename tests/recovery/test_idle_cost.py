"""A recoverer and a delayer with nothing to do ask the store next to nothing, and write less."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from flowstate import Delayer, Engine, FlowRegistry
from flowstate.driver import Driver
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.recovery import Recoverer
from flowstate.testcases.support import end
from tests.redis_servers import RedisServer
from tests.servers import FAST, PostgresServer

pytestmark = pytest.mark.slow

SECONDS = 12.0
MOST_IN_A_SECOND = 3.0
WRITES = {"commit", "beat", "compact"}
ASKED = (*WRITES, "get_state", "get_states", "get_data", "get_due", "get_liveness")

Record = Callable[[str, object], None]


@contextlib.asynccontextmanager
async def idle(driver: Driver) -> AsyncIterator[Engine]:
    """Run both until they have settled, and on; check at the end that nothing was committed."""
    flows = FlowRegistry()
    flows.set("work", end)
    async with (
        Engine(driver, flows) as engine,
        Recoverer(engine) as recoverer,
        Delayer(engine),
    ):
        while not recoverer.is_leading:  # noqa: ASYNC110 - it sends no event
            await asyncio.sleep(0.01)  # reason: as above
        await asyncio.sleep(1.0)  # reason: the first looks at the store are no idling
        head = await engine.head()
        yield engine
        assert await engine.head() == head


def counted(driver: Driver) -> Counter[str]:
    """Count what a driver is asked from now on."""
    calls: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., Any]:
        method = getattr(driver, name)

        def call(*args: Any) -> Any:
            calls[name] += 1
            return method(*args)

        return call

    for name in ASKED:
        setattr(driver, name, counting(name))
    return calls


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_calls_of_the_driver(
    kind: str, tmp_path: Path, record_testsuite_property: Record
) -> None:
    driver = MemoryDriver() if kind == "memory" else SQLiteDriver(tmp_path / "store.db")
    async with idle(driver):
        calls = counted(driver)
        await asyncio.sleep(SECONDS)
        found = dict(calls)
    record_testsuite_property(f"idle_{kind}", found)
    assert sum(found.values()) < MOST_IN_A_SECOND * SECONDS, found
    assert set(found) & WRITES <= {"beat"}


async def test_statements_on_postgres(record_testsuite_property: Record) -> None:
    with PostgresServer({**FAST, "log_statement": "all", "log_min_messages": "log"}) as server:
        async with idle(PostgresDriver(server.url())):
            before = len(server.log)
            await asyncio.sleep(SECONDS)
            lines = [
                line.partition(": ")[2]
                for line in server.log[before:].splitlines()
                if "LOG:  execute " in line or "LOG:  statement: " in line
            ]
    statements = Counter(line[:60] for line in lines)
    record_testsuite_property("idle_postgres", dict(statements))
    assert len(lines) < MOST_IN_A_SECOND * SECONDS, statements


async def test_commands_on_redis(record_testsuite_property: Record) -> None:
    with RedisServer() as server, server.client() as client:
        async with idle(RedisDriver(server.url())):
            before = commands(client)
            await asyncio.sleep(SECONDS)
            sent = commands(client) - before
    record_testsuite_property("idle_redis", dict(sent))
    # Each command that a script runs is counted as well, and our own look.
    asked = sum(sent[name] for name in ("eval", "evalsha", "fcall", "xread"))
    assert asked < MOST_IN_A_SECOND * SECONDS, sent
    assert sent.total() < 2 * MOST_IN_A_SECOND * SECONDS, sent


def commands(client: "Redis") -> Counter[str]:
    stats: Any = client.info("commandstats")
    return Counter({name.removeprefix("cmdstat_"): each["calls"] for name, each in stats.items()})
