"""What the scripts answer, as values. What is damaged in an answer spoils nothing else in it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec import Raw, msgpack

from flowstate.drivers.kit.records import Row
from flowstate.drivers.redis.times import micros_of_digits, number_of
from flowstate.errors import CodecError, FlowstateError

__all__ = ["decoding_errors", "due_row", "row", "unpacked"]

_parts = msgpack.Decoder(list[Raw])
# How many bytes stand in front of a text.
HEADERS = {0xD9: 2, 0xDA: 3, 0xDB: 5}
REVISION = 5


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
    until = None if delayed_until in ("", b"") else micros_of_digits(delayed_until)
    return rev, id, number_of(committed_at), until, body


def due_row(found: Sequence[Any]) -> Row:
    """Return the row of something due, followed by that of its revision."""
    id, due, state_id, rev, body, *in_log = found
    # A page goes on behind the id, so that has to keep all its bytes.
    id = id.decode(errors="surrogateescape") if isinstance(id, bytes) else id
    revision = row(in_log) if in_log else (None,) * REVISION
    return id, micros_of_digits(due), state_id, rev, body, *revision
