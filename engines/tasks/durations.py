"""Durations as documents write them."""

import math
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["LONGEST", "seconds_of"]

LONGEST = 36_500 * 86_400.0  # A century.
SECONDS = {"days": 86_400.0, "hours": 3_600.0, "minutes": 60.0, "seconds": 1.0}
SECONDS |= {"milliseconds": 0.001}
NUMBER = r"(\d+(?:\.\d+)?)"
ISO = re.compile(
    rf"P(?=.)(?:{NUMBER}Y)?(?:{NUMBER}M)?(?:{NUMBER}W)?(?:{NUMBER}D)?"
    rf"(?:T(?=.)(?:{NUMBER}H)?(?:{NUMBER}M)?(?:{NUMBER}S)?)?",
    re.ASCII,
)
EACH = (365 * 86_400.0, 30 * 86_400.0, 7 * 86_400.0, 86_400.0, 3_600.0, 60.0, 1.0)


def seconds_of(duration: Any) -> float:
    """Return the seconds of a text as of ISO 8601, or of an object with ``days`` and so on.

    A year has 365 days, and a month has 30.

    Raises:
        ValueError: it is none, or longer than a century.
    """
    match duration:
        case str() if found := ISO.fullmatch(duration):
            parts = zip(found.groups(), EACH, strict=True)
            seconds = sum(float(number) * each for number, each in parts if number)
        case Mapping() if duration and duration.keys() <= SECONDS.keys():
            if not all(type(each) in (int, float) for each in duration.values()):
                raise ValueError(f"a duration has numbers, not {duration!r}")
            seconds = sum(SECONDS[unit] * number for unit, number in duration.items())
        case _:
            raise ValueError(f"a duration is like PT1H30M or {{hours: 1}}, not {duration!r}")
    if not (math.isfinite(seconds) and 0 <= seconds <= LONGEST):
        raise ValueError(f"a duration is from 0 to 100 years, not {duration!r}")
    return seconds
