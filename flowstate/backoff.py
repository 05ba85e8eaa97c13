"""Pauses between attempts."""

import random

from flowstate.clock import Clock

__all__ = ["Backoff"]

FIRST_PAUSE = 0.02
LAST_PAUSE = 1.0


class Backoff:
    """Pauses that grow from 20 ms to a second, each of random length so that many spread out.

    Args:
        clock: to wait with.
        timeout: seconds from now after which there is no further attempt.
    """

    def __init__(self, clock: Clock, timeout: float) -> None:
        self._clock = clock
        self._deadline = clock.monotonic() + timeout
        self._length = FIRST_PAUSE

    async def pause(self) -> bool:
        """Wait a little, and return whether there is time for another attempt."""
        if self._clock.monotonic() > self._deadline:
            return False
        await self.wait()
        return True

    async def wait(self) -> None:
        """Wait, each time up to twice as long as before."""
        length = self._length * random.uniform(0.5, 1.5)  # noqa: S311 - to be spread is enough
        self._length = min(2 * self._length, LAST_PAUSE)
        await self._clock.sleep(length)
