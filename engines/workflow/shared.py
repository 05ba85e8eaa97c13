"""States that instances share: changed by their steps, and made when they are first needed."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from flowstate import (
    Command,
    Commit,
    InvalidInputError,
    Pause,
    RetryPolicy,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
)
from flowstate.engines.kernel.current_step import current_step

__all__ = ["PATIENT", "changed", "now"]

Change = Callable[[StateContext], Sequence[Command[Any]]]

NEVER = (InvalidInputError, OverflowError)
PATIENT = RetryPolicy(attempts=1_000_000, first=0.1, longest=60.0, never=NEVER)
RACES = 64
MOST_AHEAD = timedelta(seconds=10)  # That the clock of a process counts before that of the store.


async def changed(id: str, change: Change) -> State:
    """Change a shared state within a step, and return the revision that has the change.

    Raises:
        RevisionMismatchError: it has lost too many races.
    """
    engine = current_step().engine
    for _ in range(RACES):
        try:
            return await engine.update(id, change)
        except StateNotFoundError:
            ctx = StateContext(State(id))
            with suppress(RevisionMismatchError):  # Another step has made it.
                await engine.do(Commit(*change(ctx), Pause(ctx)))
                return ctx.committed
    raise RevisionMismatchError([id])


async def now() -> datetime:
    """Return the time of the store within a step, as far as it is known to have come."""
    step = current_step()
    committed = (await step.engine.get_state(step.instance)).committed_at
    here = step.engine.clock.now()
    return here if committed is None else max(committed, min(here, committed + MOST_AHEAD))
