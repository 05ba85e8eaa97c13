"""Pages of revisions."""

from collections.abc import Iterable

from flowstate.driver import StateQuery, States
from flowstate.drivers.memory.index import Index
from flowstate.drivers.memory.log import Log
from flowstate.errors import CompactedError
from flowstate.reading import matches
from flowstate.state import State

__all__ = ["read_page"]

SCAN_LIMIT = 10_000


def read_page(query: StateQuery, log: Log, index: Index, head: int) -> States:
    """Return a page.

    Raises:
        CompactedError: revisions that the query insists on are compacted.
    """
    floor = log.floor
    if query.gaps_below is not None and floor > max(query.after + 1, query.gaps_below):
        raise CompactedError(floor)
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
    if query.labels or query.status is not None or query.latest_only:
        return index.rising(query, after, upto)
    return log.between(after, upto)
