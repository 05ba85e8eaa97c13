"""A pass of recovery costs what the stalled states cost, however many others are active."""

import contextlib
import itertools
import sqlite3
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psycopg
import pytest

from flowstate import Command, Commit, End, Engine, FlowRegistry, State, StateContext, Transition
from flowstate.driver import Driver, Heartbeat, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.recovery import Recoverer
from flowstate.stalling import SHORTEST
from tests.servers import Postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

FEW, MANY = 1_000, 200_000
STALLED = 100
MOST_RATIO = 1.3
ROUNDS = 40  # As long as the machine is too busy to tell.
HOUR = 3_600_000_000

Record = Callable[[str, object], None]


class Store:
    """A store with active states, and a recoverer whose passes are made here.

    Attributes:
        seconds: that the fastest pass took.
        peak: how many bytes the leanest one held at most.
    """

    def __init__(self, engine: Engine, recoverer: Recoverer) -> None:
        self._engine = engine
        self._recoverer = recoverer
        self._numbers = itertools.count()
        self.seconds = self.peak = float("inf")

    async def measure(self) -> None:
        """Make two passes."""
        await self._stall()
        started = time.perf_counter()
        await self._pass()
        self.seconds = min(self.seconds, time.perf_counter() - started)
        await self._stall()
        tracemalloc.start()
        await self._pass()
        self.peak = min(self.peak, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    async def _stall(self) -> None:
        number = next(self._numbers)
        states = tuple(active(f"stalled-{number}-{place}") for place in range(STALLED))
        driver = self._engine.driver
        (verdict,) = await driver.commit([Writes(f"round-{number}", states)])
        assert isinstance(verdict, tuple)
        # The last heartbeat of their engine, as it were; their attempts may take their time.
        await driver.beat([Heartbeat(state.id, state.rev, SHORTEST, "") for state in verdict])
        await self._engine.clock.sleep(0.01)

    async def _pass(self) -> None:
        before = self._recoverer.stats().retried
        await self._recoverer._pass(None)
        await self._engine.idle()
        assert self._recoverer.stats().retried - before == STALLED


def active(id: str) -> State:
    return State(id, transition=Transition("work"))


@contextlib.asynccontextmanager
async def opened(driver: Driver) -> AsyncIterator[Store]:
    flows = FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx))

    async with Engine(driver, flows) as engine:
        recoverer = Recoverer(engine, max_running=10 * STALLED, rate=1e9, lease=600.0)
        async with recoverer._lease:  # Without the passes that it would make itself.
            await recoverer._lease.wait_held()
            yield Store(engine, recoverer)


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
    async with contextlib.AsyncExitStack() as entered:
        stores = []
        for count in (FEW, MANY):
            driver = MemoryDriver()
            stores.append(await entered.enter_async_context(opened(driver)))
            for start in range(0, count, STALLED):
                ids = [f"active-{number}" for number in range(start, start + STALLED)]
                await driver.commit([Writes(f"{start}", tuple(map(active, ids)))])
        record_testsuite_property("pass_memory", await compare(*stores))


async def test_on_sqlite(tmp_path: Path, record_testsuite_property: Record) -> None:
    async with contextlib.AsyncExitStack() as entered:
        stores = []
        for count in (FEW, MANY):
            path = tmp_path / f"{count}.db"
            async with SQLiteDriver(path) as driver:
                await driver.commit([Writes("first", (active("active"),))])
            fill_sqlite(path, count)
            stores.append(await entered.enter_async_context(opened(SQLiteDriver(path))))
        record_testsuite_property("pass_sqlite", await compare(*stores))


def fill_sqlite(path: Path, count: int) -> None:
    """Add copies of the one state that is there, which stall an hour later."""
    columns = {
        "log": "rev + n, id || n, 0, status, committed_at, NULL, token, body",
        "latest": f"id || n, rev + n, status, labels, stalls_at + {HOUR} + n, NULL, NULL",
    }
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for table, values in columns.items():
            connection.execute(
                f"INSERT INTO {table} WITH RECURSIVE number (n) AS"
                f" (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {count})"
                f" SELECT {values} FROM {table}, number WHERE rev = 1"
            )


async def test_on_postgres(
    postgres: Postgres, postgres_schema: str, record_testsuite_property: Record
) -> None:
    url, many = postgres.url(), f"{postgres_schema}_many"
    try:
        async with contextlib.AsyncExitStack() as entered:
            stores = []
            for count, schema in ((FEW, postgres_schema), (MANY, many)):
                async with PostgresDriver(url, schema=schema):
                    pass
                fill_postgres(url, schema, count)
                driver = PostgresDriver(url, schema=schema)
                stores.append(await entered.enter_async_context(opened(driver)))
            record_testsuite_property("pass_postgres", await compare(*stores))
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET client_min_messages = warning")
            connection.execute(f"DROP SCHEMA {many} CASCADE".encode())


def fill_postgres(url: str, schema: str, count: int) -> None:
    fill = f"""
        INSERT INTO log SELECT rev, 'active-' || rev, 0, 'active', clock_timestamp(), NULL,
            'token-' || rev, json_build_object('v', 1, 'id', 'active-' || rev)
            FROM generate_series(1, {count}) AS rev;
        INSERT INTO latest SELECT id, rev, 'active', false, false,
            timestamptz '9000-01-01 00:00:00+00' + rev * interval '1 second', 120000000 FROM log;
    """
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"SET search_path = {schema}".encode())
        connection.execute(fill.encode())
        connection.execute(b"ANALYZE")
