"""State logic: machines whose states are woken for a reason and say what they want next."""

from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.logic.events import Event, emit
from flowstate.engines.logic.logs import log
from flowstate.engines.logic.machine import Machine
from flowstate.engines.logic.machines import Machines
from flowstate.engines.logic.nexts import (
    Await,
    AwaitAll,
    AwaitAny,
    Done,
    Next,
    Run,
    RunAll,
    RunAny,
    Sleep,
    Stay,
    To,
)
from flowstate.engines.logic.problems import NextError, Problem, Retry
from flowstate.engines.logic.stored import Entry
from flowstate.engines.logic.variables import Scope, Variables, get_variables, set_variables
from flowstate.engines.logic.wakes import (
    AllArrived,
    AllReturned,
    AnyArrived,
    AnyReturned,
    Arrived,
    Cancelled,
    Entered,
    Returned,
    Slept,
    TimedOut,
    Wake,
)

__all__ = [
    "AllArrived",
    "AllReturned",
    "AnyArrived",
    "AnyReturned",
    "Arrived",
    "Await",
    "AwaitAll",
    "AwaitAny",
    "Cancelled",
    "CloudEvent",
    "Done",
    "Entered",
    "Entry",
    "Event",
    "Machine",
    "Machines",
    "Next",
    "NextError",
    "Problem",
    "Retry",
    "Returned",
    "Run",
    "RunAll",
    "RunAny",
    "Scope",
    "Sleep",
    "Slept",
    "Stay",
    "TimedOut",
    "To",
    "Variables",
    "Wake",
    "emit",
    "get_variables",
    "log",
    "set_variables",
]
