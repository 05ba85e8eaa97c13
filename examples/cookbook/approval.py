"""Human approval with a timeout: whoever commits first decides, a person or the delay."""

import contextlib
from datetime import timedelta

from examples.cookbook.helpers import reached
from flowstate import (
    Command,
    Commit,
    Delay,
    End,
    Engine,
    Execute,
    FlowRegistry,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    Status,
    Transit,
)

REQUESTS = {"kind": "request"}
flows = FlowRegistry()


@flows.flow("ask")
async def ask(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(Pause(ctx), Delay(ctx, "expired", after=timedelta(days=3)))


async def decide(engine: Engine, id: str, answer: str, who: str) -> bool:
    """Answer a request with "approved" or "rejected"; return whether this answer counts."""
    ctx = StateContext(await engine.get_state(id))
    if ctx.current.status is not Status.PAUSED or ctx.current.transition.to != "ask":
        return False  # It is decided, or it is not asked yet.
    try:
        await engine.do(Commit(Transit(ctx, answer, {"by": who})))
    except RevisionMismatchError:
        return False  # Somebody else, or the timeout, was faster.
    await engine.do(Execute(ctx))
    return True


@flows.flow("approved")
@flows.flow("rejected")
@flows.flow("expired")
async def decided(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))  # Here goes what follows from the answer.


async def demo(engine: Engine) -> list[str]:
    """Ask twice: the first request is approved, nobody answers the second."""
    for id in ("holiday", "car"):
        ctx = StateContext(State(id, labels=REQUESTS))
        with contextlib.suppress(RevisionMismatchError):
            await engine.do(Commit(Transit(ctx, "ask")), Execute(ctx))
    await reached(engine, REQUESTS, 2, Status.PAUSED)
    await decide(engine, "holiday", "approved", "anna")
    return [f"{state.id}: {state.transition.to}" for state in await reached(engine, REQUESTS, 2)]
