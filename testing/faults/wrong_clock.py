"""A clock that is wrong, as that of a machine that was never set, or which runs fast."""

from contextlib import AbstractContextManager
from datetime import datetime, timedelta

from flowstate.clock import Clock

__all__ = ["WrongClock"]

RIGHT = timedelta(0)


class WrongClock:
    """Another clock, but wrong; give it to one engine or driver while others have the right one.

    ``Recoverer``, ``Delayer`` and leases use the clock of their engine.

    Args:
        clock: the right one, such as ``SystemClock()`` or a ``FakeClock``.
        error: how far its time of day is ahead; negative when it is behind.
        rate: how many of its seconds pass in a second; above 1 it runs fast.

    Attributes:
        error: as given; set it to correct the time of day, forwards or back, while time goes on.

    Raises:
        ValueError: the rate is not above 0.
    """

    def __init__(self, clock: Clock, *, error: timedelta = RIGHT, rate: float = 1.0) -> None:
        if not rate > 0:
            raise ValueError(f"a clock cannot run at a rate of {rate}")
        self.error = error
        self._clock = clock
        self._rate = rate
        self._started = clock.monotonic()

    def now(self) -> datetime:
        """Return the wrong time of day, in UTC."""
        gained = (self._clock.monotonic() - self._started) * (self._rate - 1)
        return self._clock.now() + self.error + timedelta(seconds=gained)

    def monotonic(self) -> float:
        """Return seconds that never go back, and pass at the wrong rate."""
        return self._clock.monotonic() * self._rate

    async def sleep(self, seconds: float, *, background: bool = False) -> None:
        """Wait until so many of the wrong seconds have passed."""
        await self._clock.sleep(seconds / self._rate, background=background)

    def working(self) -> AbstractContextManager[None]:
        """Hold while work goes on that the event loop does not see."""
        return self._clock.working()
