"""Limits how many attempts begin: not too many at once, and not too many in a second."""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import AsyncIterator

import attrs

from flowstate.clock import Clock
from flowstate.engine import Engine
from flowstate.executions.pool import Slot
from flowstate.ground.tasks import first

__all__ = ["AttemptLimiter", "EngineFullError", "Outcome"]

Outcome = asyncio.Future[BaseException | None]
YOUNG = 30.0
PAUSE = 0.1  # Seconds between two looks at what sends no event.
PATIENCE = 30.0  # Seconds of a full engine after which another one should lead.


class EngineFullError(Exception):
    """Executions have been waiting in the engine for long, so nothing can be recovered in it."""


@attrs.define(eq=False)
class AttemptLimiter:
    """Lets attempts begin one after the other, so that a restart with many overloads nothing.

    Args:
        engine: executes them; none begins that would have to wait for its turn there.
        max_running: at once; those that have run for half a minute no longer count.
        rate: in a second.
        rng: for jitter.
    """

    _engine: Engine
    _max_running: int
    _rate: float
    _rng: random.Random
    _next_start: float = attrs.field(init=False, default=0.0)
    _beginning: int = attrs.field(init=False, default=0)
    _one_by_one: asyncio.Lock = attrs.field(init=False, factory=asyncio.Lock)
    _running: deque[tuple[float, Outcome]] = attrs.field(init=False, factory=deque)

    @property
    def _clock(self) -> Clock:
        return self._engine.clock

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[Slot]:
        """Wait for a turn, in the order of asking, and hold it while an attempt begins.

        It gives the slot of the engine in which the attempt has to start.

        Raises:
            EngineFullError: there is no room, and has not been for long.
            EngineStoppedError: the engine is stopping.
        """
        async with self._one_by_one:
            await self._clock.sleep(self._next_start - self._clock.monotonic())
            slot = await self._free_slot()
            pause = self._rng.uniform(0.8, 1.2) / self._rate
            self._next_start = max(self._next_start, self._clock.monotonic()) + pause
            self._beginning += 1
        try:
            yield slot
        finally:
            self._beginning -= 1
            self._engine.release(slot)

    def add(self, outcome: Outcome) -> None:
        """Count an attempt until it is over, or no longer young."""
        self._running.append((self._clock.monotonic(), outcome))

    async def _free_slot(self) -> Slot:
        give_up_at = self._clock.monotonic() + PATIENCE
        while True:
            pause = PAUSE
            if self._is_busy():
                if not self._beginning:
                    pause = self._running[0][0] + YOUNG - self._clock.monotonic()
                give_up_at = self._clock.monotonic() + pause + PATIENCE
            elif (slot := self._engine.reserve()) is not None:
                return slot
            elif self._clock.monotonic() >= give_up_at:
                raise EngineFullError
            await first(self._one_is_over(), self._clock.sleep(max(PAUSE, pause)))

    def _is_busy(self) -> bool:
        """Return whether as many attempts as allowed are on their way."""
        limit = self._clock.monotonic() - YOUNG
        running = (each for each in self._running if each[0] > limit and not each[1].done())
        self._running = deque(running)
        return len(self._running) + self._beginning >= self._max_running

    async def _one_is_over(self) -> None:
        outcomes = [outcome for _, outcome in self._running if not outcome.done()]
        never: Outcome = asyncio.get_running_loop().create_future()
        await asyncio.wait([*outcomes, never], return_when=asyncio.FIRST_COMPLETED)
