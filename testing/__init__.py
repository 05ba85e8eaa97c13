"""For tests of flows and of drivers: find what a crash or a race would break."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowstate.testing.crash_report import Exploration
    from flowstate.testing.crashes import explore_crashes
    from flowstate.testing.outcome import Outcome
    from flowstate.testing.reaching import reached

__all__ = ["Exploration", "Outcome", "explore_crashes", "reached"]

# Imported when they are asked for: pytest loads the plugin in here wherever flowstate is installed.
HOMES = {
    "Exploration": "crash_report",
    "Outcome": "outcome",
    "explore_crashes": "crashes",
    "reached": "reaching",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
