"""A suite with one workload of each kind that a report knows, each of a few milliseconds."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import Iterable
from statistics import median
from time import perf_counter, process_time

from redis import Redis

from benchmarks.setting import Setting
from benchmarks.workload import (
    Measure,
    NotInstalledError,
    Place,
    Sample,
    Side,
    Workload,
)
from flowstate import Commit, Engine, FlowRegistry, Pause, State, StateContext
from flowstate.drivers.memory import MemoryDriver

__all__ = ["broken", "interrupted", "on_a_server", "workloads"]

COMMITS = 50


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return a workload for each picture, each on a store in memory."""
    for tasks in setting.sizes.concurrencies:
        yield Workload(
            f"commits, {tasks} tasks",
            "memory",
            "commit",
            _committing(tasks),
            (Side("sqlite3", "limit", _inserting, mark=1_000.0),),
            place=Place("concurrency", tasks, "flowstate"),
        )
    yield Workload(
        "commit, 100 revisions",
        "memory",
        "commit",
        _committing(filled=100),
        (Side("10 revisions", "small", _committing(filled=10), 1_000.0, Place("growth", 10)),),
        place=Place("growth", 100, "commit"),
    )
    yield Workload(
        "delivery",
        "memory",
        "delivery",
        _delivering,
        mark=60.0,
        worst_mark=1e-9,
        place=Place("fan-out", 1, "memory"),
    )
    yield Workload(
        "peers",
        "memory",
        "commit",
        _committing(),
        (Side("sqlite3", "peer", _inserting, 1_000.0), Side("absent", "peer", _absent, 1.0)),
        place=Place("peers"),
    )


def on_a_server(setting: Setting) -> Iterable[Workload]:
    """Return a workload on Redis, with keys that have to be removed at the end."""

    async def setting_keys() -> Sample:
        namespace = setting.redis_namespace()
        with Redis.from_url(setting.redis_url()) as client:
            start = perf_counter()
            for number in range(COMMITS):
                client.set(f"{{{namespace}}}:{number}", "x")
            return Sample((perf_counter() - start) / COMMITS, statements=1.0)

    yield Workload("keys", "redis", "key", setting_keys)


def broken(setting: Setting) -> Iterable[Workload]:
    """Return a workload of which one side fails, and one that fails itself."""
    yield Workload("half", "memory", "commit", _committing(), (Side("bad", "limit", _failing),))
    yield Workload("whole", "memory", "commit", _failing, (Side("good", "limit", _inserting),))


def interrupted(setting: Setting) -> Iterable[Workload]:
    """Return a workload that is done, and one in which somebody has had enough."""
    yield Workload("done", "memory", "commit", _committing())
    yield Workload("begun", "memory", "commit", _interrupting)


def _committing(tasks: int = 1, filled: int = 0) -> Measure:
    async def measure() -> Sample:
        async with Engine(MemoryDriver(), FlowRegistry()) as engine:
            await _commits(engine, "filled", filled)
            start, cpu = perf_counter(), process_time()
            await asyncio.gather(*(_commits(engine, f"s{n}", COMMITS) for n in range(tasks)))
            done = COMMITS * tasks
            return Sample((perf_counter() - start) / done, (process_time() - cpu) / done, 1.0)

    return measure


async def _commits(engine: Engine, id: str, count: int) -> None:
    ctx = StateContext(State(id))
    for _ in range(count):
        await engine.do(Commit(Pause(ctx)))


async def _delivering() -> Sample:
    seconds = []
    async with Engine(MemoryDriver(), FlowRegistry()) as engine, engine.watch() as states:
        for number in range(COMMITS):
            start = perf_counter()
            await engine.do(Commit(Pause(StateContext(State(f"s{number}")))))
            await anext(states)
            seconds.append(perf_counter() - start)
    return Sample(median(seconds), worst=max(seconds))


async def _inserting() -> Sample:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE log (rev INTEGER PRIMARY KEY, id TEXT)")
    start, cpu = perf_counter(), process_time()
    for _ in range(COMMITS):
        connection.execute("INSERT INTO log (id) VALUES ('a')")
    sample = Sample((perf_counter() - start) / COMMITS, (process_time() - cpu) / COMMITS, 1.0)
    connection.close()
    return sample


async def _absent() -> Sample:
    raise NotInstalledError("absent is not installed")


async def _interrupting() -> Sample:
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.Event().wait()
    raise AssertionError


async def _failing() -> Sample:
    raise RuntimeError("this side\nfails")
