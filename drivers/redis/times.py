"""Times as the scripts take and give them.

Those of what is due are texts of 18 digits, microseconds since the year 1, because a number of Lua
cannot hold every microsecond until the year 9999. Those of commits are microseconds since 1970.
"""

from datetime import datetime, timedelta
from typing import Any

from flowstate.drivers.kit.times import FIRST, LAST, MICROSECOND, to_micros

__all__ = ["END", "digits_of", "micros_of_digits", "number_of", "split"]

MICROS_PER_SECOND = 1_000_000


def digits_of(time: datetime) -> str:
    """Return the 18 digits of an aware time."""
    return f"{to_micros(time) - FIRST:018}"


END = f"{LAST - FIRST:018}"
"""The last time there is."""


def micros_of_digits(digits: Any) -> Any:
    """Return the microseconds since 1970 of 18 digits; what is damaged, as it is."""
    number = number_of(digits)
    return number + FIRST if type(number) is int else number


def number_of(digits: Any) -> Any:
    """Return a whole number; what is damaged, as it is."""
    is_number = isinstance(digits, str | bytes) and digits.isdigit()
    return int(digits) if is_number else digits


def split(duration: timedelta) -> tuple[int, int]:
    """Return seconds and microseconds of a duration."""
    return divmod(duration // MICROSECOND, MICROS_PER_SECOND)
