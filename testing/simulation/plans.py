"""What a simulated state is to go through: its plan, which it carries with it."""

from collections.abc import Callable, Coroutine
from datetime import timedelta
from random import Random
from typing import Any

from msgspec import Struct

from flowstate.commands import Command
from flowstate.context import StateContext
from flowstate.engine import Engine
from flowstate.recovery import set_max_attempts, set_retry_after
from flowstate.state import State

__all__ = ["AT", "Body", "Plan", "advanced", "goes_on_in", "new_context"]

PLAN, AT = "plan", "at"  # Annotations.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 0.5  # Seconds, of a policy that a state brings along.

Body = Callable[[StateContext, Engine, Random], Coroutine[Any, Any, Command[None]]]
"""What a flow does; the last argument is where its chance comes from."""


class Plan(Struct, frozen=True):
    """A state that is to be.

    Attributes:
        id: of the state.
        steps: the flows it goes through.
        retry_after: seconds.
        max_attempts: of recovery.
        at: when it is created.
        lives: how often it is created; it is forgotten in between, and if it is created twice, also
            in the end.
        attempts: that the policy of each flow allows, if the state says so itself.
    """

    id: str
    steps: tuple[str, ...]
    retry_after: float
    max_attempts: int
    at: float
    lives: int
    attempts: int | None = None


def new_context(plan: Plan) -> StateContext:
    """Return the context of a state that is not committed yet."""
    kind = "even" if int(plan.id[1:]) % 2 == 0 else "odd"
    ctx = StateContext(State(plan.id, labels={"kind": kind}))
    ctx.set_annotation(PLAN, " ".join(plan.steps))
    ctx.set_annotation(AT, "0")
    set_retry_after(ctx, timedelta(seconds=plan.retry_after))
    set_max_attempts(ctx, plan.max_attempts)
    if plan.attempts is not None:
        ctx.set_policy(attempts=plan.attempts, first=FIRST_PAUSE, longest=LONGEST_PAUSE)
    return ctx


def goes_on_in(state: State) -> str:
    """Return the flow that a state is in, or that it is delayed to, by its plan."""
    return state.annotations[PLAN].split()[int(state.annotations[AT])]


def advanced(ctx: StateContext) -> str:
    """Note that one more step is done; return the next."""
    at = int(ctx.current.annotations[AT]) + 1
    ctx.set_annotation(AT, str(at))
    return goes_on_in(ctx.current)
