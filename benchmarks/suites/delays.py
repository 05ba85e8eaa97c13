"""Delays: many pending for years, and some of them due at once, fired by a delayer."""

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial

from benchmarks.flows import FINISH
from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Engines, engines_of
from benchmarks.stores.filling import KINDS, commit_all, delay_body
from benchmarks.suites.finishing import Finishing
from benchmarks.suites.measured import Measured
from benchmarks.workload import Sample, Workload
from flowstate import Delayer, Driver, Engine, State, Transition
from flowstate.codec import encode_body
from flowstate.driver import NewDelay, Writes
from flowstate.frozen import EMPTY

__all__ = ["workloads"]

DUE_PART = 100  # Of all states.
COUNTED = 1_000
PAST = datetime(2020, 1, 1, tzinfo=UTC)
ROUNDS = 2


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    return map(_delays, engines_of(setting))


def _delays(engines: Engines) -> Workload:
    states = engines.store.log
    due = states // DUE_PART
    return Workload(
        f"{due:,} delays due at once, {states // len(KINDS):,} more pending",
        engines.store.name,
        "delay",
        Measured(engines, engines.large, partial(_fire, engines), due, counted=min(due, COUNTED)),
        rounds=ROUNDS,
    )


async def _fire(engines: Engines, engine: Engine, count: int) -> Sample:
    """Let a delayer fire them all, and wait until the flow they lead to has ended each state."""
    await _commit_delays(engine.driver, engines.unique(), count)
    finishing = Finishing(engine, count)
    watch = Stopwatch()
    async with Delayer(engine):
        await finishing.wait()
        return watch.sample(count)


async def _commit_delays(driver: Driver, name: str, count: int) -> None:
    def delayed(number: int) -> Writes:
        state = State(f"{name}-{number}", transition=Transition("first"))
        delay = NewDelay(state, FINISH, EMPTY, PAST, None, True, delay_body(), put=0)
        body = encode_body(state)
        return Writes(f"{name}-{number}", (state,), (body,), delays=(delay,), size=len(body))

    await commit_all(driver, map(delayed, range(count)))
