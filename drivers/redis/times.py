"""Times as the scripts take and give them.

Those of delays are texts of 18 digits, microseconds since the year 1, because a number of Lua
cannot hold every microsecond until the year 9999. Those of commits are microseconds since 1970.
"""

from datetime import UTC, datetime, timedelta

__all__ = ["LAST", "from_digits", "from_micros", "split", "to_digits", "to_micros"]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST = datetime.min.replace(tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MICROS_PER_SECOND = 1_000_000


def to_micros(time: datetime) -> int:
    """Return the microseconds of an aware time since 1970."""
    return (time - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the time so many microseconds after 1970 began, UTC."""
    return EPOCH + timedelta(microseconds=micros)


def to_digits(time: datetime) -> str:
    """Return the 18 digits of an aware time."""
    return f"{(time - FIRST) // MICROSECOND:018}"


def from_digits(digits: str) -> datetime:
    """Return the time, UTC."""
    return FIRST + timedelta(microseconds=int(digits))


def split(duration: timedelta) -> tuple[int, int]:
    """Return seconds and microseconds of a duration."""
    return divmod(duration // MICROSECOND, MICROS_PER_SECOND)


LAST = to_digits(datetime.max.replace(tzinfo=UTC))
