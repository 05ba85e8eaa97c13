"""The rules by which a state is recovered: kept in the state itself."""

import random
from datetime import timedelta
from typing import Literal

from flowstate.context import StateContext
from flowstate.errors import InvalidInputError
from flowstate.recovery_rules import (
    ATTEMPT,
    DISABLED,
    LONGEST,
    MAX_ATTEMPTS,
    MOST_ATTEMPTS,
    RETRY_AFTER,
    SHORTEST,
    WAIT,
    attempt,
    read_count,
    retry_after,
    without_attempt,
)
from flowstate.state import State

__all__ = [
    "DEFAULT_MAX_ATTEMPTS",
    "Decision",
    "attempt",
    "attempt_annotations",
    "decide",
    "disable",
    "enable",
    "idempotency_key",
    "is_disabled",
    "max_attempts",
    "read_count",
    "set_max_attempts",
    "set_retry_after",
    "without_attempt",
]

DEFAULT_MAX_ATTEMPTS = 3
LONGEST_DOUBLING = 10
JITTER = 0.25

Decision = Literal["retry", "take over", "drop"]


def set_retry_after(ctx: StateContext, after: timedelta) -> None:
    """Let the state be recovered after it has made no progress for so long; 2 minutes by default.

    It applies from the next commit of the state on, and is stored with it. A state that an engine
    is executing never counts as stalled.

    Args:
        ctx: of the state.
        after: from 1 millisecond to 365,000 days.

    Raises:
        InvalidInputError: not from 1 millisecond to 365,000 days.
    """
    if not isinstance(after, timedelta):
        raise InvalidInputError("after", f"must be a timedelta, not {type(after).__name__}")
    if not SHORTEST <= after.total_seconds() <= LONGEST:
        raise InvalidInputError("after", "must be from 1 millisecond to 365,000 days")
    ctx.set_annotation(RETRY_AFTER, repr(after.total_seconds()))


def set_max_attempts(ctx: StateContext, attempts: int) -> None:
    """Let the state be executed again at most so many times without progress; 3 by default.

    It applies from the next commit of the state on. After the last attempt the state is ended by
    force; with 0, as soon as it stalls.

    Args:
        ctx: of the state.
        attempts: from 0 to 1,000,000.

    Raises:
        InvalidInputError: not an integer from 0 to 1,000,000.
    """
    if type(attempts) is not int or not 0 <= attempts <= MOST_ATTEMPTS:
        raise InvalidInputError("attempts", f"must be from 0 to {MOST_ATTEMPTS}, not {attempts!r}")
    ctx.set_annotation(MAX_ATTEMPTS, str(attempts))


def disable(ctx: StateContext) -> None:
    """Let the state never be recovered, from its next commit on."""
    ctx.set_annotation(DISABLED, "")


def enable(ctx: StateContext) -> None:
    """Take :func:`disable` back, from the next commit of the state on."""
    ctx.set_annotation(DISABLED, None)


def is_disabled(state: State) -> bool:
    """Return whether a state is never recovered."""
    return DISABLED in state.annotations


def max_attempts(state: State) -> int:
    """Return how many times a state may be executed again without progress."""
    found = read_count(state.annotations.get(MAX_ATTEMPTS))
    return DEFAULT_MAX_ATTEMPTS if found is None else found


def idempotency_key(ctx: StateContext) -> str:
    """Return ``ctx.effect_key``: each attempt of the same step has the same one."""
    return ctx.effect_key


def decide(state: State, *, handed_over: bool) -> Decision:
    """Return what is to be done with a state that has stalled; a hand-over is no attempt."""
    if handed_over:
        return "take over"
    return "drop" if attempt(state) >= max_attempts(state) else "retry"


def attempt_annotations(state: State, rng: random.Random) -> dict[str, str]:
    """Return what the transition of the next attempt says.

    The wait after it doubles with every attempt, and is up to a quarter longer by chance, so that
    states that stalled together do not come back together.
    """
    number = attempt(state) + 1
    doubled = retry_after(state).total_seconds() * 2 ** min(number - 1, LONGEST_DOUBLING)
    wait = min(doubled * rng.uniform(1, 1 + JITTER), LONGEST)
    return {ATTEMPT: str(number), WAIT: f"{wait:.6f}"}
