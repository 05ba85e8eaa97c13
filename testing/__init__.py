"""For tests of flows, of workflows and of drivers: find what a crash or a race would break."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowstate.testing.crashes.exploration import explore_crashes
    from flowstate.testing.crashes.outcome import Outcome
    from flowstate.testing.crashes.report import Exploration
    from flowstate.testing.histories.checker import check
    from flowstate.testing.histories.files import HistoryFile, read_history
    from flowstate.testing.histories.history import History
    from flowstate.testing.histories.load import run_load
    from flowstate.testing.histories.processes import run_processes
    from flowstate.testing.histories.recorder import Recorder, read_store
    from flowstate.testing.histories.violation import Violation
    from flowstate.testing.plugin.reaching import reached
    from flowstate.testing.programs.programs import run_model
    from flowstate.testing.simulation.schedules import run_schedules
    from flowstate.testing.workflows.crashes import explore_workflow
    from flowstate.testing.workflows.opening import open_workflows, stands_at
    from flowstate.testing.workflows.stops import StopCoverage, StopUse, cover_stops

__all__ = [
    "Exploration",
    "History",
    "HistoryFile",
    "Outcome",
    "Recorder",
    "StopCoverage",
    "StopUse",
    "Violation",
    "check",
    "cover_stops",
    "explore_crashes",
    "explore_workflow",
    "open_workflows",
    "reached",
    "read_history",
    "read_store",
    "run_load",
    "run_model",
    "run_processes",
    "run_schedules",
    "stands_at",
]

# Imported when they are asked for: pytest loads the plugin in here wherever flowstate is installed.
HOMES = {
    "Exploration": "crashes.report",
    "History": "histories.history",
    "HistoryFile": "histories.files",
    "Outcome": "crashes.outcome",
    "Recorder": "histories.recorder",
    "StopCoverage": "workflows.stops",
    "StopUse": "workflows.stops",
    "Violation": "histories.violation",
    "check": "histories.checker",
    "cover_stops": "workflows.stops",
    "explore_crashes": "crashes.exploration",
    "explore_workflow": "workflows.crashes",
    "open_workflows": "workflows.opening",
    "reached": "plugin.reaching",
    "read_history": "histories.files",
    "read_store": "histories.recorder",
    "run_load": "histories.load",
    "run_model": "programs.programs",
    "run_processes": "histories.processes",
    "run_schedules": "simulation.schedules",
    "stands_at": "workflows.opening",
}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
