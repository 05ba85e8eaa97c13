"""Retention: forgets ended instances by their age and number, in one process at a time."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from random import Random
from typing import Literal

import attrs

from flowstate import (
    Commit,
    Engine,
    EngineStoppedError,
    FlowstateError,
    Forget,
    InvalidInputError,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
    Status,
)
from flowstate.engines.kernel.instance import OUTCOME, PARENT
from flowstate.engines.kernel.results import is_over
from flowstate.engines.tasks.service.definitions import DEFINITION
from flowstate.recovery import Lease

__all__ = ["Keep", "forget_some", "retain"]

logger = logging.getLogger("flowstate.engines")

MOST_AT_ONCE = 1_000  # Instances that a rule forgets in one round.
MOST_LOOKED = 20_000  # The children of a parent that goes on are looked at, and stay.
BATCH = 100  # Of one commit.

Outcome = Literal["", "done", "failed", "cancelled"]


@attrs.frozen
class Keep:
    """A rule: which ended instances are kept.

    Attributes:
        age: they are forgotten when they have ended so long ago; ``None``: at any age.
        count: so many of them are kept, the newest; ``None``: any number.
        definition: of this ``namespace/name``; empty: of each.
        outcome: with this outcome; empty: with any.

    Raises:
        InvalidInputError: neither an age nor a count; or one that is negative.
    """

    age: timedelta | None = None
    count: int | None = None
    definition: str = ""
    outcome: Outcome = ""

    def __attrs_post_init__(self) -> None:
        if self.age is None and self.count is None:
            raise InvalidInputError("keep", "needs an age or a count")
        if (self.age or timedelta(0)) < timedelta(0) or (self.count or 0) < 0:
            raise InvalidInputError("keep", "cannot be negative")


async def retain(
    engine: Engine,
    rules: Sequence[Keep],
    names: Callable[[], Iterable[str]],
    *,
    every: float = 60.0,
    rng: Random | None = None,
) -> None:
    """Apply rules until the engine stops, in one of all processes.

    Args:
        engine: open.
        rules: all of them are applied; what one of them forgets is gone.
        names: returns those of all definitions.
        every: seconds from round to round.
        rng: draws pauses.
    """
    with suppress(EngineStoppedError):
        async with Lease(engine, "tasks.retention", rng=rng) as lease:
            while True:
                await lease.wait_held()
                try:
                    await forget_some(engine, rules, names())
                except EngineStoppedError:
                    raise
                except FlowstateError as error:  # The next round goes on.
                    logger.warning("cannot forget instances: %s", error, exc_info=error)
                await engine.clock.sleep(every, background=True)


async def forget_some(engine: Engine, rules: Sequence[Keep], names: Iterable[str]) -> int:
    """Apply each rule to at most 1,000 instances of each definition; return how many are gone."""
    forgotten = 0
    for rule in rules:
        for name in [rule.definition] if rule.definition else [*names]:
            labels = {DEFINITION: name} | ({OUTCOME: rule.outcome} if rule.outcome else {})
            forgotten += await _apply(engine, rule, labels)
    return forgotten


async def _apply(engine: Engine, rule: Keep, labels: dict[str, str]) -> int:
    oldest, looked, before = MOST_LOOKED, 0, None
    if rule.count is not None:
        ended = await engine.count(labels=labels, status=Status.ENDED)
        oldest = min(oldest, ended - rule.count)
    if rule.age is not None:
        before = engine.clock.now() - rule.age
    if oldest <= 0:
        return 0
    found = engine.states(
        labels=labels, latest_only=True, status=Status.ENDED, committed_before=before
    )
    free = list[State]()
    async for state in found:
        looked += 1
        if await _is_free(engine, state):
            free.append(state)
        if looked >= oldest or len(free) >= MOST_AT_ONCE:
            break
    batches = [free[at : at + BATCH] for at in range(0, len(free), BATCH)]
    return sum([await _forget(engine, batch) for batch in batches])


async def _is_free(engine: Engine, state: State) -> bool:
    """Return whether no parent still has to read the result of an instance."""
    if PARENT not in state.labels:
        return True
    try:
        return is_over(await engine.get_state(state.labels[PARENT]))
    except StateNotFoundError:
        return True


async def _forget(engine: Engine, states: Sequence[State]) -> int:
    try:
        await engine.do(Commit(*[Forget(StateContext(state)) for state in states]))
    except RevisionMismatchError:  # An operator retries one of them.
        if len(states) == 1:
            return 0
        return sum([await _forget(engine, [state]) for state in states])
    return len(states)
