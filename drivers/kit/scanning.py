"""Pages of a store that reads its rows one by one, in order: which of them, and where they end."""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import TypeVar

from flowstate.driver import DuePage, DueQuery, StateQuery, States
from flowstate.drivers.kit.records import Row, due_page, page_of, state_of
from flowstate.drivers.kit.times import LAST, from_micros, to_micros
from flowstate.errors import CodecError
from flowstate.log.reading import matches

__all__ = ["MAX_OTHERS", "in_lists", "scanned_due_page", "scanned_page"]

L = TypeVar("L")
MAX_OTHERS = 100
NOTHING: Mapping[str, int] = MappingProxyType({})


def in_lists(
    alternatives: Iterable[Sequence[L]],
    nearest: Callable[[L, int, int], int | None],
    rev: int,
    step: int,
) -> Iterator[int]:
    """Return some of the revisions in sorted lists: all that are in each list of an alternative.

    Where one list has a gap, the others are leapt over as well, however much they have there.

    Args:
        alternatives: each is at least one list.
        nearest: returns the first revision of a list from one on, upwards or downwards.
        rev: where to begin.
        step: 1, upwards, or -1, downwards.
    """
    runs = [_leap(lists, nearest, rev, step) for lists in alternatives]
    return (found for found, _ in groupby(heapq.merge(*runs, reverse=step < 0)))


def _leap(
    lists: Sequence[L], nearest: Callable[[L, int, int], int | None], rev: int, step: int
) -> Iterator[int]:
    while rev > 0:
        revs = [found for each in lists if (found := nearest(each, rev, step)) is not None]
        if len(revs) < len(lists):
            return
        rev = max(revs) if step > 0 else min(revs)
        yield rev
        rev += step


def scanned_page(
    query: StateQuery,
    candidates: Callable[[int, int], Iterable[Row]],
    *,
    head: int,
    floor: int,
    most: int = 2_000,
) -> States:
    """Return a page of revisions.

    Args:
        query: that was asked.
        candidates: returns the rows of revisions from one on, upwards or, with a step of -1,
            downwards. All that match are among them; with ``latest_only`` they are latest ones.
        head: the highest revision in the store.
        floor: the lowest revision from which the log is complete.
        most: how many candidates are looked at before the page ends, full or not.

    Raises:
        CompactedError: the log is incomplete where the query wants it complete.
    """
    after = query.after
    if query.since_latest:
        newest = (row[0] for row in candidates(head, -1) if _answers(query, row))
        after = max(after, next(newest, head + 1) - 1)
    rows: list[Row] = []
    stop, left = None, query.max_bytes
    for scanned, row in enumerate(candidates(after + 1, 1), 1):
        if _answers(query, row):
            rows.append(row)
            if len(rows) > query.limit or left <= 0:
                break  # That was one too many, so the page knows that there are more.
            left -= len(row[4] or "")
        if scanned == most:
            stop = row[0]
            break
    return page_of(query, rows, head=head, floor=floor, stop=stop)


def _answers(query: StateQuery, row: Row) -> bool:
    try:
        return matches(query, state_of(row))
    except CodecError:
        return True  # As far as the lists that it is in can tell.


def scanned_due_page(
    query: DueQuery, rows: Iterable[Row], *, now: int, firsts: Mapping[str, int] = NOTHING
) -> DuePage:
    """Return a page of what is due.

    Args:
        query: that was asked.
        rows: all that go to the flows of the query and come after its cursor, in the order of
            (due, id), however late they are. No more of them are taken than the page needs.
        now: the store's clock, in microseconds since 1970.
        firsts: for each flow when the first of it is due; needed if the query asks for others.
    """
    until = now if query.until is None else to_micros(query.until)
    if query.everything or query.kind == "idle":
        until = LAST
    taken: list[Row] = []
    next_at, more = None, False
    for row in rows:
        if row[1] > until or len(taken) == query.limit:
            next_at, more = row[1], row[1] <= until
            break
        taken.append(row)
    flows = firsts if query.flows is None or not query.others else query.flows
    others = sorted(flow for flow, due in firsts.items() if due <= until and flow not in flows)
    at, named = from_micros(now), others[:MAX_OTHERS]
    return due_page(query, taken, more=more, now=at, next_at=next_at, others=named)
