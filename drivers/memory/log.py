"""The revisions that are stored, all of them from the floor on and some below, and their pages."""

from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Sequence
from datetime import UTC, datetime
from operator import attrgetter

from flowstate.driver import StateQuery, States
from flowstate.drivers.kit.records import check_gaps
from flowstate.drivers.memory.index import Index
from flowstate.log.reading import matches
from flowstate.state import State

__all__ = ["LONG_AGO", "Log", "read_page"]

SCAN_LIMIT = 10_000
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


def read_page(query: StateQuery, log: Log, index: Index, head: int) -> States:
    """Return a page.

    Raises:
        CompactedError: revisions that the query insists on are compacted.
    """
    floor = log.floor
    check_gaps(query, floor)
    found: list[State] = []
    for scanned, rev in enumerate(_candidates(query, log, index, head), 1):
        state = _answer(query, log, index, rev)
        if state is not None:
            if len(found) == query.limit:
                return States(found, found[-1].rev, True, head, floor)
            found.append(state)
        if scanned == SCAN_LIMIT:
            return States(found, rev, True, head, floor)
    return States(found, max(head, query.after), False, head, floor)


def _answer(query: StateQuery, log: Log, index: Index, rev: int) -> State | None:
    if query.latest_only and rev not in index.live:
        return None
    state = log.at(rev)
    return state if state is not None and matches(query, state) else None


def _candidates(query: StateQuery, log: Log, index: Index, head: int) -> Iterable[int]:
    """Return the revisions to look at, between the cursor and the times of the query."""
    after, upto = query.after, head
    if query.since_time is not None:
        after = max(after, log.last_before(query.since_time))
    if query.committed_before is not None:
        upto = log.last_before(query.committed_before)
    if query.since_latest:
        newest_first = (
            rev for rev in index.falling(query, upto) if _answer(query, log, index, rev)
        )
        after = max(after, next(newest_first, head + 1) - 1)
    if query.labels or query.status is not None or query.latest_only or query.id is not None:
        return index.rising(query, after, upto)
    return log.between(after, upto)
