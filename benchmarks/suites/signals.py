"""Signals: from the call to the next step of the state that has waited for it."""

from collections.abc import Iterable
from functools import partial
from time import perf_counter

from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.suites.measured import Measured
from benchmarks.workload import Sample, Workload
from flowstate import Command, Commit, Engine, Receive, State, StateContext, Status

__all__ = ["signal", "workloads"]

CONTENT = Content("signalled")
FLOW = "signalled"
LEAST = 5
MARKS = {"memory": 0.002, "sqlite": 0.010, "postgres": 0.010, "redis": 0.010}


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    return map(_signals, engines_of(setting))


def _signals(engines: Engines) -> Workload:
    name = engines.store.name
    count = max(LEAST, engines.store.operations)
    ours = Measured(engines, CONTENT, partial(signal, engines), count)
    return Workload("signal to the next step", name, "signal", ours, mark=MARKS[name])


async def signal(engines: Engines, engine: Engine, count: int) -> Sample:
    """Send messages to a state, one after the other, each as soon as it waits again."""
    seconds: list[float] = []
    sent_at = 0.0

    async def receive(ctx: StateContext, engine: Engine) -> Command:
        seconds.append(perf_counter() - sent_at)
        return Commit(Receive(ctx, "m", to=FLOW))

    engine.flows.set(FLOW, receive, replace=True)
    ctx = StateContext(State(engines.unique()))
    await engine.do(Commit(Receive(ctx, "m", to=FLOW)))
    watch = Stopwatch()
    for number in range(count):
        await engine.wait_for(ctx.current.id, status=Status.PAUSED)
        sent_at = perf_counter()
        await engine.signal(ctx.current.id, "m", number)
        while len(seconds) <= number:
            await engine.wait_for(ctx.current.id, until=lambda _: len(seconds) > number)  # noqa: B023
    return watch.latency(seconds)
