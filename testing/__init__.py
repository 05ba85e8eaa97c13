"""For tests of flows and of drivers: find what a crash or a race would break."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowstate.testing.checker import check
    from flowstate.testing.crash_report import Exploration
    from flowstate.testing.crashes import explore_crashes
    from flowstate.testing.history import History, HistoryFile, read_history
    from flowstate.testing.outcome import Outcome
    from flowstate.testing.reaching import reached
    from flowstate.testing.recorder import Recorder, read_store
    from flowstate.testing.violation import Violation

__all__ = [
    "Exploration",
    "History",
    "HistoryFile",
    "Outcome",
    "Recorder",
    "Violation",
    "check",
    "explore_crashes",
    "reached",
    "read_history",
    "read_store",
]

# Imported when they are asked for: pytest loads the plugin in here wherever flowstate is installed.
HOMES = {
    "Exploration": "crash_report",
    "History": "history",
    "HistoryFile": "history",
    "Outcome": "outcome",
    "Recorder": "recorder",
    "Violation": "violation",
    "check": "checker",
    "explore_crashes": "crashes",
    "reached": "reaching",
    "read_history": "history",
    "read_store": "recorder",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
