"""Waiting: very many tasks, of which each waits for a state of its own."""

import asyncio
from collections.abc import Iterable
from functools import partial

from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.suites.measured import Measured
from benchmarks.workload import Sample, Side, Workload
from flowstate import Commit, Engine, Pause, State, StateContext, Status

__all__ = ["wait", "workloads"]

CONTENT = Content("waited for")
MOST = 10_000
FEW = 100
TOGETHER = 100  # States of a commit.
GROWTH = 1.3


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    return map(_waiting, engines_of(setting))


def _waiting(engines: Engines) -> Workload:
    count = min(MOST, FEW * engines.store.operations)
    ours = Measured(engines, CONTENT, partial(wait, engines), count)
    return Workload(
        f"waiting for {MOST:,} states",
        engines.store.name,
        "state",
        ours,
        (Side(f"for {FEW} states", "small", partial(_few, engines), mark=GROWTH),),
        rounds=5,
    )


async def _few(engines: Engines) -> Sample:
    async with engines.on(CONTENT) as engine:
        return await wait(engines, engine, FEW)


async def wait(engines: Engines, engine: Engine, count: int) -> Sample:
    """Wait for states that do not exist yet, and commit all of them."""
    ids = [f"{engines.unique()}" for _ in range(count)]
    watch = Stopwatch()
    waits = [asyncio.ensure_future(engine.wait_for(id, status=Status.PAUSED)) for id in ids]
    for start in range(0, count, TOGETHER):
        contexts = [StateContext(State(id)) for id in ids[start : start + TOGETHER]]
        await engine.do(Commit(*map(Pause, contexts)))
    await asyncio.gather(*waits)
    return watch.sample(count)
