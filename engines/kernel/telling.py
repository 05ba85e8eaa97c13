"""Tells instances that there is something new outside of them, and marks those that must tell.

An instance that others wait for has a *mark*: a state of its own, made by the first that waits. One
that ends checks in the same commit that it has none. So an instance for which nothing waits reads
nothing when it ends.
"""

import asyncio
from hashlib import sha256

from flowstate import (
    Check,
    Command,
    End,
    Engine,
    Forget,
    InvalidCommandError,
    MailboxFullError,
    State,
    StateContext,
    StateNotFoundError,
)
from flowstate.engines.kernel.control import CONTROL
from flowstate.engines.kernel.outside import AWAITS, topic_label
from flowstate.engines.kernel.results import is_over

__all__ = ["latest", "mark_of", "tell", "without_mark"]

AT_ONCE = 32  # Messages on their way.


def mark_of(id: str) -> StateContext:
    """Return the mark of an instance, as it is if there is none."""
    return StateContext(State(f"flowstate.awaited.{sha256(id.encode()).hexdigest()[:32]}"))


async def latest(engine: Engine, id: str) -> State:
    """Return the latest revision of a state; revision 0 if there is none."""
    try:
        return await engine.get_state(id)
    except StateNotFoundError:
        return State(id)


def without_mark(ctx: StateContext) -> tuple[Command[None], ...]:
    """Return what lets a commit happen only if a mark is as it was read, and removes it."""
    return (End(ctx), Forget(ctx)) if ctx.committed.rev else (Check(ctx),)


async def tell(engine: Engine, *topics: str) -> None:
    """Let all instances look again that wait for one of some topics.

    Raises:
        MailboxFullError: of one of them; all others were told.
    """
    labels = [dict([topic_label(AWAITS, each)]) for each in topics]
    told, full = set[str](), list[str]()  # One that was told has moved on, so it may come again.
    page = await engine.get_states(labels=labels, latest_only=True, limit=AT_ONCE)
    while True:
        ids = {each.id for each in page.states if not is_over(each)} - told
        told |= ids
        await asyncio.gather(*(_tell_one(engine, id, full) for id in ids))
        if not page.more:
            break
        page = await engine.do(page.next)
    if full:
        raise MailboxFullError(full[0])


async def _tell_one(engine: Engine, id: str, full: list[str]) -> None:
    try:
        await engine.signal(id, CONTROL, "look")
    except MailboxFullError:
        full.append(id)
    except (InvalidCommandError, StateNotFoundError):
        pass  # It has ended.
