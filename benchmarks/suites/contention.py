"""Contention: many tasks that all change one state, and read again when they lose, or update it."""

import asyncio
from collections.abc import Iterable
from functools import partial
from itertools import count as counting

from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.suites.measured import Measured
from benchmarks.workload import Sample, Side, Workload
from flowstate import (
    Commit,
    Engine,
    GetState,
    RevisionMismatchError,
    State,
    StateContext,
    Transit,
)

__all__ = ["contend", "update", "workloads"]

CONTENT = Content("contended")
TASKS = 16
MARK = 1 / 4


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    for engines in engines_of(setting):
        yield _contention(engines)
        yield _updates(engines)


def _contention(engines: Engines) -> Workload:
    # Of the tasks only one wins at a time.
    count = max(TASKS, engines.store.commits // (4 if engines.store.is_shared else 1))
    ours = Measured(engines, CONTENT, partial(contend, engines, "success"), count)
    return Workload(
        f"commits to one state, {TASKS} tasks",
        engines.store.name,
        "commit",
        ours,
        # Were none in vain, a success would take no longer: the ratio is attempts per success.
        (Side("each attempt, also in vain", "small", partial(_attempts, engines, count)),),
    )


def _updates(engines: Engines) -> Workload:
    count = max(TASKS, engines.store.commits // (4 if engines.store.is_shared else 1))
    ours = Measured(engines, CONTENT, partial(update, engines), count)
    # In memory nothing waits between a read and a commit, so no race is ever lost.
    mark = MARK if engines.store.name != "memory" else None
    loop = Side("read, commit, and again", "small", partial(_successes, engines, count), mark=mark)
    return Workload(
        f"updates of one state, {TASKS} tasks", engines.store.name, "update", ours, (loop,)
    )


async def _successes(engines: Engines, count: int) -> Sample:
    async with engines.on(CONTENT) as engine:
        return await contend(engines, "success", engine, count)


async def update(engines: Engines, engine: Engine, count: int) -> Sample:
    """Let tasks update one state so many times."""
    id = engines.unique()
    await engine.do(Commit(Transit(StateContext(State(id)), "first")))
    left = iter(range(count))

    def add(ctx: StateContext) -> None:
        ctx.put(ctx.get(int, default=0) + 1)

    async def work() -> None:
        for _ in left:
            await engine.update(id, add)

    watch = Stopwatch()
    await asyncio.gather(*(work() for _ in range(TASKS)))
    return watch.sample(count)


async def _attempts(engines: Engines, count: int) -> Sample:
    async with engines.on(CONTENT) as engine:
        return await contend(engines, "attempt", engine, count)


async def contend(engines: Engines, each: str, engine: Engine, count: int) -> Sample:
    """Have so many commits succeed; the sample is for each of them, or for each attempt."""
    id = engines.unique()
    await engine.do(Commit(Transit(StateContext(State(id)), "first")))
    attempts = counting(1)
    left = iter(range(count))
    tried = 0

    async def work() -> None:
        nonlocal tried
        for _ in left:
            while True:
                ctx = StateContext(await engine.do(GetState(id)))
                tried = next(attempts)
                try:
                    await engine.do(Commit(Transit(ctx, "first")))
                except RevisionMismatchError:
                    continue
                break

    watch = Stopwatch()
    await asyncio.gather(*(work() for _ in range(TASKS)))
    return watch.sample(count if each == "success" else tried)
