"""What is measured of flowstate; one idea in each module."""

import sys
from importlib import import_module

from benchmarks.setting import Suite

__all__ = ["SUITES"]

MODULES = (
    "commits",
    "chains",
    "contention",
    "watching",
    "signals",
    "instances",
    "stops",
    "expressions",
    "echoes",
    "children",
    "sleeping",
    "waiting",
    "documents",
    "values",
    "policies",
    "starting",
    "startup",
    "footprint",
    "processes",
    "growth",
    "pages",
    "delays",
    "recovery",
    "counting",
    "timers",
    "pruning",
)
OURS = "flowstate"


def _suites() -> tuple[Suite, ...]:
    """Return all suites, apart from those that need what the library of an older checkout lacks."""
    found: list[Suite] = []
    for name in MODULES:
        try:
            found.append(import_module(f"{__name__}.{name}").workloads)
        except ImportError as error:
            if error.name is None or error.name.partition(".")[0] != OURS:
                raise
            print(f"without {name}: {error}", file=sys.stderr)
    return tuple(found)


SUITES: tuple[Suite, ...] = _suites()
