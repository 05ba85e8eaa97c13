"""Times as they go to and from the server: microseconds since 1970, UTC."""

from datetime import UTC, datetime, timedelta

__all__ = ["FIRST", "LAST", "from_micros", "to_micros"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


def to_micros(time: datetime) -> int:
    """Return the microseconds of an aware time."""
    return (time - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the time, UTC."""
    return EPOCH + timedelta(microseconds=micros)


FIRST = to_micros(datetime.min.replace(tzinfo=UTC))
LAST = to_micros(datetime.max.replace(tzinfo=UTC))
