"""Chains: an engine executes a state through three flows with three commits."""

import asyncio
from collections.abc import Iterable
from functools import partial

from msgspec.structs import replace

from benchmarks.limits.bare import Bare
from benchmarks.limits.loops import bare_loops
from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.suites.measured import Measured
from benchmarks.workload import Place, Sample, Side, Workload
from flowstate import Engine, State, StateContext, Transition

__all__ = ["bare_commits", "workloads"]

CONTENT = Content("chains")
STEPS = 3
TASKS = (1, 32)
MORE = 4  # Times as many by several tasks.
PART_IN_MEMORY = 6  # As long as so many commits.
MARKS = {("memory", 1): 8.0}
CPU_MARKS = {("postgres", 32): 0.001}


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    for engines in engines_of(setting):
        for tasks in TASKS:
            yield _chains(setting, engines, tasks)


def _chains(setting: Setting, engines: Engines, tasks: int) -> Workload:
    store = engines.store
    bare = bare_loops(setting)[store.name]
    count = setting.sizes.chains * (MORE if tasks > 1 else 1)
    if not store.is_shared:
        count = store.commits // PART_IN_MEMORY
    limit = Side(
        f"{STEPS} times {bare.many_name if tasks > 1 else bare.one_name}",
        "limit",
        partial(bare_commits, bare, STEPS, tasks, count),
        mark=MARKS.get((store.name, tasks)),
    )
    ours = Measured(engines, CONTENT, partial(_execute, engines, tasks), count)
    return Workload(
        f"chains of {STEPS} flows, {tasks} task{'s' if tasks > 1 else ''}",
        store.name,
        "chain",
        ours,
        (limit,),
        cpu_mark=CPU_MARKS.get((store.name, tasks)),
        place=Place("concurrency", tasks, f"chains of {STEPS} flows"),
    )


async def bare_commits(bare: Bare, commits: int, tasks: int, count: int) -> Sample:
    """Return what so many commits of the bare loop take, done so often by one task or by many."""
    sample = await (bare.many if tasks > 1 else bare.one)(commits * count)
    return replace(
        sample,
        value=commits * sample.value,
        cpu=None if sample.cpu is None else commits * sample.cpu,
        statements=None if sample.statements is None else commits * sample.statements,
    )


async def _execute(engines: Engines, tasks: int, engine: Engine, count: int) -> Sample:
    name = engines.unique()
    first = Transition("first")
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            await engine.execute(StateContext(State(f"{name}-{number}", transition=first)))

    watch = Stopwatch()
    await asyncio.gather(*(work() for _ in range(tasks)))
    return watch.sample(count)
