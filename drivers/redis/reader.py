"""From the scripts' answers to pages."""

from collections.abc import Sequence
from typing import Any

from msgspec import Raw, msgpack
from msgspec.structs import replace

from flowstate.codec import ABSENT, decode_delay, decode_state
from flowstate.driver import (
    DamagedDelay,
    DelayedState,
    DelayedStates,
    DelayQuery,
    StateQuery,
    States,
)
from flowstate.drivers.redis.errors import making_sense
from flowstate.drivers.redis.times import LAST, from_digits, from_micros, to_digits, to_micros
from flowstate.errors import CodecError, CompactedError
from flowstate.frozen import freeze
from flowstate.state import State, Status

__all__ = ["UNREADABLE", "ask_delayed", "ask_page", "delayed_of", "page_of", "state_of"]

_parts_decoder = msgpack.Decoder(list[Raw])
_delays_decoder = msgpack.Decoder(tuple[str, bool, str | bool, list[Raw]])
UNREADABLE = (TypeError, ValueError, OverflowError)  # CodecError is a ValueError.


def state_of(stored: Sequence[Any]) -> State:
    """Return a state.

    Raises:
        CodecError: the body is damaged, or of a newer version.
    """
    rev, committed_at, delayed_until, body = stored
    until = from_digits(delayed_until) if delayed_until else None
    return decode_state(body, rev, from_micros(committed_at), until)


def ask_page(query: StateQuery) -> bytes:
    """Return what the script ``page`` takes."""
    since, before = query.since_time, query.committed_before
    return msgpack.encode(
        (
            [[text for pair in labels.items() for text in pair] for labels in query.labels],
            query.after,
            query.since_latest,
            since is not None and to_micros(since),
            before is not None and to_micros(before),
            query.latest_only,
            query.status is not None and query.status.value,
            [status.value for status in Status],
            query.limit,
        )
    )


@making_sense()
def page_of(query: StateQuery, answer: bytes) -> States:
    """Return a page.

    Raises:
        CompactedError: the log is incomplete where the query wants it complete.
        CodecError: a body is damaged, or of a newer version.
    """
    head, floor, stop, found = msgpack.decode(answer)
    if query.gaps_below is not None and floor > max(query.after + 1, query.gaps_below):
        raise CompactedError(floor)
    more = len(found) > query.limit or stop is not False
    if len(found) > query.limit:
        found = found[: query.limit]
        stop = found[-1][0]
    scanned_to = max(head, query.after) if stop is False else stop
    return States([state_of(stored) for stored in found], scanned_to, more, head, floor)


def ask_delayed(query: DelayQuery) -> tuple[str, str, int]:
    """Return what the script ``delayed`` takes."""
    last = "" if query.until is None else to_digits(query.until)
    after = "" if query.after is None else to_digits(query.after[0]) + query.after[1]
    return LAST if query.everything else last, after, query.limit


@making_sense()
def delayed_of(answer: bytes) -> DelayedStates:
    """Return a page of delays."""
    now, more, next_due, found = _delays_decoder.decode(answer)
    delayed: list[DelayedState] = []
    damaged: list[DamagedDelay] = []
    for stored in found:
        try:
            delayed.append(_delayed(msgpack.decode(stored)))
        except UNREADABLE as error:
            # The first three stand for themselves, whatever the others are.
            id, due, state_id, *_ = map(_readable, _parts_decoder.decode(stored))
            damaged.append(DamagedDelay(id, state_id, from_digits(due), str(error)))
    next_at = from_digits(str(next_due)) if next_due else None
    return DelayedStates(delayed, more, from_digits(now), next_at, damaged)


def _readable(part: Raw) -> str:
    try:
        return str(msgpack.decode(part))
    except UNREADABLE:
        return "?"


def _delayed(stored: Sequence[Any]) -> DelayedState:
    id, due, state_id, rev, encoded, in_log = stored
    body = decode_delay(encoded)
    own = bytes(body.state)
    if own != bytes(ABSENT):
        state = replace(decode_state(own), rev=rev)
    elif not in_log:
        raise CodecError(f"delay: revision {rev} is not stored")
    else:
        state = state_of(in_log)
    if state.id != state_id:
        raise CodecError(f"delay: of {state_id!r}, but revision {rev} is of {state.id!r}")
    annotations = freeze("annotations", body.annotations)
    return DelayedState(id, state, body.to, annotations, from_digits(due), body.commit)
