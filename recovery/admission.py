"""How many attempts begin: not too many at once, and not too many in a second."""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

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
        chance: for jitter.
    """

    def __init__(
        self, engine: Engine, clock: Clock, max_running: int, rate: float, chance: random.Random
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._max_running = max_running
        self._interval = 1.0 / rate
        self._chance = chance
        self._next_start = 0.0
        self._beginning = 0
        self._running: deque[tuple[float, Outcome]] = deque()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and hold it while an attempt begins."""
        now = self._clock.monotonic()
        turn = max(now, self._next_start)
        self._next_start = turn + self._interval * self._chance.uniform(0.8, 1.2)
        if turn > now:
            await self._clock.sleep(turn - now)
        while self._is_full():
            await self._change()
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
        self._running = deque(each for each in self._running if not each[1].done())
        young = sum(started > limit for started, _ in self._running)
        return young + self._beginning >= self._max_running or self._engine.waiting > 0

    async def _change(self) -> None:
        """Wait until an attempt is over, or a moment has passed."""
        pause = asyncio.create_task(self._pause())
        running: list[asyncio.Future[Any]] = [
            outcome for _, outcome in self._running if not outcome.done()
        ]
        try:
            await asyncio.wait({pause, *running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            await asyncio.gather(pause, return_exceptions=True)

    async def _pause(self) -> None:
        await self._clock.sleep(FULL_PAUSE)
