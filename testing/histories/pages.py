"""Is each page what its filter leaves of the log, up to a head that was the head?"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from flowstate.testing.histories.bounds import Bounds
from flowstate.testing.histories.history import History, PageRead
from flowstate.testing.histories.indexed_log import IndexedLog, passes
from flowstate.testing.histories.violation import Violation

__all__ = ["check_pages"]


def check_pages(history: History, log: IndexedLog, bounds: Bounds) -> Iterator[Violation]:
    """G5: a page is what its filter leaves of the log up to a head that was the head."""
    for page in history.pages:
        if page.head > log.head:
            text = f"a page had the head {page.head}, and the log ends at {log.head}"
            yield Violation("G7", text, (page,))
            continue
        next_rev = page.head + 1 if page.head < log.head else 0
        found = bounds.observe(page.head, next_rev, page.invoked, page.at, page)
        if found:
            yield found
        amiss = page.scanned_to > page.head or (not page.more and page.scanned_to < page.head)
        if amiss and page.scanned_to != page.after:  # A cursor above the head comes back.
            text = f"a page has the head {page.head}, and says it scanned to {page.scanned_to}"
            yield Violation("G5", text, (page,))
        if not page.latest_only:
            expected = _expected(page, log)
            floor = page.floor if page.after + 1 < page.floor else 0  # Below, some are compacted.
            yield from _compare(page, expected, floor)
    latest = [page for page in history.pages if page.latest_only and page.head <= log.head]
    yield from _check_latest(latest, log)


def _expected(page: PageRead, log: IndexedLog) -> Sequence[int]:
    wanted = log.matching(page.filter)
    start = bisect_right(wanted, page.after)
    if page.since_latest:
        start = max(start, bisect_right(wanted, page.head) - 1)
    return wanted[start : bisect_right(wanted, page.scanned_to)]


def _compare(page: PageRead, expected: Sequence[int], floor: int) -> Iterator[Violation]:
    if len(expected) == len(page.revs) and tuple(expected) == page.revs:
        return
    revs = set(page.revs)
    missing = [rev for rev in expected if rev not in revs and rev >= floor]
    extra = sorted(revs.difference(expected))
    if missing:
        yield Violation("G5", f"a page lacks revision {missing[0]}", (page,))
    elif extra:
        yield Violation("G5", f"a page has revision {extra[0]}, which is not its own", (page,))
    elif list(page.revs) != sorted(revs):
        yield Violation("G4", "a page is not in the order of the log", (page,))


def _check_latest(pages: Sequence[PageRead], log: IndexedLog) -> Iterator[Violation]:
    """Check pages of latest revisions, in the order of their heads.

    The log is replayed alongside. ``following`` leads from a revision that has a successor to
    one behind it, in ever longer steps, so what has no successor is found without a search.
    """
    if not pages:
        return
    following = list(range(log.head + 2))

    def latest_from(rev: int) -> int:
        found = rev
        while following[found] != found:
            found = following[found]
        while following[rev] != found:
            following[rev], rev = found, following[rev]
        return found

    replaced = [(after, rev) for rev, after in enumerate(log.successor) if after]
    replaced += [(end, end) for ends in log.ends.values() for end in ends]
    replaced.sort(reverse=True)
    for page in sorted(pages, key=lambda page: page.head):
        while replaced and replaced[-1][0] <= page.head:
            _, rev = replaced.pop()
            following[rev] = rev + 1
        expected = []
        rev = latest_from(page.after + 1) if page.after < page.head else page.head + 1
        while rev <= min(page.scanned_to, page.head):
            if passes(page.filter, log.rows[rev - 1]):
                expected.append(rev)
            rev = latest_from(rev + 1)
        yield from _compare(page, expected[-1:] if page.since_latest else expected, 0)
