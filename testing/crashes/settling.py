"""Waits until nothing is left to do in a store, and lets recovery do what a crash has left."""

import asyncio
import random
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from msgspec.structs import replace

from flowstate.driver import DelayedState, DuePage, DueQuery
from flowstate.engine import Engine
from flowstate.recovery import Recoverer, explain
from flowstate.state import State, Status

__all__ = ["RestlessError", "Until", "settle"]

Until = Callable[[Mapping[str, State]], bool]

LEASES = "flowstate.lease."
PAGE = 1_000
SHORTEST_PAUSE = 0.001
SHORTEST_LOOK = 0.1
LONGEST_PAUSE = 3600.0
LEASE = 3600.0  # No other process competes for it; a long one is not renewed all the while.
MOST_EXPLAINED = 5


class RestlessError(Exception):
    """There was still something to do after a long time."""


async def settle(
    engine: Engine,
    running: "asyncio.Future[None]",
    until: Until | None,
    longest: timedelta,
    rng: random.Random,
) -> None:
    """Return when ``running`` is done, nothing executes, and no state will move by itself.

    Raises whatever ``running`` raises.

    Args:
        engine: beside a delayer, on a fake clock.
        running: gives it work.
        until: says of the latest states whether it is over, instead.
        longest: how long that may take, by the clock of the engine.
        rng: of the recoverer.

    Raises:
        RestlessError: it took longer.
    """
    clock = engine.clock
    end = clock.monotonic() + longest.total_seconds()
    pause, seen = SHORTEST_PAUSE, -1
    while True:
        if running.done():
            running.result()
        stalled = await _stalled(engine)
        if await _recoverable(engine, stalled):
            await _recover(engine, running, end, rng)
            continue
        delayed, now = await _delays(engine)
        times = [delay.due for delay in delayed]
        times += [stalled.next_at] if stalled.next_at else []
        if running.done() and (
            until(await _latest(engine)) if until else not times and await _is_idle(engine)
        ):
            return
        await _check_time(engine, running, end)
        head = await engine.head()
        pause = SHORTEST_PAUSE if head != seen else min(2 * pause, LONGEST_PAUSE)
        seen = head
        left = min(((time - now).total_seconds() for time in times), default=0.0)
        await clock.sleep(min(left, LONGEST_PAUSE) if left > 0 else pause)


async def _recover(
    engine: Engine, running: "asyncio.Future[None]", end: float, rng: random.Random
) -> None:
    """Let a recoverer deal with what has stalled; without such it would only look and look."""
    pause = SHORTEST_LOOK
    async with Recoverer(engine, group=engine.name, lease=LEASE, rng=rng):
        while True:
            await engine.clock.sleep(pause)
            if not await _recoverable(engine, await _stalled(engine)):
                return
            await _check_time(engine, running, end)
            pause = min(2 * pause, LONGEST_PAUSE)


async def _stalled(engine: Engine) -> DuePage:
    return await engine.driver.get_due(DueQuery("stall", limit=PAGE))


async def _recoverable(engine: Engine, stalled: DuePage) -> bool:
    """Return whether a recoverer would do something about one of these stalled states."""
    states = [each.state for each in stalled.due]
    found = await engine.driver.get_liveness([state.id for state in states]) if states else ()
    for state, liveness in zip(states, found, strict=True):
        waits = liveness is None or liveness.rev != state.rev or liveness.delay_due is not None
        if engine.can_execute(state.transition.to) and not waits:
            return True
    return False


async def _delays(engine: Engine) -> tuple[list[DelayedState], datetime]:
    """Return all delays that the engine can fire, and the store's clock."""
    query = DueQuery("delay", everything=True, limit=PAGE)
    found: list[DelayedState] = []
    while True:
        page = await engine.driver.get_due(query)
        found += [delay for delay in page.due if engine.can_execute(delay.to)]
        if not page.more:
            return found, page.now
        query = replace(query, after=page.end)


async def _is_idle(engine: Engine) -> bool:
    idle = asyncio.ensure_future(engine.idle())
    await asyncio.sleep(0)
    found = idle.done()
    idle.cancel()
    return found


async def _latest(engine: Engine, status: Status | None = None) -> dict[str, State]:
    """Return the latest revisions by id, those of leases left aside."""
    states = engine.states(latest_only=True, status=status)
    return {state.id: state async for state in states if not state.id.startswith(LEASES)}


async def _check_time(engine: Engine, running: "asyncio.Future[None]", end: float) -> None:
    if engine.clock.monotonic() < end:
        return
    delayed, _ = await _delays(engine)
    restless = {**await _latest(engine, Status.ACTIVE), **{d.state.id: None for d in delayed}}
    lines = [] if running.done() else ["run() has not returned"]
    lines += [f"{id!r}: {(await explain(engine, id)).text}" for id in [*restless][:MOST_EXPLAINED]]
    raise RestlessError("\n".join(["there is still something to do:", *lines]))
