"""Instances of workflows: three durable steps, from the start to the result."""

import asyncio
from collections.abc import Iterable
from functools import partial

from benchmarks.definitions import Nothing, three
from benchmarks.limits.bare import Bare
from benchmarks.limits.loops import bare_loops
from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.suites.chains import bare_commits
from benchmarks.suites.measured import Measured
from benchmarks.workload import Place, Sample, Side, Workload
from flowstate import Engine
from flowstate.engines.workflow import Workflows

__all__ = ["run_three", "workloads"]

CONTENT = Content("instances")
COMMITS = 4  # One that starts it, and one for each step; the last one also ends it.
TASKS = (1, 32)
PART_IN_MEMORY = 12  # As long as so many commits.
MARKS = {("memory", 32): 1 / 5_000}


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    for engines in engines_of(setting):
        for tasks in TASKS:
            yield _instances(setting, engines, tasks)


def _instances(setting: Setting, engines: Engines, tasks: int) -> Workload:
    store = engines.store
    bare: Bare = bare_loops(setting)[store.name]
    count = setting.sizes.chains * (2 if tasks > 1 else 1)
    if not store.is_shared:
        count = max(tasks, store.commits // PART_IN_MEMORY)
    limit = Side(
        f"{COMMITS} times {bare.many_name if tasks > 1 else bare.one_name}",
        "limit",
        partial(bare_commits, bare, COMMITS, tasks, count),
    )
    return Workload(
        f"workflows of 3 steps, {tasks} task{'s' if tasks > 1 else ''}",
        store.name,
        "workflow",
        Measured(engines, CONTENT, partial(run_three, engines, tasks), count),
        (limit,),
        cpu_mark=MARKS.get((store.name, tasks)),
        place=Place("concurrency", tasks, "workflows of 3 steps"),
    )


async def run_three(engines: Engines, tasks: int, engine: Engine, count: int) -> Sample:
    """Start so many instances, so many at once, and wait for the result of each.

    Raises:
        RuntimeError: a result is wrong.
    """
    name, numbers = engines.unique(), iter(range(count))
    async with Workflows(engine, [three]) as workflows:

        async def work() -> None:
            for number in numbers:
                id = f"{name}-{number}"
                await workflows.start(three, id, Nothing())
                if (result := await workflows.result(id)) != 6:
                    raise RuntimeError(f"the result is {result}")

        watch = Stopwatch()
        await asyncio.gather(*(work() for _ in range(tasks)))
        return watch.sample(count)
