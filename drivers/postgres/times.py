"""Times as they go to and from the server: microseconds since 1970, UTC."""

from datetime import UTC, datetime, timedelta

from flowstate.errors import CodecError

__all__ = ["FIRST", "LAST", "from_micros", "to_micros"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def to_micros(time: datetime) -> int:
    """Return the microseconds of an aware time."""
    return (time - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the time, UTC.

    Raises:
        CodecError: it was stored, and is damaged.
    """
    try:
        return EPOCH + timedelta(microseconds=micros)
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"time: {error}") from error


FIRST = to_micros(datetime.min.replace(tzinfo=UTC))
LAST = to_micros(datetime.max.replace(tzinfo=UTC))
