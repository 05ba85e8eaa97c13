"""What the reading scripts take, and values from what scripts answer.

What is damaged in an answer spoils nothing else in it. Times of what is due are texts of 18 digits,
microseconds since the year 1, because a number of Lua cannot hold every microsecond until the year
9999. Those of commits are microseconds since 1970.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from msgspec import Raw, msgpack

from flowstate.driver import DuePage, DueQuery, Heartbeat, Liveness, StateQuery, States
from flowstate.drivers.kit.records import Row, due_page, page_of, state_or_raise, text_of
from flowstate.drivers.kit.times import FIRST, LAST, MICROSECOND, from_micros, to_micros
from flowstate.errors import CodecError, FlowstateError
from flowstate.state import State, Status

__all__ = [
    "ask_beat",
    "ask_count",
    "ask_due",
    "ask_page",
    "decoding_errors",
    "digits_of",
    "due_of",
    "liveness_of",
    "row",
    "states_of",
    "stored_state",
    "time_of_digits",
    "unpacked",
]

_parts = msgpack.Decoder(list[Raw])
HEADERS = {0xD9: 2, 0xDA: 3, 0xDB: 5}
"""How many bytes stand in front of a text."""
END = f"{LAST - FIRST:018}"
REVISION = 5
UNKNOWN_FLOWS = {"delay": "", "stall": "", "idle": "\0"}
"""Under which name what is due is kept whose flow cannot be read, by kind: no flow is called so."""


def digits_of(time: datetime) -> str:
    """Return the 18 digits of an aware time."""
    return f"{to_micros(time) - FIRST:018}"


def time_of_digits(digits: Any) -> datetime | None:
    """Return the time of 18 digits; ``None`` for an empty text and ``False``."""
    return from_micros(_micros_of_digits(digits)) if digits else None


def _micros_of_digits(digits: Any) -> Any:
    number = _number_of(digits)
    return number + FIRST if type(number) is int else number


def _number_of(digits: Any) -> Any:
    """Return a whole number; what is damaged, as it is."""
    is_number = isinstance(digits, str | bytes) and digits.isdigit()
    return int(digits) if is_number else digits


@contextmanager
def decoding_errors() -> Iterator[None]:
    """Raise ``CodecError`` for an answer that no script gives."""
    try:
        yield
    except FlowstateError:
        raise
    except (TypeError, ValueError, OverflowError, LookupError) as error:
        raise CodecError(f"answer of Redis: {error}") from error


def unpacked(answer: bytes) -> Any:
    """Return the value of MessagePack; a text that is not UTF-8 as bytes."""
    try:
        return msgpack.decode(answer)
    except ValueError:
        pass
    try:
        return [unpacked(bytes(part)) for part in _parts.decode(answer)]
    except ValueError:
        return bytes(answer[HEADERS.get(answer[0], 1) :])


def row(found: Sequence[Any]) -> Row:
    """Return the row of a revision: see :mod:`flowstate.drivers.kit.records`."""
    if len(found) < REVISION:
        return (*found[:2], None, None, None)
    rev, id, committed_at, delayed_until, body = found
    until = None if delayed_until in ("", b"") else _micros_of_digits(delayed_until)
    return rev, id, _number_of(committed_at), until, body


def _due_row(found: Sequence[Any]) -> Row:
    """Return the row of something due, followed by that of its revision."""
    id, due, state_id, rev, body, *in_log = found
    # A page goes on behind the id, so that has to keep all its bytes.
    id = id.decode(errors="surrogateescape") if isinstance(id, bytes) else id
    revision = row(in_log) if in_log else (None,) * REVISION
    return id, _micros_of_digits(due), state_id, rev, body, *revision


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


def ask_page(query: StateQuery, search_from: Any) -> tuple[str, bytes]:
    """Return a script, and what it takes.

    Args:
        query: to be answered.
        search_from: where the search goes on; ``False`` at first.
    """
    since, before = query.since_time, query.committed_before
    asked = msgpack.encode(
        (
            _labels(query),
            query.after,
            query.since_latest,
            since is not None and to_micros(since),
            before is not None and to_micros(before),
            query.latest_only,
            _statuses(query),
            query.limit,
            query.max_bytes,
            search_from,
            query.id,
        )
    )
    return "page" if query.id is None else "history", asked


def ask_count(query: StateQuery, count_from: Any) -> bytes:
    """Return what the script ``count`` takes; ``count_from``: where it goes on, or ``False``."""
    return msgpack.encode((_labels(query), _statuses(query), count_from))


def _labels(query: StateQuery) -> list[list[str]]:
    return [[text for pair in labels.items() for text in pair] for labels in query.labels]


def _statuses(query: StateQuery) -> list[str]:
    return [status.value for status in Status if query.status in (None, status)]


@decoding_errors()
def states_of(query: StateQuery, answer: bytes) -> States | Any:
    """Return a page, or where the search has to go on.

    Raises:
        CompactedError: the log is incomplete where the query wants it complete.
    """
    head, floor, stop, found, search_from = unpacked(answer)
    if search_from is not False:
        return search_from
    rows = [row(each) for each in found]
    return page_of(query, rows, head=head, floor=floor, stop=None if stop is False else stop)


def ask_due(query: DueQuery) -> tuple[bytes, bytes]:
    """Return what the script ``due`` takes."""
    until = "" if query.until is None else digits_of(query.until)
    # What goes to a flow that cannot be read is on the pages of all flows.
    unknown = UNKNOWN_FLOWS[query.kind]
    flows = query.flows is not None and [*dict.fromkeys((*query.flows, unknown))]
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
        [_due_row(each) for each in found],
        more=more,
        now=from_micros(_micros_of_digits(now)),
        next_at=_micros_of_digits(next_at) if next_at else None,
        without_time=[_due_row(each) for each in without_time],
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
        time_of_digits(stalls_at),
        from_micros(int(beat_at)) if beat_at else None,
        text_of(note),
        from_micros(int(now)),
        time_of_digits(delay_due),
    )
