"""From the rows of statements to pages."""

import contextlib
from collections.abc import Sequence
from datetime import datetime

from flowstate.driver import DuePage, DueQuery, Liveness, StateQuery, States
from flowstate.drivers.kit.records import Row, delay_of, due_page, page_of, readable_time
from flowstate.drivers.kit.times import from_micros
from flowstate.errors import CodecError

__all__ = ["due_of", "first_readable", "liveness_of", "states_of"]


def states_of(query: StateQuery, rows: Sequence[Row]) -> States:
    """Return the page that the rows of a page's statement make.

    Raises:
        CompactedError: the log is incomplete where the query wants it complete.
    """
    head, floor, stop, count = rows[0][:4]
    found = [row[4:] for row in rows if row[4] is not None]
    if count is not None and count > len(found):
        stop = found[-1][0]  # More of them would have been too many bytes.
    return page_of(query, found, head=head, floor=floor, stop=stop)


def due_of(query: DueQuery, rows: Sequence[Row]) -> DuePage:
    """Return the page that the rows of a page of what is due make."""
    now, next_at, others = rows[0][:3]
    placed = [row[4:] for row in rows if row[3]]
    found = [row[1:] for row in placed[: query.limit] if row[0]]
    more = len(placed) > len(found)
    return due_page(
        query,
        found,
        more=more,
        now=from_micros(now),
        next_at=placed[len(found)][2] if more else next_at,
        without_time=[row[5:] for row in rows if row[3] is False],
        others=others or (),
    )


def liveness_of(row: Row) -> tuple[Liveness, bool]:
    """Return what a row says of a latest revision; and whether its earliest delay is damaged."""
    rev, stalls_at, beat_at, note, now, _, *delay = row
    due = first_readable([delay])
    beaten = None if beat_at is None else from_micros(beat_at)
    liveness = Liveness(rev, readable_time(stalls_at), beaten, note, from_micros(now), due)
    return liveness, due is None and delay[0] is not None


def first_readable(delays: Sequence[Row]) -> datetime | None:
    """Return when the first delay is due that can be read."""
    for delay in delays:
        with contextlib.suppress(CodecError):
            if delay[0] is not None:
                return delay_of(delay).due
    return None
