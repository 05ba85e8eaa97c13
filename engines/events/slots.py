"""The times of cron expressions."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

try:
    from cronsim import CronSim, CronSimError
except ImportError as error:
    text = "schedules need cronsim: pip install 'flowstate-engine[workflow]'"
    raise ImportError(text) from error

from flowstate import InvalidInputError

__all__ = ["slot_after"]


def slot_after(cron: str, zone: str, at: datetime) -> datetime:
    """Return the next time of a cron expression, in UTC.

    A time that the clock on the wall leaves out comes right after the gap. Of one that it has
    twice the first counts, unless the expression has a time in each hour.

    Args:
        cron: the expression.
        zone: the name of the time zone in which it is read.
        at: the next time is later.

    Raises:
        InvalidInputError: there is no such zone, it is no expression, or its time never comes.
    """
    try:
        for slot in CronSim(cron, at.astimezone(ZoneInfo(zone))):
            if (found := slot.astimezone(UTC)) > at:
                return found
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInputError("zone", f"there is no time zone {zone!r}") from error
    except CronSimError as error:
        raise InvalidInputError("cron", f"{cron!r}: {error}") from error
    raise InvalidInputError("cron", f"{cron!r} never comes")
