"""Policies: flows that may be tried again, or may take only so long, and never fail."""

from collections.abc import Iterable
from functools import partial

from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Content, Engines, engines_of
from benchmarks.suites.measured import Measured
from benchmarks.workload import Sample, Side, Workload
from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    RetryPolicy,
    State,
    StateContext,
    Transit,
    Transition,
)
from flowstate.registry import FlowOptions

__all__ = ["CONTENT", "OPTIONS", "STEPS", "execute_chains", "workloads"]

CONTENT = Content("policies")
STEPS = 3
PART = 3  # As long as so many commits.
OPTIONS: dict[str, FlowOptions] = {
    "without a policy": {},
    "with retries": {"retry": RetryPolicy(attempts=5), "on_failure": "third"},
    "with retries and a timeout": {"retry": RetryPolicy(attempts=5), "timeout": 60.0},
}
# A time limit needs a task for each call.
MARKS = {"with retries": 1.1, "with retries and a timeout": 2.0}


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    for engines in engines_of(setting):
        for what, mark in MARKS.items():
            yield _chains(engines, what, mark)


def _chains(engines: Engines, what: str, mark: float) -> Workload:
    def chains(what: str) -> Measured:
        work = partial(execute_chains, engines, what)
        return Measured(engines, CONTENT, work, max(1, engines.store.commits // PART))

    return Workload(
        f"chains of {STEPS} flows {what}",
        engines.store.name,
        "chain",
        chains(what),
        (Side("without a policy", "small", chains("without a policy"), mark=mark),),
    )


async def execute_chains(engines: Engines, what: str, engine: Engine, count: int) -> Sample:
    """Execute states through flows with these options, one after the other.

    Args:
        engines: on the store.
        what: names the options.
        engine: gets the flows.
        count: of chains.
    """
    name, first = engines.unique(), Transition(f"{what}: 1")
    for step in range(1, STEPS + 1):
        _register(engine, what, step)
    watch = Stopwatch()
    for number in range(count):
        await engine.execute(StateContext(State(f"{name}-{number}", transition=first)))
    return watch.sample(count)


def _register(engine: Engine, what: str, step: int) -> None:
    async def flow(ctx: StateContext, engine: Engine) -> Command:
        return Commit(End(ctx) if step == STEPS else Transit(ctx, f"{what}: {step + 1}"))

    engine.flows.set(f"{what}: {step}", flow, replace=True, **OPTIONS[what])
