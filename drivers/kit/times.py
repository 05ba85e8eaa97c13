"""Times as stores keep them: microseconds since 1970, UTC."""

from datetime import UTC, datetime, timedelta

from flowstate.driver import NewDelay, NewTimer
from flowstate.errors import CodecError
from flowstate.recovery_rules import DEFAULT_RETRY_AFTER, stalls_after
from flowstate.state import State

__all__ = [
    "EPOCH",
    "FIRST",
    "LAST",
    "MICROSECOND",
    "due_micros",
    "from_micros",
    "later_micros",
    "micros_of",
    "stalling_micros",
    "to_micros",
]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
SECOND = 1_000_000
DEFAULT = DEFAULT_RETRY_AFTER // MICROSECOND


def to_micros(time: datetime) -> int:
    """Return the microseconds of an aware time."""
    return (time - EPOCH) // MICROSECOND


FIRST = to_micros(datetime.min.replace(tzinfo=UTC))
LAST = to_micros(datetime.max.replace(tzinfo=UTC))


def from_micros(micros: int) -> datetime:
    """Return the time, UTC.

    Raises:
        CodecError: what was stored is no time.
    """
    if type(micros) is not int:
        raise CodecError(f"time: {micros!r}")
    try:
        return EPOCH + timedelta(microseconds=micros)
    except OverflowError as error:
        raise CodecError(f"time: {error}") from error


def micros_of(duration: timedelta | None) -> int:
    """Return the microseconds of a duration; 0 for none."""
    return 0 if duration is None else duration // MICROSECOND


def later_micros(now: int, seconds: float) -> int:
    """Return the time so many seconds from ``now``, at the latest the last one that there is."""
    return min(now + round(seconds * SECOND), LAST)


def due_micros(new: NewDelay | NewTimer, now: int) -> int:
    """Return when a delay or a timer is due that is stored at ``now``."""
    if new.due is not None:
        return to_micros(new.due)
    return min(now + micros_of(new.after), LAST)


def stalling_micros(state: State) -> int | None:
    """Return how many microseconds a revision may stand still, or ``None``: without end."""
    after = stalls_after(state)
    if after is DEFAULT_RETRY_AFTER:  # A division costs more than all the rest of this.
        return DEFAULT
    return None if after is None else after // MICROSECOND
