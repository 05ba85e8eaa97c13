"""Recovery: some of very many states have stalled, and a recoverer takes all of them over."""

import asyncio
from collections.abc import Iterable
from datetime import timedelta
from functools import partial

from benchmarks.flows import FINISH
from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.stores.engines import Engines, engines_of
from benchmarks.stores.filling import commit_all
from benchmarks.suites.finishing import Finishing
from benchmarks.suites.measured import Measured
from benchmarks.workload import Sample, Workload
from flowstate import Driver, Engine, State, StateContext, Transition
from flowstate.codec import encode_body
from flowstate.driver import Writes
from flowstate.recovery import Recoverer, set_retry_after

__all__ = ["workloads"]

STALLED_PART = 100  # Of all states.
COUNTED = 500
STALLS_AFTER = timedelta(seconds=1)  # Long enough to execute them all again.
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
    """Commit states, and return when they have stalled, as if their processes had died."""
    await commit_all(driver, (_commit_of(f"{name}-{number}") for number in range(count)))
    await asyncio.sleep(1.1 * STALLS_AFTER.total_seconds())


def _commit_of(id: str) -> Writes:
    ctx = StateContext(State(id, transition=Transition(FINISH)))
    set_retry_after(ctx, STALLS_AFTER)
    state = ctx.current
    body = encode_body(state)
    return Writes(id, (state,), (body,), size=len(body))
