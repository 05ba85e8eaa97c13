"""What must be true of the keys for effects: one for each step, however often that runs."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flowstate.recovery.policy import attempt
from flowstate.state import State
from flowstate.testing.simulation.policies import POLICIES
from flowstate.testing.simulation.policy_rules import failures, pairs
from flowstate.testing.simulation.updates import TALLY, is_updated, names_in

if TYPE_CHECKING:
    from flowstate.testing.simulation.world import World

__all__ = ["RULES"]

MOVING_ON = {*POLICIES, "work", "long", "fail", "count", "check"}


def _keys_name_steps(world: "World") -> Iterator[str]:
    """Runs of different steps have different keys.

    Some flows note that their step is done before they move on, and are left out.
    """
    steps: dict[str, tuple[str, str, str, int]] = {}
    lives, life = {}, Counter[str]()
    for state in world.store.log:
        lives[state.rev] = life[state.id]
        life[state.id] += state.transition.cause == "forget"
    for run in world.runs:
        step = (run.id, run.flow, run.at, lives.get(run.rev, 0))
        if run.flow not in MOVING_ON:
            continue
        if steps.setdefault(run.key, step) != step:
            yield f"{run.id}@{run.rev} has the key {run.key} of {steps[run.key]}"


def _keys_stay(world: "World") -> Iterator[str]:
    """What runs again after a crash or a failure has the key that it had."""
    runs: dict[int, list[tuple[str, str]]] = {}
    for run in world.runs:
        runs.setdefault(run.rev, []).append((run.flow, run.key))
    known: dict[str, tuple[str, str]] = {}  # By state: the flow and the key of its last run.
    for before, state in pairs(world):
        if before is None or not _goes_on(before, state):
            known.pop(state.id, None)
        for now in runs.get(state.rev, ()):
            flow, key = known.setdefault(state.id, now)
            if flow == now[0] and key != now[1]:
                yield f"{state.id}@{state.rev} ran with the key {now[1]} after {key}"
            known[state.id] = now


def _goes_on(before: State, state: State) -> bool:
    """Return whether a revision only lets the step of the one before run again."""
    if attempt(state) > attempt(before) or failures(state) > failures(before):
        return True
    is_paused = before.delayed_until is not None and failures(before) > 0
    if is_paused and not state.delayed_until and failures(state) == failures(before):
        return True
    if _place_of(before) != _place_of(state):
        return False
    return before.delayed_until is None or is_updated(before, state)


def _place_of(state: State) -> tuple[object, ...]:
    """Return where a state stands in its plan, apart from what names the step."""
    step = state.transition
    return step.to, step.cause, step.annotations, state.annotations, state.delayed_until


def _effects_are_there(world: "World") -> Iterator[str]:
    """The effect of a run that has returned is there."""
    tally = world.store.latest.get(TALLY)
    names = set(names_in(tally)) if tally is not None else set()
    for run in world.runs:
        if run.flow == "try" and run.how == "returned" and run.key not in names:
            yield f"{run.key} was not counted"


RULES = (_keys_name_steps, _keys_stay, _effects_are_there)
