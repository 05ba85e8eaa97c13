# ruff: noqa: ARG001 - every flow takes the same arguments
"""Simulated flows with policies, and how they fail."""

import asyncio
from random import Random

from flowstate.commands import Command, Commit, Transit
from flowstate.context import StateContext
from flowstate.engine import Engine
from flowstate.errors import FlowTimeoutError
from flowstate.registry import FlowOptions
from flowstate.retrying import RetryPolicy
from flowstate.testing.simulation.plans import advanced
from flowstate.testing.simulation.updates import count_once

__all__ = [
    "FlowFailedError",
    "POLICIES",
    "amend",
    "attempt_strictly",
    "attempt_with_effect",
]

SHORT = 0.2  # Seconds, as are the next two.
TIMEOUT = 0.4
TOO_LONG = 1.2
HOPELESS, FAILS, SLOW = 0.05, 0.4, 0.1  # Parts of the executions.


class FlowFailedError(Exception):
    """A flow raised, as it was meant to."""


class HopelessError(Exception):
    """A flow raised what no policy tries again."""


POLICIES: dict[str, FlowOptions] = {
    "try": {
        "retry": RetryPolicy(attempts=3, first=0.1, longest=0.6, never=HopelessError),
        "timeout": TIMEOUT,
        "on_failure": "amends",
    },
    "strict": {
        "retry": RetryPolicy(attempts=2, first=0.1, on=(FlowFailedError, FlowTimeoutError)),
        "timeout": TIMEOUT,
    },
    "amends": {"retry": RetryPolicy(attempts=2, first=0.1, jitter=False)},
}


async def attempt_with_effect(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    """Do something outside of the state, once for each step, and perhaps fail then."""
    await count_once(engine, ctx.effect_key)
    await _fail(rng)
    return Commit(Transit(ctx, advanced(ctx)))


async def attempt_strictly(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    """Fail at times, in a flow that ends its state when it fails too often."""
    await _fail(rng)
    return Commit(Transit(ctx, advanced(ctx)))


async def amend(ctx: StateContext, engine: Engine, rng: Random) -> Command[None]:
    """Go on where another flow has failed."""
    await asyncio.sleep(SHORT * rng.random())
    if rng.random() < FAILS / 2:
        raise FlowFailedError(ctx.current.id)
    return Commit(Transit(ctx, advanced(ctx)))


async def _fail(rng: Random) -> None:
    await asyncio.sleep(SHORT * rng.random())
    part = rng.random()
    if part < HOPELESS:
        raise HopelessError
    if part < HOPELESS + FAILS:
        raise FlowFailedError
    if part < HOPELESS + FAILS + SLOW:
        await asyncio.sleep(TOO_LONG)
