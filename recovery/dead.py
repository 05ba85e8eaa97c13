"""States that were ended by force: found by a label, and retried on purpose."""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import get_args

from msgspec import Struct
from msgspec.structs import replace

from flowstate.commands import Check, Command, Commit, End, Execute, Retry
from flowstate.context import StateContext
from flowstate.dead import (
    ATTEMPTS,
    CAUSE,
    DEAD,
    ERROR,
    FAILURES,
    LABEL,
    MARKS,
    REASON,
    is_dead,
    marks_of,
)
from flowstate.engine import Engine
from flowstate.errors import InvalidCommandError, RevisionMismatchError
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.recovery_rules import read_count
from flowstate.state import Cause, State, Status, Transition

__all__ = [
    "DEAD",
    "DeadState",
    "count_dead",
    "dead_states",
    "end_by_force",
    "is_dead",
    "read_dead",
    "retry_all_dead",
    "retry_dead",
]


class DeadState(Struct, frozen=True):
    """A state that was ended by force.

    Attributes:
        state: as it is, in the flow in which it stalled.
        reason: why.
        attempts: how many times it had been executed again in vain, after it stood still.
        failures: how many times its flow had failed under its policy.
        error: what the last execution raised, as far as that is known; at most 1,024 characters.
        at: when it was ended, by the store's clock.
    """

    state: State
    reason: str
    attempts: int
    error: str
    at: datetime | None
    failures: int = 0


async def end_by_force(
    engine: Engine, state: State, reason: str, error: str, *fences: Check
) -> None:
    """End a state where it is, and mark it dead; the fences must hold for the commit."""
    ctx = StateContext(state)
    ctx.set_label(LABEL, DEAD[LABEL])
    await engine.do(Commit(*fences, End(ctx, marks_of(state, reason, error))))


def read_dead(state: State) -> DeadState:
    """Return what is marked on a state that was ended by force."""
    marks = state.transition.annotations
    return DeadState(
        state=state,
        reason=marks.get(REASON, ""),
        attempts=read_count(marks.get(ATTEMPTS)) or 0,
        error=marks.get(ERROR, ""),
        at=state.committed_at,
        failures=read_count(marks.get(FAILURES)) or 0,
    )


async def dead_states(
    engine: Engine, labels: Mapping[str, str] = EMPTY
) -> AsyncIterator[DeadState]:
    """Iterate over the dead states that also have ``labels``, those that died first in front."""
    wanted = {**labels, **DEAD}
    found = engine.states(labels=wanted, latest_only=True, status=Status.ENDED)
    async for state in found:
        if is_dead(state):
            yield read_dead(state)


async def count_dead(engine: Engine, labels: Mapping[str, str] = EMPTY) -> int:
    """Return how many dead states also have ``labels``; reads them all."""
    return sum([1 async for _ in dead_states(engine, labels)])


async def retry_dead(engine: Engine, id: str) -> StateContext:
    """Make a dead state active again in the flow in which it stalled, and execute it.

    Its attempts and failures count from 0 again.

    Raises:
        StateNotFoundError: there is no such state.
        InvalidCommandError: it is not dead.
        RevisionMismatchError: another process has moved it on just now.
    """
    return await _retry(engine, await engine.get_state(id))


async def retry_all_dead(engine: Engine, labels: Mapping[str, str] = EMPTY) -> int:
    """Retry every dead state that also has ``labels``; return how many."""
    count = 0
    async for dead in dead_states(engine, labels):
        try:
            await _retry(engine, dead.state)
        except RevisionMismatchError:
            continue
        count += 1
    return count


async def _retry(engine: Engine, state: State) -> StateContext:
    if not is_dead(state):
        raise InvalidCommandError("id", f"{state.id!r} is not dead")
    ctx = StateContext(state)
    ctx.set_label(LABEL, None)
    ctx.current = replace(ctx.current, transition=_before_death(state))
    execute: list[Command[None]] = [Commit(Retry(ctx))]
    if engine.can_execute(state.transition.to):
        execute.append(Execute(ctx))
    await engine.do(*execute)
    return ctx


def _before_death(state: State) -> Transition:
    marks = dict(state.transition.annotations)
    cause = marks.get(CAUSE, "transit")
    for mark in MARKS:
        marks.pop(mark, None)
    known: Cause = cause if cause in get_args(Cause) else "transit"  # type: ignore[assignment]
    return replace(state.transition, annotations=FrozenDict(marks), cause=known)
