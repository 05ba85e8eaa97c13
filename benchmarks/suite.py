"""The comparisons, each with its mark."""

import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from msgspec import Struct

from benchmarks import workloads
from benchmarks.limits import bare_memory, bare_sqlite
from benchmarks.processes import between_processes
from flowstate import Driver, Engine
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.sqlite import SQLiteDriver

__all__ = ["SIZES", "Comparison", "Sizes", "comparisons"]

Measure = Callable[[], Awaitable[float]]


class Sizes(Struct, frozen=True):
    """How much of everything."""

    rounds: int
    memory: int
    sqlite: int
    memory_log: int
    sqlite_log: int
    operations: int


SIZES = {
    "tiny": Sizes(1, 300, 64, 1_000, 1_000, 20),
    "quick": Sizes(5, 100_000, 1_280, 100_000, 30_000, 300),
    "full": Sizes(9, 100_000, 6_400, 1_000_000, 300_000, 1_000),
}
SMALL_LOG = 1_000
FOOTPRINT_REVISIONS = 20_000


class Comparison(Struct, frozen=True):
    """Two measures taken in turns.

    Attributes:
        name: what is done.
        unit: of what the seconds are.
        ours: with flowstate.
        limit: without it, or with it on a small log; ``None`` for a plain figure.
        mark: how many times the limit's seconds ours may take; for a plain figure, how many
            seconds or bytes.
    """

    name: str
    unit: str
    ours: Measure
    limit: Measure | None
    mark: float | None


@asynccontextmanager
async def comparisons(sizes: Sizes, folder: Path) -> AsyncIterator[list[Comparison]]:
    """Return what to measure; a store for growth is filled when it is needed first."""
    async with AsyncExitStack() as stack:
        found = [*_memory(sizes), *_sqlite(sizes, folder)]
        for name, make, revisions in (
            ("memory", lambda _: MemoryDriver(), sizes.memory_log),
            ("sqlite", lambda n: SQLiteDriver(folder / f"growth-{n}.db"), sizes.sqlite_log),
        ):
            small = _Filled(stack, make(SMALL_LOG), SMALL_LOG)
            large = _Filled(stack, make(revisions), revisions)
            found += _growth(f"{name}, {revisions:,} revisions", small, large, sizes)
        found += [
            Comparison("import, beside asyncio", "s", _import_time, None, 0.067),
            *_footprint(),
        ]
        yield found


@asynccontextmanager
async def _engine(driver: Driver) -> AsyncIterator[Engine]:
    async with Engine(driver, workloads.registry()) as engine:
        yield engine


class _Filled:
    """A store with so many revisions, from the time that somebody asks for it.

    A million objects make the garbage collector slow, and with it the bare loops.
    """

    def __init__(self, stack: AsyncExitStack, driver: Driver, revisions: int) -> None:
        self._stack = stack
        self._driver = driver
        self._revisions = revisions
        self._engine: Engine | None = None

    async def engine(self) -> Engine:
        if self._engine is None:
            self._engine = await self._stack.enter_async_context(_engine(self._driver))
            await workloads.fill(self._driver, self._revisions)
        return self._engine


def _memory(sizes: Sizes) -> list[Comparison]:
    async def commits() -> float:
        async with _engine(MemoryDriver()) as engine:
            return await workloads.commits(engine, sizes.memory)

    async def chains() -> float:
        async with _engine(MemoryDriver()) as engine:
            return await workloads.chains(engine, sizes.memory // 6)

    async def delivery() -> float:
        async with _engine(MemoryDriver()) as engine:
            return await workloads.delivery(engine, sizes.operations)

    async def limit() -> float:
        return await bare_memory(sizes.memory)

    return [
        Comparison("memory: commits by one task", "commit", commits, limit, 5.0),
        Comparison("memory: chains of 3 flows, 3 commits", "flow", chains, limit, 10.0),
        Comparison("memory: commit to watcher", "s", delivery, None, 0.001),
    ]


def _sqlite(sizes: Sizes, folder: Path) -> list[Comparison]:
    made = iter(range(1_000_000))

    def ours(count: int, tasks: int) -> Measure:
        async def measure() -> float:
            async with _engine(SQLiteDriver(folder / f"ours-{next(made)}.db")) as engine:
                return await workloads.commits(engine, count, tasks)

        return measure

    async def delivery() -> float:
        async with _engine(SQLiteDriver(folder / f"watch-{next(made)}.db")) as engine:
            return await workloads.delivery(engine, sizes.operations)

    async def between() -> float:
        path = folder / f"between-{next(made)}.db"
        async with _engine(SQLiteDriver(path)) as engine:
            return await between_processes(engine, path, sizes.operations // 5)

    async def limit() -> float:
        return bare_sqlite(folder / f"bare-{next(made)}.db", sizes.sqlite)

    return [
        Comparison("sqlite FULL: one task", "commit", ours(sizes.sqlite, 1), limit, 1 / 0.7),
        Comparison("sqlite FULL: 64 tasks", "commit", ours(4 * sizes.sqlite, 64), limit, 1 / 4),
        Comparison("sqlite: commit to watcher", "s", delivery, None, 0.010),
        Comparison("sqlite: commit to watcher, other process", "s", between, None, None),
    ]


def _growth(name: str, small: _Filled, large: _Filled, sizes: Sizes) -> list[Comparison]:
    rounds = iter(range(1_000_000))

    def on(store: _Filled, what: str) -> Measure:
        async def measure() -> float:
            engine = await store.engine()
            unique = f"{what}{next(rounds)}"
            if what == "commit":
                return await workloads.commits(engine, sizes.operations, name=unique)
            if what == "get by id":
                return await workloads.gets(engine, sizes.operations)
            if what == "page by label":
                return await workloads.pages(engine, sizes.operations)
            return await workloads.delivery(engine, sizes.operations, unique)

        return measure

    operations = ("commit", "get by id", "page by label", "watch")
    return [
        Comparison(f"{name}: {what}", "operation", on(large, what), on(small, what), 1.3)
        for what in operations
    ]


async def _import_time() -> float:
    program = (
        "import asyncio, time; a = time.process_time(); import flowstate;"
        "print(time.process_time() - a)"
    )
    return float(subprocess.check_output([sys.executable, "-c", program]))


def _footprint() -> list[Comparison]:
    def size(states: int, labels: int) -> Measure:
        async def measure() -> float:
            async with MemoryDriver() as driver:
                tracemalloc.start()
                await workloads.grow(driver, states, FOOTPRINT_REVISIONS, labels)
                size, _ = tracemalloc.get_traced_memory()
                tracemalloc.stop()
            return size / FOOTPRINT_REVISIONS

        return measure

    return [
        Comparison(
            f"memory: size of a {what}, {labels} labels", "B", size(states, labels), None, None
        )
        for what, states in (("state", FOOTPRINT_REVISIONS), ("revision", 1))
        for labels in (0, 2)
    ]
