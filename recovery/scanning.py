"""Schedules a leader's scans for stalled states."""

import math
from datetime import datetime, timedelta

import attrs

__all__ = ["Jumps", "ScanSchedule"]

FULL_SCAN_EVERY = 60.0  # Seconds.
# Stalled states come in the order of their time. A commit that took long may add one behind.
OVERLAP = timedelta(seconds=10)
MAX_DOUBLINGS = 6
SMALLEST_JUMP = 0.25  # Seconds.
FASTEST_CLOCK = 1.25  # Seconds of the store in one of this process, without a jump.


@attrs.define(eq=False)
class Jumps:
    """Notices when the store's clock jumps ahead: what is kept alive looks stalled then.

    Until its next heartbeat, that is: they are sent by clocks that do not jump.
    """

    _seen: tuple[float, datetime] | None = attrs.field(init=False, default=None)
    _latest: tuple[datetime, datetime] | None = attrs.field(init=False, default=None)

    def look(self, asked_at: float, replied_at: float, store_now: datetime) -> None:
        """Compare the store's clock with the monotonic one, by what has passed at most."""
        if self._seen is not None:
            passed = replied_at - self._seen[0]
            before = self._seen[1] + timedelta(seconds=FASTEST_CLOCK * passed + SMALLEST_JUMP)
            if store_now > before:
                self._latest = self._seen[1], store_now
        self._seen = asked_at, store_now

    def excuse(self, stalls_at: datetime, store_now: datetime, beats_within: timedelta) -> bool:
        """Return whether a state only looks stalled because of a jump a moment ago."""
        if self._latest is None:
            return False
        before, after = self._latest
        # Also what stalls after the jump does so too early, if it is counted from before it.
        return before < stalls_at and store_now < after + beats_within


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

    def end(self, now: float, store_now: datetime, *, is_done: bool) -> None:
        """Go on after a scan.

        Args:
            now: by the monotonic clock.
            store_now: the store's clock at the scan.
            is_done: whether the store has refused nothing.
        """
        self._since = store_now - OVERLAP
        if self._is_full:
            self._full_at = now + FULL_SCAN_EVERY
        if is_done:
            self._failures = 0 if self._is_full else self._failures
        elif self._is_full or not self._failures:
            pause = self._poll_interval * 2**self._failures
            self._full_at = min(self._full_at, now + pause)
            self._failures = min(self._failures + 1, MAX_DOUBLINGS)

    def pause(self, now: float) -> float:
        """Return the seconds until the next scan, whatever happens."""
        return max(0.0, self._full_at - now)
