"""Recovery: some of very many states have stalled, and a recoverer takes all of them over."""

import asyncio
from collections.abc import Iterable
from functools import partial

from benchmarks.flows import FINISH
from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Engines, engines_of
from benchmarks.stores.filling import commit_all
from benchmarks.suites.finishing import Finishing
from benchmarks.suites.measured import Measured
from benchmarks.workload import Sample, Workload
from flowstate import Driver, Engine, State, Transition
from flowstate.codec import encode_body
from flowstate.driver import Heartbeat, Writes
from flowstate.recovery import Recoverer
from flowstate.recovery_rules import SHORTEST

__all__ = ["workloads"]

STALLED_PART = 100  # Of all states.
COUNTED = 500
BEATS = 500  # At once.
# Of the recoverer; by default it begins 100 attempts in a second, to spare what they work with.
POLL_INTERVAL = 0.01
RATE = 1e6
ROUNDS = 1  # A long one.


def workloads(setting: Setting) -> Iterable[Workload]:
    """Return the workloads on every store."""
    return map(_recovery, engines_of(setting))


def _recovery(engines: Engines) -> Workload:
    states = engines.store.log
    stalled = states // STALLED_PART
    return Workload(
        f"recovery of {stalled:,} stalled among {states:,} states",
        engines.store.name,
        "state",
        Measured(
            engines,
            engines.large,
            partial(_recover, engines),
            stalled,
            counted=min(stalled, COUNTED),
        ),
        rounds=ROUNDS,
    )


async def _recover(engines: Engines, engine: Engine, count: int) -> Sample:
    """Let a recoverer execute them all again, and wait until each has ended.

    Raises:
        RuntimeError: it has recovered another number of states.
    """
    await _stall(engine.driver, engines.unique(), count)
    finishing = Finishing(engine, count)
    watch = Stopwatch()
    async with Recoverer(engine, poll_interval=POLL_INTERVAL, rate=RATE) as recoverer:
        await finishing.wait()
        sample = watch.sample(count)
        if recoverer.stats().retried != count:
            raise RuntimeError(f"{recoverer.stats().retried} of {count} states were recovered")
    return sample


async def _stall(driver: Driver, name: str, count: int) -> None:
    """Commit states, and let a last heartbeat say that they stall a millisecond later."""
    commits = (_commit_of(f"{name}-{number}") for number in range(count))
    states = await commit_all(driver, commits)
    for first in range(0, count, BEATS):
        some = states[first : first + BEATS]
        await driver.beat([Heartbeat(state.id, state.rev, SHORTEST, "") for state in some])
    await asyncio.sleep(10 * SHORTEST)


def _commit_of(id: str) -> Writes:
    state = State(id, transition=Transition(FINISH))
    body = encode_body(state)
    return Writes(id, (state,), (body,), size=len(body))
