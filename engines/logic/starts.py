"""What starts instances of a machine by itself: events, times, and intervals."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import attrs

from flowstate import Engine, RevisionMismatchError
from flowstate.engines.events.consuming import Filter, Strategy
from flowstate.engines.events.starting import Plan, Starting
from flowstate.engines.kernel.starting import flow_of, new_instance
from flowstate.engines.logic.events import Event, as_event
from flowstate.ground.frozen import EMPTY

__all__ = ["Start", "plan_on", "starter_of"]


@attrs.frozen(eq=False)
class Start:
    """One of the things that start a machine.

    Attributes:
        name: of the starter.
        plan: when.
        values: makes the values of the events.
    """

    name: str
    plan: Plan
    values: Callable[[list[Event]], Any]


def plan_on(events: Sequence[Event], *, is_all: bool) -> Plan:
    """Return the plan to start when one of some events has come, or all of them."""
    filters = [Filter({"type": each.type}, tests=each.context_globs) for each in events]
    return Plan(on=Strategy("all" if is_all else "any", filters))


async def _is_met(glob: str, value: Any) -> bool:
    return fnmatchcase(str(value), glob)


def starter_of(machine: Any, start: Start, engine: Engine) -> Starting:
    """Return the code of a starter, for the kernel on an engine."""

    async def begin(target: str, id: str, given: Any, after: int | None) -> None:  # noqa: ARG001
        events: Sequence[Mapping[str, Any]] = given or ()
        held = machine.held(start.values([as_event(each) for each in events]))
        held.after = after
        with contextlib.suppress(RevisionMismatchError):  # It was started before a crash.
            await engine.start(new_instance(machine, id, held, EMPTY), flow_of(machine.name))

    return Starting(start.name, machine, begin, _is_met, engine.clock.now)
