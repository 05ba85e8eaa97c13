"""What the reading scripts take, and pages from their answers."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from msgspec import msgpack

from flowstate.driver import DuePage, DueQuery, Heartbeat, Liveness, StateQuery, States
from flowstate.drivers.kit.records import due_page, page_of, state_or_raise, text_of
from flowstate.drivers.kit.times import MICROSECOND, from_micros, to_micros
from flowstate.drivers.redis.answers import decoding_errors, due_row, row, unpacked
from flowstate.drivers.redis.times import END, digits_of, micros_of_digits
from flowstate.state import State, Status

__all__ = ["ask_beat", "ask_due", "ask_page", "due_of", "liveness_of", "states_of", "stored_state"]

UNKNOWN_FLOW = ""
STATUSES = [status.value for status in Status]


@decoding_errors()
def stored_state(id: str, answer: bytes) -> State | None:
    """Return a state, if there is one.

    Raises:
        DamagedRevisionError: it cannot be read.
    """
    found = unpacked(answer)
    if not found:
        return None
    rev, _, *rest = row(found)
    return state_or_raise((rev, id, *rest))


def ask_page(query: StateQuery, search_from: int | None) -> bytes:
    """Return what the script ``page`` takes.

    Args:
        query: to be answered.
        search_from: where the search for the newest match goes on.
    """
    since, before = query.since_time, query.committed_before
    return msgpack.encode(
        (
            [[text for pair in labels.items() for text in pair] for labels in query.labels],
            query.after,
            query.since_latest,
            since is not None and to_micros(since),
            before is not None and to_micros(before),
            query.latest_only,
            STATUSES if query.status is None else [query.status.value],
            query.limit,
            query.max_bytes,
            search_from is not None and search_from,
        )
    )


@decoding_errors()
def states_of(query: StateQuery, answer: bytes) -> States | int:
    """Return a page, or where the search for the newest match has to go on.

    Raises:
        CompactedError: the log is incomplete where the query wants it complete.
    """
    head, floor, stop, found, search_from = unpacked(answer)
    if search_from is not False:
        return int(search_from)
    rows = [row(each) for each in found]
    return page_of(query, rows, head=head, floor=floor, stop=None if stop is False else stop)


def ask_due(query: DueQuery) -> tuple[bytes, bytes]:
    """Return what the script ``due`` takes."""
    until = "" if query.until is None else digits_of(query.until)
    # What goes to a flow that cannot be read is on the pages of all flows.
    flows = query.flows is not None and [*dict.fromkeys((*query.flows, UNKNOWN_FLOW))]
    after = "" if query.after is None else digits_of(query.after[0]) + query.after[1]
    last = END if query.everything else until
    asked = msgpack.encode((query.kind, flows, last, query.limit, query.others))
    return asked, after.encode(errors="surrogateescape")


@decoding_errors()
def due_of(query: DueQuery, answer: bytes) -> DuePage:
    """Return a page of what is due."""
    now, more, next_at, found, without_time, others = unpacked(answer)
    return due_page(
        query,
        [due_row(each) for each in found],
        more=more,
        now=from_micros(micros_of_digits(now)),
        next_at=micros_of_digits(next_at) if next_at else None,
        without_time=[due_row(each) for each in without_time],
        others=[text_of(flow) for flow in others],
    )


def ask_beat(heartbeats: Sequence[Heartbeat]) -> bytes:
    """Return what the script ``beat`` takes."""
    return msgpack.encode([(b.id, b.rev, _micros(b.seconds), b.note) for b in heartbeats])


def _micros(seconds: float | None) -> int | bool:
    return False if seconds is None else timedelta(seconds=seconds) // MICROSECOND


@decoding_errors()
def liveness_of(found: Sequence[Any] | bool) -> Liveness | None:
    """Return what is known about a state."""
    if not isinstance(found, Sequence):
        return None
    rev, stalls_at, beat_at, note, now, delay_due = found
    return Liveness(
        int(rev),
        from_micros(micros_of_digits(stalls_at)) if stalls_at else None,
        from_micros(int(beat_at)) if beat_at else None,
        text_of(note),
        from_micros(int(now)),
        from_micros(micros_of_digits(delay_due)) if delay_due else None,
    )
