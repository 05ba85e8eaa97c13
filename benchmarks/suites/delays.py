"""Delays: many pending for years, and some of them due at once, fired by a delayer."""

from collections.abc import Callable, Iterable
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
from flowstate import Delayer, Engine, State, Transition
from flowstate.codec import encode_body
from flowstate.driver import NewDelay, Writes
from flowstate.ground.frozen import EMPTY

__all__ = ["PAST", "delayed", "fire", "workloads"]

DUE_PART = 100  # Of all states.
COUNTED = 1_000
PAST = datetime(2020, 1, 1, tzinfo=UTC)
ROUNDS = 2

Due = Callable[[str], Writes]
"""Given the id of a new state, returns the commit by which something of it is due."""


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
        Measured(
            engines,
            engines.large,
            partial(fire, engines, delayed),
            due,
            counted=min(due, COUNTED),
        ),
        rounds=ROUNDS,
    )


async def fire(engines: Engines, due: Due, engine: Engine, count: int) -> Sample:
    """Let a delayer fire them all, and wait until the flow they lead to has ended each state.

    Args:
        engines: on the store.
        due: what is due.
        engine: to fire it with.
        count: of states.
    """
    name = engines.unique()
    await commit_all(engine.driver, (due(f"{name}-{number}") for number in range(count)))
    finishing = Finishing(engine, count)
    watch = Stopwatch()
    async with Delayer(engine):
        await finishing.wait()
        return watch.sample(count)


def delayed(id: str) -> Writes:
    """Return the commit of a state with a delay that is due."""
    state = State(id, transition=Transition("first"))
    delay = NewDelay(state, FINISH, EMPTY, PAST, None, True, delay_body(), put=0)
    body = encode_body(state)
    return Writes(id, (state,), (body,), delays=(delay,), size=len(body))
