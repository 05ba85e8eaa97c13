"""Steps: how a command, or a delay or timer that fires, changes a state."""

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from flowstate.commands import End, Pause, Resume, Retry, Transit
from flowstate.context import StateContext
from flowstate.driver import DelayedState
from flowstate.effect_keys import origin_of
from flowstate.errors import InvalidCommandError
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.ground.limits import check_annotations
from flowstate.planning.draft import Draft
from flowstate.recovery_rules import AGAIN
from flowstate.registry import FlowRegistry
from flowstate.state import Cause, State, Status, Transition
from flowstate.timers import TIMER, without_timer

__all__ = ["FORGET", "STEPS", "Step", "check_forgotten", "fired", "forgotten", "stepped"]

ACTIVE, ENDED = Status.ACTIVE, Status.ENDED  # Enums look their members up slowly.
FORGET: Cause = "forget"
RESERVED = "flowstate."  # Annotations of this library.

Step = Transit | Pause | Resume | Retry | End
STEPS = frozenset({Transit, Pause, Resume, Retry, End})
CAUSES: dict[type[Any], tuple[Cause, Status]] = {
    Pause: ("pause", Status.PAUSED),
    Resume: ("resume", Status.ACTIVE),
    End: ("end", ENDED),
}


def stepped(state: State, command: Step, flows: FlowRegistry, of: StateContext | Draft) -> State:
    """Return the state after a step.

    Args:
        state: before it.
        command: the step.
        flows: what the state can be sent to.
        of: has the state, and knows the name of the step that it is in.
    """
    annotations = command.annotations
    if annotations is not EMPTY:
        annotations = check_annotations("annotations", annotations)
    kind = type(command)
    if kind is Transit or isinstance(command, Transit):
        to: Any = command.to  # type: ignore[union-attr]
        if type(to) is not str or to not in flows._flows:  # Nearly always known: spare a call.
            to = flows.check(to)
        transition, status = Transition(to, annotations), ACTIVE
        return replace(state, transition=transition, status=status, delayed_until=None)
    last = state.transition
    origin = of.origin if last.to else ""
    if isinstance(command, Retry):
        if last.cause == FORGET:
            raise InvalidCommandError("ctx", f"{state.id!r} is forgotten")
        transition, status = _retried(last, annotations, origin), ACTIVE
    else:
        cause, status = CAUSES.get(kind) or CAUSES[_base_of(kind)]
        transition = Transition(last.to, annotations, cause, EMPTY, origin)
    if status is ENDED and state.timers:
        state = replace(state, timers=EMPTY)
    return replace(state, transition=transition, status=status, delayed_until=None)


def _base_of(kind: type[Any]) -> type[Any]:
    return next(base for base in kind.__mro__ if base in CAUSES)


def _retried(last: Transition, annotations: Mapping[str, str], origin: str) -> Transition:
    """Return a transition like the last one, with more annotations; always a new object."""
    merged = FrozenDict({**last.annotations, **annotations})
    annotations = check_annotations("annotations", merged)
    return replace(last, annotations=annotations, origin=origin, since=0)


def forgotten(state: State) -> State:
    """Return what is left of a state that is forgotten."""
    if state.status is not ENDED:
        reason = f"{state.id!r} is {state.status.value}: only what has ended can be forgotten"
        raise InvalidCommandError("ctx", reason)
    transition = Transition(state.transition.to, EMPTY, FORGET)
    return State(
        state.id,
        state.rev,
        state.labels,
        transition=transition,
        status=ENDED,
        committed_at=state.committed_at,
    )


def check_forgotten(state: State) -> None:
    """Refuse a last revision that has more than what is left of a forgotten state."""
    rest = (state.annotations, state.values, state.data, state.timers, state.unknown)
    if state.status is not ENDED or any(rest):
        raise InvalidCommandError("commit", f"changes {state.id!r} after its Forget")


def fired(delayed: DelayedState, flows: FlowRegistry) -> State:
    """Return the state after a delay or a timer has fired."""
    state, to, annotations = delayed.state, delayed.to, delayed.annotations
    last, origin = state.transition, ""
    if flows.is_same(to, last.to):  # Perhaps by another name, which the step does not change.
        to, origin = last.to, origin_of(last, state, 0)
    if delayed.timer:
        name = FrozenDict({TIMER: delayed.timer})
        transition = Transition(to, name, "timer", EMPTY, origin)
        state = replace(state, timers=without_timer(state, delayed.timer), delayed_until=None)
    elif AGAIN in annotations:
        noted = {k: v for k, v in annotations.items() if k.startswith(RESERVED) and k != AGAIN}
        transition = replace(_retried(last, noted, origin), to=to)
    else:
        transition = Transition(to, annotations, "delay", EMPTY, origin)
    return replace(state, transition=transition, status=ACTIVE)
