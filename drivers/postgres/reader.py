"""From rows to pages."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from flowstate.codec import ABSENT, decode_annotations, decode_delay, decode_state
from flowstate.data import Data
from flowstate.driver import (
    DamagedDelay,
    DamagedState,
    DelayedState,
    DelayedStates,
    DelayQuery,
    Liveness,
    StalledQuery,
    StalledStates,
    StateQuery,
    States,
)
from flowstate.drivers.postgres.times import from_micros
from flowstate.errors import CodecError, CompactedError
from flowstate.frozen import freeze
from flowstate.state import State

__all__ = ["data_of", "delayed_of", "liveness_of", "page_of", "stalled_of", "state_of"]

Row = Sequence[Any]


def state_of(row: Row) -> State:
    """Return the state of a row.

    Raises:
        CodecError: the body is damaged, or of a newer version.
    """
    rev, committed_at, delayed_until, body = row
    return decode_state(body, rev, from_micros(committed_at), _time(delayed_until))


def data_of(row: Row, checksum: str) -> Data:
    """Return the data of a row."""
    return Data(row[0], decode_annotations(row[1]), checksum=checksum)


def page_of(query: StateQuery, rows: Sequence[Row]) -> States:
    """Return the page that the rows of a page's statement make.

    Raises:
        CompactedError: the log is incomplete where the query wants it complete.
        CodecError: a body is damaged, or of a newer version.
    """
    head, floor, stop = rows[0][:3]
    if query.gaps_below is not None and floor > max(query.after + 1, query.gaps_below):
        raise CompactedError(floor)
    found = [row[3:] for row in rows if row[3] is not None]
    more = len(found) > query.limit or stop is not None
    if len(found) > query.limit:
        found = found[: query.limit]
        stop = found[-1][0]
    scanned_to = max(head, query.after) if stop is None else stop
    return States([state_of(row) for row in found], scanned_to, more, head, floor)


def delayed_of(query: DelayQuery, rows: Sequence[Row]) -> DelayedStates:
    """Return the page that the rows of a page of delays make."""
    now, next_due = rows[0][:2]
    found = [row[2:] for row in rows if row[2] is not None]
    more = len(found) > query.limit
    if more:
        next_due = found[query.limit][1]
    delayed: list[DelayedState] = []
    damaged: list[DamagedDelay] = []
    for row in found[: query.limit]:
        try:
            delayed.append(_delayed(row))
        except CodecError as error:
            id, due, state_id, *_ = row
            damaged.append(DamagedDelay(id, state_id, from_micros(due), str(error)))
    return DelayedStates(delayed, more, from_micros(now), _time(next_due), damaged)


def _delayed(row: Row) -> DelayedState:
    id, due, state_id, rev, encoded, *in_log = row
    body = decode_delay(encoded)
    own = bytes(body.state)
    if own != bytes(ABSENT):
        state = replace(decode_state(own), rev=rev)
    elif in_log[0] is None:
        raise CodecError(f"delay: revision {rev} is not stored")
    else:
        state = state_of(in_log)
    if state.id != state_id:
        raise CodecError(f"delay: of {state_id!r}, but revision {rev} is of {state.id!r}")
    annotations = freeze("annotations", body.annotations)
    return DelayedState(id, state, body.to, annotations, from_micros(due), body.commit)


def liveness_of(row: Row) -> Liveness:
    """Return what a row says of a latest revision."""
    rev, stalls_at, beat_at, note, now, due = row
    return Liveness(rev, _time(stalls_at), _time(beat_at), note, from_micros(now), _time(due))


def stalled_of(query: StalledQuery, rows: Sequence[Row]) -> StalledStates:
    """Return the page that the rows of a page of stalled states make."""
    now, next_at = rows[0][:2]
    found = [row[2:] for row in rows if row[2] is not None]
    more = len(found) > query.limit
    if more:
        next_at = found[query.limit][0]
        found = found[: query.limit]
    states: list[State] = []
    damaged: list[DamagedState] = []
    for _, id, rev, *in_log in found:
        try:
            states.append(_latest(id, rev, in_log))
        except CodecError as error:
            damaged.append(DamagedState(id, rev, str(error)))
    end = (from_micros(found[-1][0]), found[-1][1]) if found else None
    return StalledStates(states, more, from_micros(now), _time(next_at), end, tuple(damaged))


def _latest(id: str, rev: int, in_log: Row) -> State:
    if in_log[0] is None:
        raise CodecError(f"state: revision {rev} is not stored")
    state = state_of(in_log)
    if state.id != id:
        raise CodecError(f"state: revision {rev} of {id!r} is of {state.id!r}")
    return state


def _time(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)
