"""Starts: from the call until a flow begins, on another engine or on the same one."""

from collections.abc import Iterable
from functools import partial
from time import perf_counter

from benchmarks.flows import registry
from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.suites.measured import Measured
from benchmarks.workload import Sample, Side, Workload
from flowstate import Command, Commit, Delayer, Driver, End, Engine, State, StateContext, Status

__all__ = ["CONTENT", "FLOW", "start_each", "start_elsewhere", "workloads"]

CONTENT = Content("started")
FLOW = "started"
LEAST = 5
# SQLite tells no one else: other connections look again and again.
MARKS = {"memory": 0.002, "sqlite": 0.025, "postgres": 0.010, "redis": 0.010}


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    return map(_starts, engines_of(setting))


def _starts(engines: Engines) -> Workload:
    name = engines.store.name
    count = max(LEAST, engines.store.operations)
    elsewhere = Measured(engines, CONTENT, partial(start_elsewhere, engines), count)
    here = Measured(engines, CONTENT, partial(_start_here, engines), count)
    return Workload(
        "start on another engine",
        name,
        "start",
        elsewhere,
        (Side("on the same engine", "small", here),),
        mark=MARKS[name],
    )


async def start_elsewhere(engines: Engines, engine: Engine, count: int) -> Sample:
    """Start states that another engine executes, which has an own connection to the store."""
    async with Engine(_other_driver(engines, engine), registry()) as other, Delayer(other):
        return await start_each(engines, engine, other, count)


def _other_driver(engines: Engines, engine: Engine) -> Driver:
    return engines.store.driver(CONTENT.place) if engines.store.is_shared else engine.driver


async def _start_here(engines: Engines, engine: Engine, count: int) -> Sample:
    return await start_each(engines, engine, engine, count)


async def start_each(engines: Engines, engine: Engine, runner: Engine, count: int) -> Sample:
    """Start states one after the other, each when the one before has ended."""
    seconds: list[float] = []
    called_at = 0.0

    async def begin(ctx: StateContext, engine: Engine) -> Command:
        seconds.append(perf_counter() - called_at)
        return Commit(End(ctx))

    if FLOW not in engine.flows:
        engine.flows.declare(FLOW)
    runner.flows.set(FLOW, begin, replace=True)
    name = engines.unique()
    watch = Stopwatch()
    for number in range(count):
        ctx = StateContext(State(f"{name}-{number}"))
        called_at = perf_counter()
        await engine.start(ctx, FLOW, elsewhere=runner is not engine)
        await runner.wait_for(ctx.current.id, status=Status.ENDED)
    return watch.latency(seconds)
