"""A pass of recovery costs what the stalled states cost, however many others are active."""

import asyncio
import contextlib
import itertools
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import psycopg
import pytest

from flowstate import Commit, Engine, FlowRegistry, State, StateContext, Transit
from flowstate.driver import Driver, Heartbeat
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.recovery import Recoverer
from flowstate.recovery_rules import SHORTEST
from flowstate.testcases.support import end
from tests.servers import Postgres

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(240)]

FEW, MANY = 1_000, 20_000
STALLED = 100
MOST_RATIO = 1.3
ROUNDS = 40  # As long as the machine is too busy to tell.

Record = Callable[[str, object], None]


class Store:
    """A store with active states, and a recoverer that looks at every commit.

    Attributes:
        seconds: that the fastest pass took.
        peak: how many bytes the leanest one held at most.
    """

    def __init__(self, engine: Engine, recoverer: Recoverer) -> None:
        self._engine = engine
        self._recoverer = recoverer
        self._numbers = itertools.count()
        self.seconds = self.peak = float("inf")

    async def fill(self, count: int) -> None:
        """Add so many active states."""
        for start in range(0, count, STALLED):
            await self._commit(f"active-{number}" for number in range(start, start + STALLED))

    async def measure(self) -> None:
        """Let two passes be made."""
        started = time.perf_counter()
        await self._pass()
        self.seconds = min(self.seconds, time.perf_counter() - started)
        tracemalloc.start()
        await self._pass()
        self.peak = min(self.peak, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    async def _pass(self) -> None:
        before = self._recoverer.stats().retried
        number = next(self._numbers)
        contexts = await self._commit(f"stalled-{number}-{place}" for place in range(STALLED))
        # The last heartbeat of their engine, as it were; their attempts may take their time.
        await self._engine.driver.beat(
            [Heartbeat(ctx.committed.id, ctx.committed.rev, SHORTEST, "") for ctx in contexts]
        )
        while self._recoverer.stats().retried - before < STALLED:  # noqa: ASYNC110 - as below
            await asyncio.sleep(0.001)  # reason: counts send no event
        await self._engine.idle()

    async def _commit(self, ids: Iterable[str]) -> list[StateContext]:
        contexts = [StateContext(State(id)) for id in ids]
        await self._engine.do(Commit(*(Transit(ctx, "work") for ctx in contexts)))
        return contexts


@contextlib.asynccontextmanager
async def opened(driver: Driver, count: int) -> AsyncIterator[Store]:
    flows = FlowRegistry()
    flows.set("work", end)
    async with (
        Engine(driver, flows) as engine,
        Recoverer(engine, max_running=10 * STALLED, rate=1e9, poll_interval=0.001) as recoverer,
    ):
        store = Store(engine, recoverer)
        await store.fill(count)
        yield store


async def compare(few: Store, many: Store) -> str:
    """Return what was measured, and fail if more active states make a pass dearer."""
    for _ in range(ROUNDS):
        await few.measure()
        await many.measure()
        if max(many.seconds / few.seconds, many.peak / few.peak) <= MOST_RATIO:
            break
    found = (
        f"{few.seconds * 1e3:.1f} ms and {few.peak / 1e3:.0f} KB among {FEW:,}, "
        f"{many.seconds * 1e3:.1f} ms and {many.peak / 1e3:.0f} KB among {MANY:,}"
    )
    assert many.seconds / few.seconds <= MOST_RATIO, found
    assert many.peak / few.peak <= MOST_RATIO, found
    return found


async def test_in_memory(record_testsuite_property: Record) -> None:
    async with opened(MemoryDriver(), FEW) as few, opened(MemoryDriver(), MANY) as many:
        record_testsuite_property("pass_memory", await compare(few, many))


async def test_on_sqlite(tmp_path: Path, record_testsuite_property: Record) -> None:
    async with (
        opened(SQLiteDriver(tmp_path / "few.db"), FEW) as few,
        opened(SQLiteDriver(tmp_path / "many.db"), MANY) as many,
    ):
        record_testsuite_property("pass_sqlite", await compare(few, many))


async def test_on_postgres(
    postgres: Postgres, postgres_schema: str, record_testsuite_property: Record
) -> None:
    url, schema = postgres.url(), f"{postgres_schema}_many"
    try:
        async with (
            opened(PostgresDriver(url, schema=postgres_schema), FEW) as few,
            opened(PostgresDriver(url, schema=schema), MANY) as many,
        ):
            record_testsuite_property("pass_postgres", await compare(few, many))
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET client_min_messages = warning")
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())
