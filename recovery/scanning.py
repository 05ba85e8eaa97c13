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
    """Says which stalled states a scan has to read, and when the next full one is due.

    Most scans read only the states that have stalled since the one before; once a minute one
    reads all. When the store refuses something, the next full scan comes sooner: after a pause
    that doubles until a full scan refuses nothing.

    Args:
        poll_interval: seconds.
    """

    _poll_interval: float
    _since: datetime | None = attrs.field(init=False, default=None)
    _full_at: float = attrs.field(init=False, default=-math.inf)
    _is_full: bool = attrs.field(init=False, default=True)
    _failures: int = attrs.field(init=False, default=0)

    def begin(self, now: float) -> datetime | None:
        """Begin a scan; return from when on it has to read, or ``None``: everything."""
        self._is_full = self._since is None or now >= self._full_at
        return None if self._is_full else self._since

    def end(self, now: float, store_now: datetime, *, is_done: bool, again_at: float) -> None:
        """Go on after a scan.

        Args:
            now: by the monotonic clock.
            store_now: the store's clock at the scan.
            is_done: whether the store has refused nothing.
            again_at: when to read all again, for what is not known to have stood still for long
                enough; ``math.inf`` if there is none.
        """
        self._since = store_now - OVERLAP
        if self._is_full:
            self._full_at = now + FULL_SCAN_EVERY
        self._full_at = min(self._full_at, again_at)
        if is_done:
            self._failures = 0 if self._is_full else self._failures
        elif self._is_full or not self._failures:
            pause = self._poll_interval * 2**self._failures
            self._full_at = min(self._full_at, now + pause)
            self._failures = min(self._failures + 1, MAX_DOUBLINGS)

    def pause(self, now: float) -> float:
        """Return the seconds until the next scan, whatever happens."""
        return max(0.0, self._full_at - now)
