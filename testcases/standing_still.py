"""A server that stands still: every operation ends, and all goes on when the server does."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

from flowstate.commands import Commit, Delay, Pause, Transit
from flowstate.driver import Driver, DueQuery, Heartbeat, Seen, StateQuery
from flowstate.errors import CommitUnknownError, DriverError
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.logs import errors_logged
from flowstate.testcases.support import committed, know

__all__ = ["CASES"]

LONGEST = 10.0  # Seconds, as the hook says.
PATIENCE = 3 * LONGEST

Operation = Callable[[Driver], Awaitable[object]]
READS: dict[str, Operation] = {
    "get_state": lambda d: d.get_state("a"),
    "get_states": lambda d: d.get_states(StateQuery()),
    "get_data": lambda d: d.get_data("0" * 64),
    "delays": lambda d: d.get_due(DueQuery("delay")),
    "stalls": lambda d: d.get_due(DueQuery("stall")),
    "get_liveness": lambda d: d.get_liveness(["a"]),
    "beat": lambda d: d.beat([Heartbeat("a", 1, 1.0, "")]),
    "compact": lambda d: d.compact(1),
}


async def _told(call: Awaitable[object]) -> tuple[str, float]:
    """Return how something ends, and after how many seconds."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE):
            await call
    except CommitUnknownError:
        outcome = "unknown"
    except DriverError:
        outcome = "failed"
    except TimeoutError:
        outcome = "no end"
    else:
        outcome = "done"
    return outcome, time.monotonic() - started


def _check_ended(what: str, told: tuple[str, float], *allowed: str) -> None:
    outcome, took = told
    check(outcome in allowed, True, f"{what} ends with {outcome!r} after {took:.1f} s")
    check(took <= LONGEST + 1.0, True, f"{what} ends after {took:.1f} s")


@case("standstill", real_time=True)
async def standstill_ends_each_operation(h: Harness) -> None:
    """G8, G13: each operation on a server that stands still ends, and works again later."""
    ctx = await committed(h, "a")
    fresh = h.ctx("b")
    async with h.standing_still():
        commit = h.engine.do(Commit(Transit(fresh, "work")))
        names = list(READS)
        told = await asyncio.gather(_told(commit), *(_told(READS[n](h.driver)) for n in names))
    _check_ended("commit", told[0], "unknown", "failed")
    for name, each in zip(names, told[1:], strict=True):
        _check_ended(name, each, "failed")
    await h.engine.do(Commit(Transit(ctx, "work")))
    check((await h.engine.get_state("a")).rev, ctx.committed.rev, "revision afterwards")
    for name in names:
        check((await _told(READS[name](h.driver)))[0], "done", f"{name} afterwards")


@case("standstill", real_time=True)
async def standstill_under_a_timeout(h: Harness) -> None:
    """G9, G13: a timeout around a commit fires soon, and what is unknown then is told apart."""
    know(h, "work")
    await committed(h, "a")
    contexts = [h.ctx(f"s-{n}") for n in range(5)]

    async def limited(call: Coroutine[Any, Any, Any]) -> str:
        started = time.monotonic()
        try:
            async with asyncio.timeout(0.5):
                await call
        except TimeoutError:
            outcome = "timeout"
        except (DriverError, CommitUnknownError):
            outcome = "error"
        else:
            outcome = "done"
        took = time.monotonic() - started
        check(took <= LONGEST + 1.0, True, f"ends after {took:.1f} s")
        return outcome

    async with h.standing_still():
        calls = [limited(h.engine.do(Commit(Transit(ctx, "work")))) for ctx in contexts]
        outcomes = set(await asyncio.gather(*calls, limited(h.engine.get_state("a"))))
    check(outcomes <= {"timeout", "error"}, True, f"outcomes {outcomes}")
    await h.engine.do(Commit(Pause(h.ctx("after"))))
    log = await h.log()
    check([s.rev for s in log], list(range(1, len(log) + 1)), "log")
    check(len({s.id for s in log}), len(log), "states, each committed once")


@case("standstill", real_time=True)
async def standstill_does_not_hold_a_stop_up(h: Harness) -> None:
    """G13: an engine that stops while the server stands still ends in time."""
    know(h, "work")
    async with h.other_driver() as driver:
        engine = h.make_engine(driver, shutdown_timeout=1.0)
        await engine.__aenter__()
        await engine.do(Commit(Transit(h.ctx("a"), "work")))
        with errors_logged():
            async with h.standing_still():
                commit = asyncio.ensure_future(_told(engine.do(Commit(Pause(h.ctx("b"))))))
                await asyncio.wait([commit], timeout=0.1)
                stop = await _told(engine.__aexit__(None, None, None))
                await commit
    _check_ended("stop", stop, "done", "failed", "unknown")


@case("standstill", real_time=True)
async def standstill_loses_nothing(h: Harness) -> None:
    """G6, G10: a watch and what is due go on after a server stood still."""
    know(h, "work")
    ctx = await committed(h, "a")
    async with h.engine.watch() as states:
        check((await anext(states)).rev, 1, "what is delivered at first")
        async with h.standing_still():
            await asyncio.sleep(1.0)
        after = await committed(h, "b")
        try:
            found = await anext(states)
        except DriverError:  # It raises rather than hangs, and a new watch goes on.
            async with h.engine.watch(since_rev=states.cursor) as again:
                found = await anext(again)
    check(found, after.committed, "what is delivered afterwards")
    await h.engine.do(Delay(ctx, "work", after=timedelta(0)))
    check(len((await h.driver.get_due(DueQuery("delay"))).due), 1, "delays")
    seen = await h.driver.changed(Seen())
    check(seen.head, 2, "head")


CASES: tuple[Case, ...] = (
    standstill_ends_each_operation,
    standstill_under_a_timeout,
    standstill_does_not_hold_a_stop_up,
    standstill_loses_nothing,
)
