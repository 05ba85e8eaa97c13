"""Growth: the same work on a store with few revisions and on one with many.

Both grow by what is committed here. That may never stall, since others look for what has.
"""

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.stores.filling import NEVER_STALLS
from benchmarks.suites.commits import commit_together
from benchmarks.suites.measured import Measured
from benchmarks.suites.pages import read_pages
from benchmarks.suites.watching import deliver
from benchmarks.workload import Place, Sample, Side, Workload
from flowstate import Engine
from flowstate.driver import DueQuery

__all__ = ["workloads"]

SHORT_PAGE = 5
LONG_PAGE = 100
PRIME = 7_919  # Spreads what is read over the whole store.
MARK = 1.3
STRICTER_MARKS = {"redis": 1.2}

Operation = Callable[[Engines, int, Engine, int], Awaitable[Sample]]
"""Given the engines on a store, how many states this one was filled with, an engine and units."""


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    for engines in engines_of(setting):
        for operation, work in OPERATIONS.items():
            yield _growth(engines, operation, work)


def _growth(engines: Engines, operation: str, work: Operation) -> Workload:
    store, count = engines.store, engines.store.operations

    def on(content: Content) -> Measured:
        return Measured(engines, content, partial(work, engines, content.states), count)

    small = Side(
        f"{store.small_log:,} revisions",
        "small",
        on(engines.small),
        mark=STRICTER_MARKS.get(store.name, MARK),
        place=Place("growth", store.small_log, operation),
    )
    return Workload(
        f"{operation}, {store.log:,} revisions",
        store.name,
        "operation",
        on(engines.large),
        (small,),
        place=Place("growth", store.log, operation),
    )


async def _commit(engines: Engines, states: int, engine: Engine, count: int) -> Sample:
    return await commit_together(engine, count, 1, engines.unique(), NEVER_STALLS)


async def _deliver(engines: Engines, states: int, engine: Engine, count: int) -> Sample:
    return await deliver(engine, count, engines.unique(), annotations=NEVER_STALLS)


async def _read_page(engines: Engines, states: int, engine: Engine, count: int) -> Sample:
    return await read_pages(states, SHORT_PAGE, {}, engine, count)


async def _get(engines: Engines, states: int, engine: Engine, count: int) -> Sample:
    watch = Stopwatch()
    for number in range(count):
        await engine.get_state(f"s{number * PRIME % states}")
    return watch.sample(count)


async def _read_log(engines: Engines, states: int, engine: Engine, count: int) -> Sample:
    watch = Stopwatch()
    for number in range(count):
        await engine.get_states(since_rev=number * PRIME % (states - LONG_PAGE), limit=LONG_PAGE)
    return watch.sample(count)


async def _look_for_delays(engines: Engines, states: int, engine: Engine, count: int) -> Sample:
    """Look as delayers do: none is due."""
    watch = Stopwatch()
    for _ in range(count):
        await engine.driver.get_due(DueQuery("delay", limit=LONG_PAGE))
    return watch.sample(count)


async def _look_for_stalled(engines: Engines, states: int, engine: Engine, count: int) -> Sample:
    """Look as recoverers do: nothing has stalled."""
    watch = Stopwatch()
    for _ in range(count):
        await engine.driver.get_due(DueQuery("stall", limit=LONG_PAGE))
    return watch.sample(count)


OPERATIONS: dict[str, Operation] = {
    "commit": _commit,
    "get by id": _get,
    "page by label": _read_page,
    "page of the log": _read_log,
    "look for delays": _look_for_delays,
    "look for stalled": _look_for_stalled,
    "commit to watcher": _deliver,
}
