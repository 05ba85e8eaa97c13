"""The rules by which a state is recovered."""

import random
from datetime import timedelta

import pytest

from flowstate import (
    State,
    StateContext,
    recovery,
)
from flowstate.recovery.policy import attempt_annotations, decide, without_attempt
from flowstate.recovery_rules import stalls_after


def committed(ctx: StateContext, **annotations: str) -> State:
    state = ctx.current
    transition = State("x").transition
    return State(
        state.id,
        rev=7,
        annotations=state.annotations,
        transition=type(transition)("work", annotations),
    )


def test_attempts_double_their_wait_and_differ_by_chance() -> None:
    ctx = StateContext(State("a"))
    recovery.set_retry_after(ctx, timedelta(seconds=10))
    state = committed(ctx, note="kept")
    waits = []
    for number in range(1, 15):
        found = attempt_annotations(state, random.Random(number))
        state = committed(ctx, note="kept", **found)
        assert recovery.attempt(state) == number
        assert recovery.idempotency_key(StateContext(state)) == "a:7:work"
        after = stalls_after(state)
        assert after is not None
        waits.append(after.total_seconds())
    for number, wait in enumerate(waits):
        assert 10 * 2 ** min(number, 10) <= wait <= 12.5 * 2 ** min(number, 10)
    assert len(set(waits[10:])) == 4
    assert without_attempt(state) == {"note": "kept"}


def test_a_wait_never_exceeds_what_can_be_stored() -> None:
    ctx = StateContext(State("a"))
    recovery.set_retry_after(ctx, timedelta(days=365_000))
    state = committed(ctx, **attempt_annotations(committed(ctx), random.Random(1)))
    assert stalls_after(state) == timedelta(days=365_000)


def test_decisions() -> None:
    ctx = StateContext(State("a"))
    recovery.set_max_attempts(ctx, 1)
    first = committed(ctx)
    second = committed(ctx, **attempt_annotations(first, random.Random(1)))
    assert decide(first, handed_over=False) == "retry"
    assert decide(second, handed_over=False) == "drop"
    assert decide(second, handed_over=True) == "take over"


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "\u0663", "1" * 5_000])
def test_counts_that_cannot_be_read_are_the_default(text: str) -> None:
    key = "flowstate.recovery.max_attempts"
    state = State("a", annotations={key: text})
    assert recovery.max_attempts(state) == 3
    transition = committed(StateContext(state), **{"flowstate.recovery.attempt": text})
    assert recovery.attempt(transition) == 0
