"""The comparisons, each with its mark."""

import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from benchmarks import workloads
from benchmarks.comparison import Comparison, Measure, Sizes
from benchmarks.growth import Filled, growth
from benchmarks.limits import bare_memory, bare_sqlite
from benchmarks.postgres.suite import comparisons as postgres_comparisons
from benchmarks.processes import between_processes
from benchmarks.redis.suite import comparisons as redis_comparisons
from flowstate import Driver, Engine
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.sqlite import SQLiteDriver

__all__ = ["comparisons"]

SMALL_LOG = 1_000
FOOTPRINT_REVISIONS = 20_000


@asynccontextmanager
async def comparisons(sizes: Sizes, folder: Path) -> AsyncIterator[list[Comparison]]:
    """Return what to measure; a store for growth is filled when it is needed first."""
    async with AsyncExitStack() as stack:
        found = [*_memory(sizes), *_sqlite(sizes, folder)]
        for name, revisions in (("memory", sizes.memory_log), ("sqlite", sizes.sqlite_log)):
            small, large = (
                Filled(
                    stack,
                    MemoryDriver
                    if name == "memory"
                    else partial(SQLiteDriver, folder / f"growth-{size}.db"),
                    partial(workloads.fill, revisions=size),
                )
                for size in (SMALL_LOG, revisions)
            )
            found += growth(f"{name}, {revisions:,} revisions", small, large, sizes)
        found += postgres_comparisons(stack, sizes)
        found += redis_comparisons(stack, sizes)
        found += [
            Comparison("import, beside asyncio", "s", _import_time, None, 0.067),
            *_footprint(),
        ]
        yield found


@asynccontextmanager
async def _engine(driver: Driver) -> AsyncIterator[Engine]:
    async with Engine(driver, workloads.registry()) as engine:
        yield engine


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
