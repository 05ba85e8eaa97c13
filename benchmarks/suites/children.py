"""Children: an instance starts very many others, and waits for what they return."""

from collections.abc import Iterable
from functools import partial

from benchmarks.definitions import Items, child, parent
from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.suites.measured import Measured
from benchmarks.workload import Sample, Workload
from flowstate import Engine
from flowstate.engines.workflow import Workflows

__all__ = ["run_parent", "workloads"]

CONTENT = Content("children")
COUNTED = 100


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads in memory and on Postgres."""
    count = setting.sizes.children
    for engines in engines_of(setting):
        if engines.store.name in {"memory", "postgres"}:
            yield Workload(
                f"parent of {count:,} children",
                engines.store.name,
                "child",
                Measured(
                    engines,
                    CONTENT,
                    partial(run_parent, engines),
                    count,
                    counted=min(count, COUNTED),
                ),
                rounds=1,
            )


async def run_parent(engines: Engines, engine: Engine, count: int) -> Sample:
    """Run one parent of so many children.

    Raises:
        RuntimeError: the result is wrong.
    """
    id = engines.unique()
    async with Workflows(engine, [parent, child]) as workflows:
        watch = Stopwatch()
        await workflows.start(parent, id, Items(list(range(count))))
        result = await workflows.result(id)
        if result != sum(range(count)):
            raise RuntimeError(f"the result is {result}")
        return watch.sample(count)
