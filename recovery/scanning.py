"""Schedules a leader's scans for stalled states."""

import math
from datetime import datetime, timedelta

import attrs

__all__ = ["ScanSchedule"]

FULL_SCAN_EVERY = 60.0  # Seconds.
# Stalled states come in the order of their time. A commit that took long may add one behind.
OVERLAP = timedelta(seconds=10)
MAX_DOUBLINGS = 6


@attrs.define(eq=False)
class ScanSchedule:
    """Says which stalled states a scan has to read, and when the next one is due.

    Most scans read only the states that have stalled since the one before; once a minute one
    reads all. When the store refuses something, that scan is repeated, after a growing pause,
    however many others there are meanwhile.

    Args:
        poll_interval: seconds.
        now: by the monotonic clock.
    """

    _poll_interval: float
    _now: float
    _since: datetime | None = attrs.field(init=False, default=None)
    _full_at: float = attrs.field(init=False)
    _again_since: datetime | None = attrs.field(init=False, default=None)
    _again_at: float = attrs.field(init=False, default=math.inf)
    _failures: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._full_at = self._now + FULL_SCAN_EVERY

    def since(self, now: float) -> datetime | None:
        """Return from when on to read; ``None``: everything."""
        return self._again_since if now >= self._again_at else self._since

    def done(self, began: float, now: float, store_now: datetime, *, is_done: bool) -> None:
        """Go on after a scan.

        Args:
            began: when, by the monotonic clock.
            now: by the monotonic clock.
            store_now: the store's clock at the scan.
            is_done: whether the store has refused nothing.
        """
        was_again = began >= self._again_at
        if not is_done and (was_again or self._again_at == math.inf):
            self._again_since = self.since(began)
            self._again_at = now + self._poll_interval * 2**self._failures
            self._failures = min(self._failures + 1, MAX_DOUBLINGS)
        elif was_again:
            self._again_at, self._failures = math.inf, 0
        self._since = store_now - OVERLAP
        if now >= self._full_at:
            self._since, self._full_at = None, now + FULL_SCAN_EVERY

    def pause(self, now: float) -> float:
        """Return the seconds until the next scan, whatever happens."""
        return max(0.0, min(self._full_at, self._again_at) - now)
