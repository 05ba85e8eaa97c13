"""Is each watch what its filter leaves of the log? From its cursor, once, in order."""

from bisect import bisect_right
from collections.abc import Iterator

from flowstate.testing.histories.bounds import Bounds
from flowstate.testing.histories.history import History, WatchSession
from flowstate.testing.histories.indexed_log import IndexedLog, passes
from flowstate.testing.histories.violation import Violation

__all__ = ["check_watches"]


def check_watches(history: History, log: IndexedLog, bounds: Bounds) -> Iterator[Violation]:
    """G6: each watch delivers every match exactly once, in order, across its sessions."""
    last: dict[str, WatchSession] = {}
    for session in history.sessions:
        before = last.get(session.begun.name)
        if before is not None:
            yield from _check_reconnect(before, session, log)
        last[session.begun.name] = session
        yield from _check_session(session, log)
        for delivered in session.delivered:
            if 0 < delivered.rev <= log.head:
                bounds.not_after(log.commit_of[delivered.rev], delivered.at, delivered)
        yield from _check_start(session, log, bounds)


def _check_session(session: WatchSession, log: IndexedLog) -> Iterator[Violation]:
    begun = session.begun
    wanted = log.matching(begun.filter)
    place = bisect_right(wanted, begun.after)
    if begun.since_latest and session.delivered:
        place = bisect_right(wanted, session.delivered[0].rev - 1)
    rows, end = log.rows, len(wanted)
    for delivered in session.delivered:
        rev = delivered.rev
        if place < end and wanted[place] == rev and rows[rev - 1].id == delivered.id:
            place += 1
            continue
        row = log.row(rev)
        if row is None or row.id != delivered.id:
            text = f"a watch delivered revision {rev} of {delivered.id!r}, which is not in the log"
            yield Violation("G6", text, (delivered, session))
        elif not passes(begun.filter, row):
            text = f"a watch delivered revision {rev}, which it did not ask for"
            yield Violation("G6", text, (delivered, session))
        elif place < end and wanted[place] < rev:
            text = f"a watch went on to revision {rev} without {wanted[place]}"
            yield Violation("G6", text, (delivered, session))
            place = bisect_right(wanted, rev)
        else:
            text = f"a watch delivered revision {rev} again, out of order, or below its cursor"
            yield Violation("G6", text, (delivered, session))
    unplaced = begun.since_latest and not session.delivered
    if session.ended and not unplaced and place < end and wanted[place] <= session.ended.cursor:
        text = f"a watch passed revision {wanted[place]} without delivering it"
        yield Violation("G6", text, (session,))


def _check_reconnect(
    before: WatchSession, session: WatchSession, log: IndexedLog
) -> Iterator[Violation]:
    """Compare the cursor of a session with how far the one before it came.

    One that was killed may have lost the newest cursor, and then sees some revisions again.
    """
    after = session.begun.after
    reached = before.delivered[-1].rev if before.delivered else before.begun.after
    reached = max(reached, before.ended.cursor if before.ended else 0)
    if session.begun.since_latest or (before.begun.since_latest and not before.delivered):
        return
    missed = log.matching_after(session.begun.filter, reached)
    if missed and missed <= after:
        text = f"a watch went on after {after}, and has never delivered revision {missed}"
        yield Violation("G6", text, (before, session))
    again = log.matching_after(session.begun.filter, after)
    if before.ended and again and again <= reached:
        text = f"a watch went on after {after}, although it had delivered up to {reached}"
        yield Violation("G6", text, (before, session))


def _check_start(session: WatchSession, log: IndexedLog, bounds: Bounds) -> Iterator[Violation]:
    """A watch since the latest begins with a revision that was the newest match at some moment."""
    if not (session.begun.since_latest and session.delivered):
        return
    first = session.delivered[0]
    if log.row(first.rev) is not None:
        newer = log.matching_after(session.begun.filter, first.rev)
        if found := bounds.observe(first.rev, newer, session.begun.at, first.at, first):
            yield found
