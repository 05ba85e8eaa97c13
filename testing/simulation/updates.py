"""Updates by all processes: of the tally, and of the states that go through flows meanwhile."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from flowstate.commands import Commit, Pause
from flowstate.context import StateContext
from flowstate.engine import Engine
from flowstate.errors import (
    CommitUnknownError,
    FlowstateError,
    RevisionMismatchError,
    StateNotFoundError,
)
from flowstate.state import State, Status

if TYPE_CHECKING:
    from flowstate.testing.simulation.world import World

__all__ = [
    "Increment",
    "NAMES",
    "RULES",
    "TALLY",
    "count_once",
    "increment",
    "is_updated",
    "names_in",
    "tally_of",
]

TALLY = "tally"  # A state.
NAMES = "names"  # A value.


class Increment(Struct, eq=False):
    """One more name in a state, which a client adds.

    Attributes:
        name: differs from all others.
        to: the state.
        is_async: whether the change is, so that no other update does it as well.
        outcome: what the client was told: ``"refused"`` says that nothing was written.
        state: that the client was given.
    """

    name: str
    to: str
    is_async: bool
    outcome: Literal["unknown", "done", "refused"] = "unknown"
    state: State | None = None


def names_in(state: State) -> list[str]:
    """Return the names that were added to a state."""
    return state.get(list[str], NAMES, default=[])


def is_updated(before: State, state: State) -> bool:
    """Return whether a revision has more names than the one before."""
    return before.values.get(NAMES) != state.values.get(NAMES)


def _add(ctx: StateContext, name: str) -> None:
    if ctx.current.status is not Status.ENDED:
        ctx.put([*names_in(ctx.current), name], NAMES)


async def increment(engine: Engine, each: Increment) -> None:
    """Add a name, as often as the change is called for that; note what comes of it."""

    def add(ctx: StateContext) -> None:
        _add(ctx, each.name)

    async def add_later(ctx: StateContext) -> None:
        await asyncio.sleep(0)
        add(ctx)

    try:
        if each.to == TALLY:
            await _make_tally(engine)
        state = await engine.update(each.to, add_later if each.is_async else add)
    except CommitUnknownError:
        return
    except FlowstateError:
        each.outcome = "refused"
        return
    if state.status is Status.ENDED:  # It was to be left alone.
        each.outcome = "refused"
    else:
        each.outcome, each.state = "done", state


async def count_once(engine: Engine, key: str) -> None:
    """Add a name, unless it is there: what runs again has the same one."""

    def add(ctx: StateContext) -> None:
        if key not in names_in(ctx.current):
            _add(ctx, key)

    await _make_tally(engine)
    await engine.update(TALLY, add)


async def _make_tally(engine: Engine) -> None:
    try:
        await engine.get_state(TALLY)
    except StateNotFoundError:
        with contextlib.suppress(RevisionMismatchError):
            await engine.do(Commit(Pause(StateContext(State(TALLY)))))


# What must be true of it


def _added(world: "World") -> Iterator[tuple[State, list[str], list[str]]]:
    """Iterate over the log: the names that a state had before, in this life, and has now."""
    ids, last = {TALLY, *(plan.id for plan in world.plans)}, dict[str, list[str]]()
    for state in world.store.log:
        if state.transition.cause == "forget":
            last.pop(state.id, None)
        elif state.id in ids:
            before, now = last.get(state.id, []), names_in(state)
            last[state.id] = now
            yield state, before, now


def _no_update_is_lost(world: "World") -> Iterator[str]:
    for state, before, now in _added(world):
        if now[: len(before)] != before:
            yield f"{state.id}@{state.rev} has lost some of {before}: {now}"


def _updates_are_done_once(world: "World") -> Iterator[str]:
    """What was acknowledged is there, once; what was refused is not; the rest is at most once."""
    counts: Counter[str] = Counter()
    for _, before, now in _added(world):
        counts.update(now[len(before) :])
    for each in world.clients.increments:
        found = counts.pop(each.name, 0)
        if found > 1 or found < (each.outcome == "done") or found > (each.outcome != "refused"):
            yield f"the update {each.name} was {each.outcome}, and {found} times it is done"
        state = each.state
        if state is None:
            continue
        if state != world.store.log[state.rev - 1] or each.name not in names_in(state):
            yield f"the update {each.name} was told of another revision: {state!r}"
    keys = {run.key for run in world.runs}
    for name, count in counts.items():
        if count > 1 or name not in keys:
            yield f"{name} was counted {count} times"


RULES = (_no_update_is_lost, _updates_are_done_once)


def tally_of(world: "World") -> Counter[str]:
    """Return how often what was seen of updates."""
    counts = Counter(f"updates {each.outcome}" for each in world.clients.increments)
    for state, before, now in _added(world):
        counts["updates that shared a revision"] += max(0, len(now) - len(before) - 1)
        counts["updated states"] += state.id != TALLY and len(now) > len(before)
    return counts
