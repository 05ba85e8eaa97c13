"""Footprint: bytes that a state and a revision take, in Python's memory or in the store."""

import asyncio
import tracemalloc
from collections.abc import Iterable
from functools import partial

from benchmarks.flows import registry
from benchmarks.setting import Setting
from benchmarks.stores.engines import Engines, engines_of
from benchmarks.workload import Measure, Sample, Workload
from flowstate import Commit, Driver, Engine, State, StateContext, Transit
from flowstate.drivers.memory import MemoryDriver

__all__ = ["workloads"]

REVISIONS = 20_000
REVISIONS_OF_A_STORE = 4_000
TASKS = 50
GROUPS = 100


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    for engines in engines_of(setting):
        shared = engines.store.is_shared
        all_states, few = (REVISIONS_OF_A_STORE, TASKS) if shared else (REVISIONS, 1)
        for what, states in (("state", all_states), ("revision", few)):
            for labels in (0, 2):
                measure: Measure = (
                    partial(_size_in_store, engines, states, labels)
                    if shared
                    else partial(_size_in_memory, states, labels)
                )
                yield Workload(
                    f"size of a {what}, {labels} labels",
                    engines.store.name,
                    what,
                    measure,
                    quantity="bytes",
                    rounds=1,  # It is much the same each time.
                )


async def _size_in_memory(states: int, labels: int) -> Sample:
    async with MemoryDriver() as driver:
        tracemalloc.start()
        try:
            await _grow(driver, REVISIONS, states, labels, tasks=1)
            size, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return Sample(size / REVISIONS)


async def _size_in_store(engines: Engines, states: int, labels: int) -> Sample:
    place = engines.unique()
    async with engines.store.driver(place) as driver:
        before = await asyncio.to_thread(engines.store.size, place)
        await _grow(driver, REVISIONS_OF_A_STORE, states, labels, tasks=TASKS)
        after = await asyncio.to_thread(engines.store.size, place)
    return Sample((after - before) / REVISIONS_OF_A_STORE)


async def _grow(driver: Driver, revisions: int, states: int, labels: int, tasks: int) -> None:
    """Commit revisions of these states in turn, as an engine would."""
    async with Engine(driver, registry()) as engine:
        contexts: dict[int, StateContext] = {}

        async def work(first: int) -> None:
            for number in range(first, revisions, tasks):
                which = number % states
                values = {f"key{n}": str(which % GROUPS) for n in range(labels)}
                ctx = contexts.pop(which, None) or StateContext(State(f"s{which}", labels=values))
                await engine.do(Commit(Transit(ctx, "first")))
                if states < revisions:  # Those that go on keep their contexts.
                    contexts[which] = ctx

        await asyncio.gather(*map(work, range(tasks)))
