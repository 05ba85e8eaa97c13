"""Commits: how long one takes, how many a second, and ten states in one."""

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from time import perf_counter

from benchmarks.limits.bare import Bare
from benchmarks.limits.disk import FSYNC, fsyncs
from benchmarks.limits.loops import bare_loops
from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.suites.measured import Measured
from benchmarks.workload import Place, Sample, Side, Workload
from flowstate import Commit, Engine, State, StateContext, Transit
from flowstate.ground.frozen import EMPTY

__all__ = ["commit_together", "workloads"]

CONTENT = Content("commits")
STATES = 10
MANY_AT = 8  # From so many tasks on they are compared with many at once, and do as many more.
MARKS = {
    ("memory", 1): 4.0,
    ("sqlite", 1): 1 / 0.7,
    ("sqlite", 64): 1 / 4,
    ("postgres", 1): 1 / 0.7,
    ("postgres", 64): 1 / 0.6,
    ("redis", 1): 1 / 0.7,
    ("redis", 64): 1 / 0.6,
}


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    for engines in engines_of(setting):
        bare = bare_loops(setting)[engines.store.name]
        for tasks in setting.sizes.concurrencies:
            yield _together(setting, engines, bare, tasks)
        yield _latency(engines)
        yield _of_ten(engines)


def _together(setting: Setting, engines: Engines, bare: Bare, tasks: int) -> Workload:
    name = engines.store.name
    at_once = tasks >= MANY_AT
    # In memory nothing is gained by doing it at once, so it takes as long.
    more = min(tasks, MANY_AT) if engines.store.is_shared else 1
    count = max(tasks, more * engines.store.commits)
    limit = Side(
        bare.many_name if at_once else bare.one_name,
        "limit",
        partial(bare.many if at_once else bare.one, count),
        mark=MARKS.get((name, tasks)),
    )
    work = partial(_commits, engines, tasks)
    disk = Side(FSYNC, "limit", partial(fsyncs, setting, engines.store.commits))
    return Workload(
        f"commits, {tasks} task{'s' if tasks > 1 else ''}",
        name,
        "commit",
        Measured(engines, CONTENT, work, count, counted=max(tasks, count // 4)),
        (limit, disk) if engines.store.is_shared and tasks == 1 else (limit,),
        place=Place("concurrency", tasks, "commits"),
    )


async def _commits(engines: Engines, tasks: int, engine: Engine, count: int) -> Sample:
    return await commit_together(engine, count, tasks, engines.unique())


async def commit_together(
    engine: Engine,
    count: int,
    tasks: int,
    name: str,
    annotations: Mapping[str, str] = EMPTY,
) -> Sample:
    """Commit so many steps, each task those of one state with these annotations."""
    numbers = iter(range(count))

    async def work(ctx: StateContext) -> None:
        for _ in numbers:
            await engine.do(Commit(Transit(ctx, "first")))

    contexts = [
        StateContext(State(f"{name}-{task}", annotations=annotations)) for task in range(tasks)
    ]
    watch = Stopwatch()
    if tasks == 1:
        await work(contexts[0])
    else:
        await asyncio.gather(*map(work, contexts))
    return watch.sample(count)


def _latency(engines: Engines) -> Workload:
    work = partial(_one_by_one, engines)
    ours = Measured(engines, CONTENT, work, engines.store.operations)
    return Workload("commit, latency", engines.store.name, "commit", ours)


async def _one_by_one(engines: Engines, engine: Engine, count: int) -> Sample:
    """Commit the first revision of one state after the other, as callers that come and go do."""
    name = engines.unique()
    seconds: list[float] = []
    watch = Stopwatch()
    for number in range(count):
        ctx = StateContext(State(f"{name}-{number}"))
        start = perf_counter()
        await engine.do(Commit(Transit(ctx, "first")))
        seconds.append(perf_counter() - start)
    return watch.latency(seconds)


def _of_ten(engines: Engines) -> Workload:
    count = max(1, engines.store.commits // STATES)
    ours = Measured(engines, CONTENT, partial(_many_states, engines), count)
    return Workload(f"commit of {STATES} states", engines.store.name, "commit", ours)


async def _many_states(engines: Engines, engine: Engine, count: int) -> Sample:
    name = engines.unique()
    contexts = [StateContext(State(f"{name}-{number}")) for number in range(STATES)]
    watch = Stopwatch()
    for _ in range(count):
        await engine.do(Commit(*(Transit(ctx, "first") for ctx in contexts)))
    return watch.sample(count)
