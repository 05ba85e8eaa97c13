"""How many attempts begin: not too many at once, and not too many in a second."""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

from flowstate.cancellation import all_cancelled
from flowstate.clock import Clock
from flowstate.engine import Engine
from flowstate.executions import Place

__all__ = ["Admission", "EngineFullError", "Outcome"]

Outcome = asyncio.Future[BaseException | None]
YOUNG = 30.0
PAUSE = 0.1  # Seconds until what nobody tells of is looked at again.
PATIENCE = 30.0  # Seconds of a full engine after which another one should lead.


class EngineFullError(Exception):
    """Executions have been waiting in the engine for long, so nothing can be recovered in it."""


class Admission:
    """Lets attempts begin one after the other, so that a restart with many hurts nobody.

    Args:
        engine: executes them; none begins that would have to wait for its turn there.
        clock: of the engine.
        max_running: at once; those that have run for half a minute no longer count.
        rate: in a second.
        rng: for jitter.
    """

    def __init__(
        self, engine: Engine, clock: Clock, max_running: int, rate: float, rng: random.Random
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._max_running = max_running
        self._interval = 1.0 / rate
        self._rng = rng
        self._next_start = 0.0
        self._beginning = 0
        self._one_by_one = asyncio.Lock()
        self._running: deque[tuple[float, Outcome]] = deque()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[Place]:
        """Wait for a turn, in the order of asking, and hold it while an attempt begins.

        What it gives is the place in the engine in which that has to start.

        Raises:
            EngineFullError: there is no room, and has not been for long.
        """
        async with self._one_by_one:
            await self._clock.sleep(self._next_start - self._clock.monotonic())
            place = await self._free_place()
            pause = self._interval * self._rng.uniform(0.8, 1.2)
            self._next_start = max(self._next_start, self._clock.monotonic()) + pause
            self._beginning += 1
        try:
            yield place
        finally:
            self._beginning -= 1
            self._engine.release(place)

    def add(self, outcome: Outcome) -> None:
        """Count an attempt until it is over, or no longer young."""
        self._running.append((self._clock.monotonic(), outcome))

    async def _free_place(self) -> Place:
        give_up_at = self._clock.monotonic() + PATIENCE
        while True:
            if self._is_busy():
                await self._change(self._until_one_is_old())
                give_up_at = self._clock.monotonic() + PATIENCE
                continue
            place = self._engine.reserve()
            if place is not None:
                return place
            if self._clock.monotonic() >= give_up_at:
                raise EngineFullError
            await self._change(PAUSE)

    def _is_busy(self) -> bool:
        """Return whether as many attempts as may be are on their way."""
        limit = self._clock.monotonic() - YOUNG
        running = (each for each in self._running if each[0] > limit and not each[1].done())
        self._running = deque(running)
        return len(self._running) + self._beginning >= self._max_running

    def _until_one_is_old(self) -> float:
        if self._beginning:
            return PAUSE
        return max(PAUSE, self._running[0][0] + YOUNG - self._clock.monotonic())

    async def _change(self, pause: float) -> None:
        """Wait so many seconds, or until an attempt is over."""
        sleep = asyncio.create_task(_sleep(self._clock, pause))
        running: list[asyncio.Future[Any]] = [
            outcome for _, outcome in self._running if not outcome.done()
        ]
        try:
            await asyncio.wait({sleep, *running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await all_cancelled(sleep)


async def _sleep(clock: Clock, seconds: float) -> None:
    await clock.sleep(seconds)
