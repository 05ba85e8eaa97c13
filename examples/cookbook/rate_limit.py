"""Rate limit: a limiter lets one waiting state go, and comes back after the interval.

The commit that lets a state go is the one that sets the time of the next, so no crash and no
second limiter makes it faster.
"""

import contextlib
from datetime import timedelta

from examples.cookbook.helpers import oldest, reached
from flowstate import (
    Command,
    Commit,
    Delay,
    End,
    Engine,
    Execute,
    FlowRegistry,
    Noop,
    Pause,
    Resume,
    RevisionMismatchError,
    State,
    StateContext,
    Transit,
)

INTERVAL = timedelta(milliseconds=100)
CALLS = {"limited by": "limiter"}
flows = FlowRegistry()


@flows.flow("limiter")
async def limiter(ctx: StateContext, engine: Engine) -> Command[None]:
    call = StateContext(await oldest(engine, CALLS))
    try:
        await engine.do(Commit(Resume(call), Delay(ctx, "limiter", after=INTERVAL)))
    except RevisionMismatchError as lost:
        # Another limiter was faster, or somebody has moved the call on.
        return Noop() if ctx.current.id in lost.ids else Execute(ctx)
    return Execute(call)


@flows.flow("call")
async def call(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))  # Here goes what must not happen too often.


async def demo(engine: Engine) -> list[str]:
    """Let ten calls go, one in 100 ms."""
    for number in range(10):
        ctx = StateContext(State(f"call {number}", labels=CALLS))
        with contextlib.suppress(RevisionMismatchError):
            await engine.do(Commit(Transit(ctx, "call"), Pause(ctx)))
    ctx = StateContext(State("limiter"))
    with contextlib.suppress(RevisionMismatchError):
        await engine.do(Commit(Transit(ctx, "limiter")), Execute(ctx))
    return [f"{state.id}: {state.status}" for state in await reached(engine, CALLS, 10)]
