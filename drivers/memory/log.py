"""The revisions that are stored: all of them from the floor on, and some below."""

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Sequence
from datetime import UTC, datetime
from operator import attrgetter

from flowstate.state import State

__all__ = ["LONG_AGO", "Log"]

LONG_AGO = datetime.min.replace(tzinfo=UTC)
REV, TIME = attrgetter("rev"), attrgetter("committed_at")


class Log:
    """Revisions by number and by time, which rise together.

    Attributes:
        states: all that are stored, in order.
        floor: the lowest revision from which the log is complete.
    """

    def __init__(self) -> None:
        self.states: list[State] = []
        self.floor = 1
        self._kept = 0  # How many are below the floor.

    def at(self, rev: int) -> State | None:
        """Return a revision, if it is stored."""
        place = self._kept + rev - self.floor
        if rev < self.floor:
            place = bisect_left(self.states, rev, hi=self._kept, key=REV)
        state = self.states[place] if place < len(self.states) else None
        return state if state is not None and state.rev == rev else None

    def last_before(self, time: datetime) -> int:
        """Return the last stored revision that was committed before ``time``, or 0."""
        place = bisect_left(self.states, time, key=TIME)
        return self.states[place - 1].rev if place else 0

    def between(self, after: int, upto: int) -> Iterable[int]:
        """Return the stored revisions above ``after``, up to and with ``upto``."""
        places = (bisect_right(self.states, rev, key=REV) for rev in (after, upto))
        return (self.states[place].rev for place in range(*places))

    def drop_kept(self, before: int, live: Container[int]) -> Sequence[State]:
        """Remove what is below the floor and not ``live`` any more; return it."""
        place = bisect_left(self.states, before, hi=self._kept, key=REV)
        return self._drop(0, place, live)

    def move_floor(self, floor: int, live: Container[int]) -> Sequence[State]:
        """Remove what is not ``live`` and below the new floor; return it."""
        start, floor = self._kept, max(floor, self.floor)
        self._kept += floor - self.floor
        self.floor = floor
        return self._drop(start, self._kept, live)

    def _drop(self, start: int, end: int, live: Container[int]) -> Sequence[State]:
        found = self.states[start:end]
        self.states[start:end] = [state for state in found if state.rev in live]
        gone = [state for state in found if state.rev not in live]
        self._kept -= len(gone)
        return gone
