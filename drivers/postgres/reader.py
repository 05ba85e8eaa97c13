"""From rows to pages."""

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from flowstate.codec import ABSENT, decode_annotations, decode_delay, decode_state
from flowstate.data import Data
from flowstate.driver import (
    DamagedDelay,
    DelayedState,
    DelayedStates,
    DelayQuery,
    StateQuery,
    States,
)
from flowstate.drivers.postgres.times import from_micros
from flowstate.errors import CodecError, CompactedError
from flowstate.frozen import freeze
from flowstate.state import State

__all__ = ["data_of", "delayed_of", "page_of", "state_of"]

Row = Sequence[Any]


def state_of(row: Row) -> State:
    """Return the state of a row.

    Raises:
        CodecError: the body is damaged, or of a newer version.
    """
    rev, committed_at, delayed_until, body = row
    until = None if delayed_until is None else from_micros(delayed_until)
    return decode_state(body, rev, from_micros(committed_at), until)


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
    next_at = None if next_due is None else from_micros(next_due)
    return DelayedStates(delayed, more, from_micros(now), next_at, damaged)


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
