"""From stored rows to values: what cannot be read is named, and hides nothing else.

A row of a revision is ``(rev, id, committed_at, delayed_until, body)``: times in microseconds since
1970, the body as JSON. A row of a delay is ``(id, due, state_id, rev, body)``, followed by the row
of the revision that it belongs to, or as many ``None``. That of a timer has ``TIMER_REV`` as its
revision, and the latest revision of its state follows.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from math import ceil
from typing import Any

from msgspec.structs import replace

from flowstate.codec import ABSENT, DelayBody, decode_delay, decode_state
from flowstate.driver import (
    DamagedDelay,
    DamagedRevision,
    DelayedState,
    DuePage,
    DueQuery,
    Liveness,
    StateQuery,
    States,
)
from flowstate.drivers.kit.times import FIRST, LAST, from_micros
from flowstate.errors import CodecError, CompactedError, DamagedRevisionError
from flowstate.ground.frozen import EMPTY, freeze
from flowstate.ground.limits import MAX_PAGE_BYTES
from flowstate.state import State

__all__ = [
    "Row",
    "TIMER_REV",
    "check_gaps",
    "delay_of",
    "due_page",
    "liveness_of",
    "page_of",
    "readable_time",
    "stalled_of",
    "state_of",
    "state_or_raise",
    "text_of",
]

Row = Sequence[Any]
TIMER_REV = -1


def text_of(stored: object) -> str:
    """Return a stored text as far as it can be read."""
    if isinstance(stored, bytes):
        return stored.decode(errors="replace")
    return stored if isinstance(stored, str) else ""


def state_of(row: Row) -> State:
    """Return the state of a row.

    Raises:
        CodecError: damaged, or of a newer library.
    """
    rev, id, committed_at, delayed_until, body = row
    if body is None:
        raise CodecError(f"state: revision {rev!r} is not stored")
    until = None if delayed_until is None else from_micros(delayed_until)
    state = decode_state(body, rev, from_micros(committed_at), until)
    if state.id != id and state.id != text_of(id):
        raise CodecError(f"state: revision {rev!r} is of {state.id!r}, not of {text_of(id)!r}")
    return state


def state_or_raise(row: Row) -> State:
    """Return the state of a row.

    Raises:
        DamagedRevisionError: damaged, or of a newer library.
    """
    try:
        return state_of(row)
    except CodecError as error:
        raise DamagedRevisionError(row[0], text_of(row[1]), str(error)) from error


def page_of(
    query: StateQuery, rows: Sequence[Row], *, head: int, floor: int, stop: int | None = None
) -> States:
    """Return a page.

    Args:
        query: that was asked.
        rows: the first matches, in the order of the log; more than the page may hold, if there
            are more.
        head: the highest revision in the store.
        floor: the lowest revision from which the log is complete.
        stop: every match up to this revision is in ``rows``; ``None``: all there are.

    Raises:
        CompactedError: the log is incomplete where the query wants it complete.
    """
    check_gaps(query, floor)
    left = query.max_bytes
    states: list[State] = []
    damaged: list[DamagedRevision] = []
    for count, row in enumerate(rows, 1):
        try:
            states.append(state_of(row))
        except CodecError as error:
            damaged.append(DamagedRevision(row[0], text_of(row[1]), str(error)))
        left -= len(row[4] or "")
        if count < len(rows) and (left <= 0 or count == query.limit):
            stop = row[0]
            break
    scanned_to = max(head, query.after) if stop is None else stop
    return States(states, scanned_to, stop is not None, head, floor, damaged)


def check_gaps(query: StateQuery, floor: int) -> None:
    """Refuse a query that wants revisions which are compacted.

    Raises:
        CompactedError: the log is incomplete where the query wants it complete.
    """
    if query.gaps_below is not None and floor > max(query.after + 1, query.gaps_below):
        raise CompactedError(floor)


def delay_of(row: Row) -> DelayedState:
    """Return the delay or timer of a row; the state of a timer has ``rev`` 0 if it has no latest.

    Raises:
        CodecError: damaged, or of a newer library.
    """
    id, due, state_id, rev, encoded, *in_log = row
    if type(due) is not int or type(rev) is not int:
        raise CodecError(f"delay: due at {due!r}, of revision {rev!r}")
    body = decode_delay(encoded)
    if bool(body.timer) != (rev == TIMER_REV):
        raise CodecError(f"delay: timer {body.timer!r}, of revision {rev!r}")
    state = _delayed_state(body, text_of(state_id), rev, in_log)
    if state.id != text_of(state_id):
        raise CodecError(f"delay: of {text_of(state_id)!r}, but its state is {state.id!r}")
    notes, at = freeze("annotations", body.annotations), from_micros(due)
    return DelayedState(id, state, body.to, notes, at, body.commit, body.timer)


def _delayed_state(body: DelayBody, id: str, rev: int, in_log: Row) -> State:
    if rev == TIMER_REV:
        return State(id) if in_log[0] is None else state_of(in_log)
    own = bytes(body.state)
    if own == bytes(ABSENT):
        return state_of((rev, *in_log[1:]))
    return replace(decode_state(own), rev=rev)


def stalled_of(row: Row) -> DelayedState:
    """Return the stalled or idle state of a row, which is as of a delay.

    Raises:
        CodecError: damaged, or of a newer library.
    """
    id, due, _, _, _, *in_log = row
    state = state_of(in_log)
    if state.id != text_of(id):
        raise CodecError(f"state: {text_of(id)!r} is stored as {state.id!r}")
    return DelayedState(state.id, state, state.transition.to, EMPTY, from_micros(due), False)


def due_page(
    query: DueQuery,
    rows: Iterable[Row],
    *,
    more: bool,
    now: datetime,
    next_at: float | None,
    without_time: Iterable[Row] = (),
    others: Sequence[str] = (),
) -> DuePage:
    """Return a page of what is due.

    Args:
        query: that was asked.
        rows: those of the page, in the order of (due, id). It ends early when they are large.
            Those of idle states may have anything as their time.
        more: whether there are further ones that answer the query.
        now: the store's clock.
        next_at: when the earliest one after this page is due.
        without_time: rows without a time, or with one that has no place in the order.
        others: flows outside the query for which something is due.
    """
    decode = delay_of if query.kind == "delay" else stalled_of
    if query.kind == "idle":
        rows, next_at = ((row[0], FIRST, *row[2:]) for row in rows), FIRST if more else None
    due: list[DelayedState] = []
    damaged: list[DamagedDelay] = []
    left = MAX_PAGE_BYTES
    for row in rows:
        if left <= 0:
            more, next_at = True, row[1]
            break
        left -= len(row[4] or "") + len(row[9] or "")
        try:
            due.append(decode(row))
        except CodecError as error:
            damaged.append(_damaged(row, readable_time(row[1]), error))
    damaged += [_damaged(row, None, f"due at {row[1]!r}") for row in without_time]
    return DuePage(due, more, now, readable_time(next_at), damaged, others)


def liveness_of(row: Row, delays: Iterable[Row], now: datetime) -> Liveness:
    """Return what is known about a latest revision.

    Args:
        row: its ``(rev, stalls_at, beat_at, note)``, with times as of other rows.
        delays: those of this revision, of which any may be damaged.
        now: the store's clock.
    """
    rev, stalls_at, beat_at, note = row
    earliest: datetime | None = None
    for delay in delays:
        with suppress(CodecError):
            due = delay_of(delay).due
            earliest = due if earliest is None else min(due, earliest)
    return Liveness(rev, readable_time(stalls_at), readable_time(beat_at), note, now, earliest)


def readable_time(micros: Any) -> datetime | None:
    """Return a stored time, or the next one that is a time; ``None`` for what is none.

    Never an earlier one: a page that goes on after it must not begin with the same row.
    """
    if not isinstance(micros, int | float) or not FIRST <= micros <= LAST:
        return None
    return from_micros(ceil(micros))


def _damaged(row: Row, due: datetime | None, error: object) -> DamagedDelay:
    return DamagedDelay(text_of(row[0]), text_of(row[2]), due, str(error))
