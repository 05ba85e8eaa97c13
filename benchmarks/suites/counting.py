"""Counting: how many of very many states have a status, a label, both, or exist at all."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Engines, engines_of
from benchmarks.stores.filling import GROUPS, KINDS
from benchmarks.suites.measured import Measured
from benchmarks.workload import Sample, Workload
from flowstate import Engine, Status

__all__ = ["GROUP", "count_states", "workloads"]

COUNTS = 4
MARK = 0.5  # Seconds.
GROUP = {"group": "7"}
ENDED = 0.7  # Of what a store is filled with.


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    for engines in engines_of(setting):
        states = engines.store.log
        group = states // len(KINDS) // GROUPS * len(KINDS)
        ended: dict[str, Any] = {"status": Status.ENDED}
        yield _counting(engines, "all", {}, states)
        yield _counting(engines, "a status", ended, int(states * ENDED))
        yield _counting(engines, "a label", {"labels": GROUP}, group)
        both = ended | {"labels": GROUP}
        yield _counting(engines, "a label and status", both, int(group * ENDED))


def _counting(engines: Engines, what: str, filters: dict[str, Any], least: int) -> Workload:
    return Workload(
        f"count of {what} among {engines.store.log:,} states",
        engines.store.name,
        "count",
        Measured(engines, engines.large, partial(count_states, filters, least), COUNTS),
        mark=MARK,
    )


async def count_states(filters: dict[str, Any], least: int, engine: Engine, count: int) -> Sample:
    """Count so often. What other workloads have left in the store counts as well.

    Raises:
        RuntimeError: there are fewer than what the store was filled with.
    """
    watch = Stopwatch()
    for _ in range(count):
        if (found := await engine.count(**filters)) < least:
            raise RuntimeError(f"{found} states instead of {least}")
    return watch.sample(count)
