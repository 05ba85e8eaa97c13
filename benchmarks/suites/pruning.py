"""Pruning: very many ended states are forgotten."""

from collections.abc import Iterable
from functools import partial

from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.stores.filling import KINDS
from benchmarks.suites.measured import Measured
from benchmarks.workload import Sample, Side, Workload
from flowstate import Commit, Engine, Pause, State, StateContext, Status

__all__ = ["prune", "workloads"]

PART = 10  # Of as many as a large log has.
ENDED = sum(kind.status is Status.ENDED for kind in KINDS)  # In a row of each kind.
TOGETHER = 128  # States of a commit, as ``prune`` has them.
COUNTED = 256
GROWTH = 1.3
AS_COMMITS = 3.0
ROUNDS = 1  # What is forgotten is gone.


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    return map(_pruning, engines_of(setting))


def _pruning(engines: Engines) -> Workload:
    store = engines.store
    many, few = store.log // PART, store.small_log
    commits = Measured(engines, Content("not pruned"), partial(_pause, engines), few)
    return Workload(
        f"prune of {many:,} states",
        store.name,
        "state",
        _forgetting(engines, many),
        (
            Side(f"of {few:,} states", "small", _forgetting(engines, few), mark=GROWTH),
            Side(f"commits of {TOGETHER} new states", "small", commits, mark=AS_COMMITS),
        ),
        rounds=ROUNDS,
    )


def _forgetting(engines: Engines, count: int) -> Measured:
    counted = min(count, COUNTED)
    rows = -(-(count + counted) // ENDED)
    content = Content(f"pruned{count}", states=rows * len(KINDS))
    return Measured(engines, content, prune, count, counted=counted)


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


async def _pause(engines: Engines, engine: Engine, count: int) -> Sample:
    name = engines.unique()
    contexts = [StateContext(State(f"{name}-{number}")) for number in range(count)]
    watch = Stopwatch()
    for first in range(0, count, TOGETHER):
        await engine.do(Commit(*map(Pause, contexts[first : first + TOGETHER])))
    return watch.sample(count)
