"""Pages of the latest states by label, of at most 100, among as many as the large store has."""

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

__all__ = ["read_pages", "workloads"]

PAGE = 100
CYCLE = GROUPS * len(KINDS)  # So many states in a row have every group and kind.
PART = 5  # Of as many as small operations.


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    for engines in engines_of(setting):
        yield _pages(engines, "label", {})
        yield _pages(engines, "label and status", {"status": Status.PAUSED})


def _pages(engines: Engines, what: str, filters: dict[str, Any]) -> Workload:
    states = engines.store.log
    work = partial(read_pages, states, PAGE, filters)
    return Workload(
        f"page by {what} among {states:,} states",
        engines.store.name,
        "page",
        Measured(engines, engines.large, work, max(1, engines.store.operations // PART)),
    )


async def read_pages(
    states: int, limit: int, filters: dict[str, Any], engine: Engine, count: int
) -> Sample:
    """Read pages of one group after the other, from a place in the first half of its states.

    Raises:
        RuntimeError: a page has nothing on it.
    """
    groups = min(GROUPS, states // len(KINDS))
    watch = Stopwatch()
    for number in range(count):
        page = await engine.get_states(
            labels={"group": str(number % groups)},
            since_rev=number * (states // CYCLE // 2) // count * CYCLE,
            latest_only=True,
            limit=limit,
            **filters,
        )
        if not page.states:
            raise RuntimeError("an empty page")
    return watch.sample(count)
