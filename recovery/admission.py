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

__all__ = ["Admission", "Outcome"]

Outcome = asyncio.Future[BaseException | None]
YOUNG = 30.0
FULL_PAUSE = 0.1


class Admission:
    """Lets attempts begin one after the other, so that a restart with many hurts nobody.

    Args:
        engine: executes them; nothing begins while executions wait for their turn there.
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
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, in the order of asking, and hold it while an attempt begins."""
        async with self._one_by_one:
            await self._clock.sleep(self._next_start - self._clock.monotonic())
            while self._is_full():
                await self._change()
            pause = self._interval * self._rng.uniform(0.8, 1.2)
            self._next_start = max(self._next_start, self._clock.monotonic()) + pause
            self._beginning += 1
        try:
            yield
        finally:
            self._beginning -= 1

    def add(self, outcome: Outcome) -> None:
        """Count an attempt until it is over, or no longer young."""
        self._running.append((self._clock.monotonic(), outcome))

    def _is_full(self) -> bool:
        limit = self._clock.monotonic() - YOUNG
        running = (each for each in self._running if each[0] > limit and not each[1].done())
        self._running = deque(running)
        return len(self._running) + self._beginning >= self._max_running or self._engine.waiting > 0

    async def _change(self) -> None:
        """Wait until an attempt is over, or no longer young."""
        pause = FULL_PAUSE
        if self._running and not self._engine.waiting:
            pause = max(pause, self._running[0][0] + YOUNG - self._clock.monotonic())
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
