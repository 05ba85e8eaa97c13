"""Sleeping: workflows run while very many others sleep, which is to cost them nothing."""

from collections.abc import Iterable
from functools import partial

from benchmarks.setting import Setting
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.suites.instances import run_three
from benchmarks.suites.measured import Measured
from benchmarks.workload import Side, Workload

__all__ = ["workloads"]

FEW = 100
TASKS = 8
# What sleeps costs nothing, apart from noise.
UNUSED = 1.1


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    many = setting.sizes.sleeping
    for engines in engines_of(setting):
        few = Side(f"{FEW:,} asleep", "small", _beside(engines, FEW), mark=UNUSED)
        yield Workload(
            f"workflows of 3 steps, {many:,} asleep",
            engines.store.name,
            "workflow",
            _beside(engines, many),
            (few,),
        )


def _beside(engines: Engines, sleeping: int) -> Measured:
    content = Content(f"asleep{sleeping}", sleeping=sleeping)
    work = partial(run_three, engines, TASKS)
    return Measured(engines, content, work, max(TASKS, engines.store.operations))
