"""Why a state is woken."""

from typing import Any, Literal

import attrs

from flowstate.engines.logic.events import Event
from flowstate.engines.logic.problems import Problem

__all__ = [
    "AllArrived",
    "AllReturned",
    "AnyArrived",
    "AnyReturned",
    "Arrived",
    "Cancelled",
    "Entered",
    "Returned",
    "Slept",
    "TimedOut",
    "Wake",
    "wake_of",
]


@attrs.frozen
class Entered:
    """The machine has come to this state, which perhaps catches a problem."""

    problem: Problem | None = None


@attrs.frozen
class Slept:
    """The time of a ``Sleep`` is over."""


@attrs.frozen
class Returned:
    """What was run has returned: a value, of the type that the function says."""

    value: Any


@attrs.frozen
class AnyReturned(Returned):
    """One of several has returned; ``index`` says which. The others are cancelled."""

    index: int


@attrs.frozen
class AllReturned:
    """All have returned: their values, in the order in which they were asked for."""

    values: list[Any]


@attrs.frozen
class Arrived:
    """An event has come."""

    event: Event


@attrs.frozen
class AnyArrived(Arrived):
    """The first event has come of several; ``index`` says for which filter."""

    index: int


@attrs.frozen
class AllArrived:
    """All events have come, in the order of the filters."""

    events: list[Event]


@attrs.frozen
class TimedOut:
    """It has taken too long, once for each limit: the wait, the state, or the whole machine.

    A state that answers nothing then has the problem ``timeout``, or ``timeout.machine``.
    """

    what: Literal["wait", "state", "machine"]


@attrs.frozen
class Cancelled:
    """The instance is cancelled: clean up. A state that answers nothing ends it at once.

    However it goes on, it ends as cancelled.
    """


Wake = Entered | Slept | Returned | AllReturned | Arrived | AllArrived | TimedOut | Cancelled
"""Why a state is woken; ``AnyReturned`` is a ``Returned``, and ``AnyArrived`` an ``Arrived``."""


def wake_of(form: str, values: list[Any], index: int) -> Wake:
    """Return the wake for what has come of a ``Next``.

    Args:
        form: the class of that.
        values: what has come.
        index: of the first value.
    """
    match form:
        case "RunAll":
            return AllReturned(values)
        case "RunAny":
            return AnyReturned(values[0], index)
        case "Run":
            return Returned(values[0])
        case "AwaitAll":
            return AllArrived(values)
        case "AwaitAny":
            return AnyArrived(values[0], index)
    return Arrived(values[0])
