"""Watching: from the call of a commit to the last of all watchers having the revision."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from time import perf_counter

from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.suites.measured import Measured
from benchmarks.workload import Place, Sample, Workload
from flowstate import Commit, Engine, State, StateContext, Transit, Watch
from flowstate.ground.frozen import EMPTY

__all__ = ["deliver", "workloads"]

CONTENT = Content("watched")
MOST_DELIVERIES = 20_000  # In a round, to all watchers.
LEAST = 5
MARKS = {"memory": 0.001, "sqlite": 0.010, "postgres": 0.010, "redis": 0.005}


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    for engines in engines_of(setting):
        for watchers in setting.sizes.fan_outs:
            yield _fan_out(engines, watchers)


def _fan_out(engines: Engines, watchers: int) -> Workload:
    count = max(LEAST, min(engines.store.operations, MOST_DELIVERIES // watchers))
    return Workload(
        f"commit to {watchers:,} watcher{'s' if watchers > 1 else ''}",
        engines.store.name,
        "commit",
        Measured(engines, CONTENT, partial(_deliver, engines, watchers), count),
        mark=MARKS[engines.store.name] if watchers == 1 else None,
        place=Place("fan-out", watchers, "to the last watcher"),
    )


async def _deliver(engines: Engines, watchers: int, engine: Engine, count: int) -> Sample:
    return await deliver(engine, count, engines.unique(), watchers)


async def deliver(
    engine: Engine,
    count: int,
    name: str,
    watchers: int = 1,
    annotations: Mapping[str, str] = EMPTY,
) -> Sample:
    """Commit so many revisions, and wait each time until all watchers have it."""
    ctx = StateContext(State(name, labels={"watched": name}, annotations=annotations))
    since = await engine.head()
    async with AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(engine.watch(labels={"watched": name}, since_rev=since))
            for _ in range(watchers)
        ]
        await _deliver_once(engine, ctx, streams)  # Has each look into the store at first.
        watch = Stopwatch()
        return watch.latency([await _deliver_once(engine, ctx, streams) for _ in range(count)])


async def _deliver_once(engine: Engine, ctx: StateContext, streams: list[Watch]) -> float:
    """Return the seconds from the call of the commit to the last watcher."""
    waiting = [asyncio.ensure_future(anext(stream)) for stream in streams]
    await asyncio.sleep(0)  # All of them wait by now.
    start = perf_counter()
    await engine.do(Commit(Transit(ctx, "first")))
    await asyncio.gather(*waiting)
    return perf_counter() - start
