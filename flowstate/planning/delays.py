"""What a commit writes for the delays and timers of its states."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import Raw
from msgspec.structs import replace

from flowstate.codec import ABSENT, DelayBody, encode_delay
from flowstate.commands import Delay, SetTimer
from flowstate.context import StateContext
from flowstate.driver import Drop, NewDelay, NewTimer
from flowstate.errors import InvalidInputError
from flowstate.ground.frozen import FrozenDict
from flowstate.ground.limits import (
    MAX_DELAYS_PER_COMMIT,
    check_annotations,
    check_duration,
    check_number,
    to_utc,
)
from flowstate.ground.options import check_flag
from flowstate.planning.draft import Draft
from flowstate.recovery_rules import AGAIN
from flowstate.registry import FlowRegistry
from flowstate.state import State, Timer
from flowstate.timers import changed_timers, timer_id

__all__ = ["again", "new_delay", "new_timer", "passed_on", "placed", "timer_writes"]

AGAIN_ONLY = FrozenDict({AGAIN: ""})
AT_ONCE = timedelta(0)


def again(ctx: StateContext, to: str, after: timedelta = AT_ONCE, *, commit: bool = False) -> Delay:
    """Return what lets an engine that has the flow go on with the step that a state is in."""
    return Delay(ctx, to, after, commit=commit, annotations=AGAIN_ONLY)


def new_delay(command: Delay, flows: FlowRegistry, state: State, own: Raw) -> NewDelay:
    """Return the delay that ``command`` asks for.

    ``own`` is the encoded state, or ``ABSENT`` when a commit stores it together with the delay.
    """
    to = flows.check(command.to)
    if flows.is_same(to, state.transition.to):
        to = state.transition.to  # It may be an alias: the state goes on in the same step.
    annotations = check_annotations("annotations", command.annotations)
    check_flag("commit", command.commit)
    return _new_delay(command, to, annotations, state, own)


def passed_on(ctx: StateContext, state: State) -> NewDelay:
    """Return the delay by which another engine goes on with what a commit makes of a state."""
    to = state.transition.to  # This engine need not know the flow.
    return _new_delay(again(ctx, to), to, AGAIN_ONLY, state, ABSENT)


def _new_delay(
    command: Delay, to: str, annotations: FrozenDict[str, str], state: State, own: Raw
) -> NewDelay:
    body = encode_delay(DelayBody(to, annotations, command.commit, own))
    return NewDelay(state, to, annotations, *_when(command), command.commit, body)


def new_timer(command: SetTimer, flows: FlowRegistry) -> Timer:
    """Return the timer that ``command`` asks for."""
    to = flows.check(command.to)
    return Timer(to, *_when(command))


def _when(command: Delay | SetTimer) -> tuple[datetime | None, timedelta | None]:
    """Return when it is due, or after how long."""
    after, until = command.after, command.until
    if (after is None) == (until is None):
        what = "timer" if isinstance(command, SetTimer) else "delay"
        raise InvalidInputError(what, "needs either after or until")
    if until is not None:
        return to_utc("until", until), None
    return None, check_duration("after", after)


def timer_writes(
    puts: Sequence[Draft], states: Sequence[State]
) -> tuple[tuple[NewTimer, ...], tuple[Drop, ...]]:
    """Return the rows of timers that the commit writes, and those that it removes."""
    timers: list[NewTimer] = []
    drops: list[Drop] = []
    for place, draft in enumerate(puts):
        if draft.is_timed:
            state = states[place]
            is_set, gone = changed_timers(draft.current.timers, draft.committed)
            timers += [_row(place, state.id, name, state.timers[name]) for name in is_set]
            drops += [Drop(timer_id(state.id, name), "") for name in gone]
    check_number("timers", (*timers, *drops), MAX_DELAYS_PER_COMMIT)
    return tuple(timers), tuple(drops)


def _row(place: int, id: str, name: str, timer: Timer) -> NewTimer:
    body = encode_delay(DelayBody(timer.to, timer=name))
    return NewTimer(timer_id(id, name), name, place, timer.to, timer.due, timer.after, body)


def placed(
    delays: Sequence[tuple[Draft, NewDelay]], puts: Sequence[Draft], states: Sequence[State]
) -> tuple[NewDelay, ...]:
    """Return the delays with the states that the commit puts for them."""
    places = {id(draft): place for place, draft in enumerate(puts)}
    placed = [(places[id(draft)], delay) for draft, delay in delays]
    return tuple([replace(delay, state=states[place], put=place) for place, delay in placed])
