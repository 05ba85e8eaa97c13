"""From when on a leader looks for stalled states, and how long it waits until it looks again."""

import math
from datetime import datetime, timedelta

__all__ = ["Looks"]

FULL_LOOK_EVERY = 60.0  # Seconds.
# What stalls is found in the order of its time; what was committed late may come behind.
OVERLAP = timedelta(seconds=10)
MOST_DOUBLINGS = 6


class Looks:
    """Most look only at what has stalled since the one before; some look at everything.

    When the store has refused something, that look is done once more, later and later, however
    often there are others meanwhile.

    Args:
        poll_interval: seconds.
        now: by the monotonic clock.
    """

    def __init__(self, poll_interval: float, now: float) -> None:
        self._poll_interval = poll_interval
        self._since: datetime | None = None
        self._full_at = now + FULL_LOOK_EVERY
        self._again_since: datetime | None = None
        self._again_at = math.inf
        self._failures = 0

    def since(self, now: float) -> datetime | None:
        """Return from when on to look now; ``None``: at everything."""
        return self._again_since if now >= self._again_at else self._since

    def done(self, began: float, now: float, store_now: datetime, *, is_done: bool) -> None:
        """Go on after a look, in which something may have been refused."""
        was_again = began >= self._again_at
        if not is_done and (was_again or self._again_at == math.inf):
            self._again_since = self.since(began)
            self._again_at = now + self._poll_interval * 2**self._failures
            self._failures = min(self._failures + 1, MOST_DOUBLINGS)
        elif was_again:
            self._again_at, self._failures = math.inf, 0
        self._since = store_now - OVERLAP
        if now >= self._full_at:
            self._since, self._full_at = None, now + FULL_LOOK_EVERY

    def pause(self, now: float) -> float:
        """Return the seconds until it has to look again, whatever happens."""
        return max(0.0, min(self._full_at, self._again_at) - now)
