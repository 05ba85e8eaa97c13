# ruff: noqa: ARG001 - every flow takes the same arguments
"""Messages to simulated states: sent early, late and twice, and waited for."""

from collections.abc import Callable
from datetime import timedelta
from random import Random

from msgspec import Struct

from flowstate.commands import Command, Commit, SetTimer
from flowstate.context import StateContext
from flowstate.engine import Engine
from flowstate.errors import FlowstateError
from flowstate.mailboxes.receiving import Receive
from flowstate.testing.simulation.plans import Plan, advanced

__all__ = ["Letter", "draw_letters", "receive", "send"]

NAMES = ("go", "stop")  # Of messages.
REMINDED = "reminded"
WAITED_FOR = (NAMES, NAMES[:1], NAMES[1:])
DISTURBANCE = "disturbance"  # A timer.
LIMITED, DISTURBED = 0.3, 0.2  # Parts of the waits.
KEYED = 0.5  # A part of the messages.
TWICE = 0.5  # A part of those with a key.
EARLY = 0.5
SPREAD = 4.0  # Seconds from the creation of a state to its last message.


class Letter(Struct, eq=False):
    """A message, which its client sends until a call returns.

    Attributes:
        text: its value, which no other message has.
        to: the state.
        at: when it is sent first.
        name: of the message.
        key: of ``engine.signal``, as is ``early``.
        early: the state need not be there.
        copies: how many processes send it at the same time.
        acknowledged_at: when a call has returned first.
        calls: how many have returned.
        new: how many of them have said that it was new.
    """

    text: str
    to: str
    at: float
    name: str
    key: str | None = None
    early: bool = False
    copies: int = 1
    acknowledged_at: float | None = None
    calls: int = 0
    new: int = 0


def draw_letters(rng: Random, plans: list[Plan]) -> list[Letter]:
    """Return messages for the states that wait for some, and for those that do not."""
    return [
        _drawn(rng, plan, f"{plan.id}/{number}")
        for plan in plans
        for number in range(rng.randint(0, 2 * plan.steps.count("receive") or 1))
    ]


def _drawn(rng: Random, plan: Plan, text: str) -> Letter:
    at = max(0.2, plan.at + rng.uniform(-0.5, SPREAD))
    letter = Letter(text, plan.id, at, rng.choice(NAMES), early=rng.random() < EARLY)
    if rng.random() < KEYED:
        letter.key, letter.copies = f"key of {text}", 1 + (rng.random() < TWICE)
    return letter


async def send(engine: Engine, letter: Letter, now: Callable[[], float]) -> None:
    """Send a message; note when that is acknowledged."""
    to, name, text, early = letter.to, letter.name, letter.text, letter.early
    try:
        is_new = await engine.signal(to, name, text, key=letter.key, early=early)
    except FlowstateError:
        return
    letter.calls, letter.new = letter.calls + 1, letter.new + is_new
    if letter.acknowledged_at is None:
        letter.acknowledged_at = now()


async def receive(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    """Go on with a message; some wait only so long for it, and some are disturbed meanwhile."""
    to, part = advanced(ctx), rng.random()
    after, names = timedelta(seconds=rng.uniform(0.0, 3.0)), rng.choice(WAITED_FOR)
    if part < LIMITED:
        return Receive(ctx, *names, to=to, timeout=after, timeout_to=to)
    if part < LIMITED + DISTURBED:
        # This timer outlives the wait, so it goes where it does no harm.
        return Commit(
            Receive(ctx, *names, to=to), SetTimer(ctx, DISTURBANCE, REMINDED, after=after)
        )
    return Receive(ctx, *names, to=to)
