"""The comparisons on Postgres, each with its mark."""

import itertools
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from time import process_time
from typing import Generic, TypeVar

from msgspec.structs import replace

from benchmarks import workloads
from benchmarks.comparison import Comparison, Measure, Sizes
from benchmarks.growth import Filled, growth
from benchmarks.postgres.database import Database, fill
from benchmarks.postgres.limits import Bare
from benchmarks.postgres.processes import Deliveries, Workers, deliveries
from flowstate import Driver, Engine
from flowstate.drivers.postgres import PostgresDriver

__all__ = ["comparisons"]

T = TypeVar("T")
SMALL_LOG = 10_000
MANY = 8  # Times as many commits by 64 tasks as by one.
CHAINS = 32


class Once(Generic[T]):
    """Something that is made when it is needed first."""

    def __init__(self, make: Callable[[], Awaitable[T]]) -> None:
        self._make = make
        self._made: list[T] = []

    async def get(self) -> T:
        if not self._made:
            self._made.append(await self._make())
        return self._made[0]


class Runs(Generic[T]):
    """Runs of which several figures are taken, each in a comparison of its own."""

    def __init__(self, run: Callable[[], Awaitable[T]]) -> None:
        self._run = run
        self._results: list[T] = []

    def figure(self, take: Callable[[T], float]) -> Measure:
        rounds = itertools.count()

        async def measure() -> float:
            number = next(rounds)
            if number == len(self._results):
                self._results.append(await self._run())
            return take(self._results[number])

        return measure


def comparisons(stack: AsyncExitStack, sizes: Sizes) -> list[Comparison]:
    """Return what to measure; the server starts when it is needed first."""
    database = Database(stack)
    return [
        *_commits(stack, database, sizes),
        *_chains(stack, database, sizes),
        *_deliveries(stack, database, sizes),
        *_growth(stack, database, sizes),
    ]


def _engine(stack: AsyncExitStack, database: Database, schema: str) -> Once[Engine]:
    """Return an engine whose connections are warm."""

    async def make() -> Engine:
        engine = Engine(PostgresDriver(database.url(), schema=schema), workloads.registry())
        await stack.enter_async_context(engine)
        await workloads.commits(engine, 10, name="warm")
        await workloads.commits(engine, 10 * 64, 64, name="warm together")
        return engine

    return Once(make)


def _commits(stack: AsyncExitStack, database: Database, sizes: Sizes) -> list[Comparison]:
    engine = _engine(stack, database, "commits")
    bare = Once(lambda: Bare.open(stack, database.url()))
    one_process, four_processes = (
        Once(partial(_workers, stack, database, processes)) for processes in (1, 4)
    )
    names = (f"hot{number}" for number in itertools.count())
    few, many = sizes.postgres, MANY * sizes.postgres

    async def one() -> float:
        return await workloads.commits(await engine.get(), few, 1, next(names))

    async def bare_one() -> float:
        return await (await bare.get()).one(few)

    async def tasks() -> float:
        return await workloads.commits(await engine.get(), many, 64, next(names))

    async def bare_many() -> float:
        return await (await bare.get()).many(many)

    async def four() -> float:
        return await (await four_processes.get()).commits(many)

    async def single() -> float:
        return await (await one_process.get()).commits(many)

    return [
        Comparison("postgres: one task", "commit", one, bare_one, 1 / 0.7),
        Comparison("postgres: 64 tasks", "commit", tasks, bare_many, 1 / 0.6),
        Comparison("postgres: 4 processes of 16 tasks, by 1 of 64", "commit", four, single, 1.0),
    ]


async def _workers(stack: AsyncExitStack, database: Database, processes: int) -> Workers:
    return await Workers.start(stack, database.url(), "commits", processes, 64 // processes)


def _chains(stack: AsyncExitStack, database: Database, sizes: Sizes) -> list[Comparison]:
    engine = _engine(stack, database, "chains")
    names = (f"chain{number}" for number in itertools.count())

    def runs(tasks: int, count: int) -> Runs[tuple[float, float]]:
        async def run() -> tuple[float, float]:
            warm = await engine.get()
            before = process_time()
            seconds = 3 * await workloads.chains(warm, count, tasks, next(names))
            return seconds, (process_time() - before) / count

        return Runs(run)

    found = []
    for name, run, mark in (
        ("one at a time", runs(1, sizes.postgres // 2), None),
        (f"{CHAINS} at once", runs(CHAINS, 2 * sizes.postgres), 0.001),
    ):
        what = f"postgres: chain of 3 commits, {name}"
        found += [
            Comparison(what, "chain", run.figure(lambda figures: figures[0]), None, None),
            Comparison(f"{what}, CPU", "chain", run.figure(lambda figures: figures[1]), None, mark),
        ]
    return found


def _deliveries(stack: AsyncExitStack, database: Database, sizes: Sizes) -> list[Comparison]:
    engine = _engine(stack, database, "watched")
    names = (f"watched{number}" for number in itertools.count())

    async def delivery() -> float:
        return await workloads.delivery(await engine.get(), sizes.operations, next(names))

    async def run() -> Deliveries:
        return await deliveries(database.url(), "between", 3 * sizes.operations)

    between = Runs(run)
    name = "postgres: to watcher, other process"
    return [
        Comparison("postgres: commit to watcher", "s", delivery, None, 0.010),
        Comparison(f"{name}, median", "s", between.figure(lambda run: run.median), None, 0.010),
        Comparison(f"{name}, 99th %", "s", between.figure(lambda run: run.worst), None, 0.050),
        Comparison(f"{name}, apart", "s", between.figure(lambda run: run.apart), None, 0.00105),
    ]


def _growth(stack: AsyncExitStack, database: Database, sizes: Sizes) -> list[Comparison]:
    def filled(schema: str, revisions: int) -> Filled:
        def make() -> Driver:
            return PostgresDriver(database.url(), schema=schema)

        async def write(_: Driver) -> None:
            fill(database.url(), schema, revisions)

        return Filled(stack, make, write)

    small = filled("small", min(SMALL_LOG, sizes.postgres_log))
    large = filled("large", sizes.postgres_log)
    fewer = replace(sizes, operations=sizes.operations // 2)  # Each takes ten times as long.
    return growth(f"postgres, {sizes.postgres_log:,} revisions", small, large, fewer)
