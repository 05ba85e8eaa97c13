"""Pruning: very many ended states are forgotten."""

from collections.abc import Iterable
from functools import partial

from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.stores.filling import KINDS
from benchmarks.suites.commits import commit_together
from benchmarks.suites.measured import Measured
from benchmarks.workload import Sample, Side, Workload
from flowstate import Engine, Status

__all__ = ["ENDED", "content", "prune", "workloads"]

PART = 10  # Of as many as a large log has.
ENDED = sum(kind.status is Status.ENDED for kind in KINDS)  # In a row of each kind.
TASKS = 64
COUNTED = 256
GROWTH = 1.3
# A state had at least three commits. If it costs more to forget it, retention cannot keep up.
AS_COMMITS = 3.0
ROUNDS = 1  # What is forgotten is gone.


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    return map(_pruning, engines_of(setting))


def _pruning(engines: Engines) -> Workload:
    store = engines.store
    many, few = store.log // PART, store.small_log
    commits = Measured(engines, Content("not pruned"), partial(_commit, engines), few)
    return Workload(
        f"prune of {many:,} states",
        store.name,
        "state",
        _forgetting(engines, "many", many),
        (
            Side(f"of {few:,} states", "small", _forgetting(engines, "few", few), mark=GROWTH),
            Side(f"commits, {TASKS} tasks", "small", commits, mark=AS_COMMITS),
        ),
        rounds=ROUNDS,
    )


def content(place: str, count: int) -> Content:
    """Return the place where so many states have ended, and those that are counted, at least."""
    rows = -(-(count + min(count, COUNTED)) // ENDED)
    return Content(f"pruned_{place}", states=rows * len(KINDS))


def _forgetting(engines: Engines, place: str, count: int) -> Measured:
    return Measured(engines, content(place, count), prune, count, counted=min(count, COUNTED))


async def prune(engine: Engine, count: int) -> Sample:
    """Forget so many of the states that have ended.

    Raises:
        RuntimeError: there were fewer.
    """
    watch = Stopwatch()
    found = await engine.prune(limit=count)
    sample = watch.sample(count)
    if found != count:
        raise RuntimeError(f"{found} of {count} states were forgotten")
    return sample


async def _commit(engines: Engines, engine: Engine, count: int) -> Sample:
    return await commit_together(engine, count, TASKS, engines.unique())
