"""Times as the scripts take and give them.

Those of delays are texts of 18 digits, microseconds since the year 1, because a number of Lua
cannot hold every microsecond until the year 9999. Those of commits are microseconds since 1970, and
so are the scores of what stalls: doubles, rounded after the year 2255 by less than 32 microseconds.
"""

from datetime import UTC, datetime, timedelta
from math import ceil

from flowstate.errors import CodecError

__all__ = [
    "LAST",
    "MICROSECOND",
    "from_digits",
    "from_micros",
    "from_score",
    "split",
    "to_digits",
    "to_micros",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIRST = datetime.min.replace(tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MICROS_PER_SECOND = 1_000_000


def to_micros(time: datetime) -> int:
    """Return the microseconds of an aware time since 1970."""
    return (time - EPOCH) // MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the time so many microseconds after 1970 began, UTC.

    Raises:
        CodecError: it was stored, and is damaged.
    """
    try:
        return EPOCH + timedelta(microseconds=micros)
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"time: {error}") from error


def from_score(score: bytes) -> datetime:
    """Return the time of a score, or the next one that is a time.

    Never an earlier one: a page that goes on after it must not begin with it again.
    """
    return from_micros(ceil(min(max(float(score), FIRST_SCORE), LAST_SCORE)))


def to_digits(time: datetime) -> str:
    """Return the 18 digits of an aware time."""
    return f"{(time - FIRST) // MICROSECOND:018}"


def from_digits(digits: str | bytes) -> datetime:
    """Return the time, UTC.

    Raises:
        CodecError: it was stored, and is damaged.
    """
    try:
        return FIRST + timedelta(microseconds=int(digits))
    except (TypeError, ValueError, OverflowError) as error:
        raise CodecError(f"time: {error}") from error


def split(duration: timedelta) -> tuple[int, int]:
    """Return seconds and microseconds of a duration."""
    return divmod(duration // MICROSECOND, MICROS_PER_SECOND)


LAST = to_digits(datetime.max.replace(tzinfo=UTC))
FIRST_SCORE = -62_135_596_800_000_000.0
LAST_SCORE = 253_402_300_799_999_968.0  # As in the scripts.
