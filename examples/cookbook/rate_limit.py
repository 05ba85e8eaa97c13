"""Rate limit: calls ask a limiter, which lets one go and then waits for the interval."""

import contextlib
from datetime import timedelta

from examples.cookbook.helpers import begin, reached
from flowstate import (
    Command,
    Commit,
    Delay,
    End,
    Engine,
    FlowRegistry,
    InvalidCommandError,
    Receive,
    State,
    StateContext,
)

INTERVAL = timedelta(milliseconds=100)
flows = FlowRegistry()


@flows.flow
async def limiter(ctx: StateContext, engine: Engine) -> Command:
    return Commit(Receive(ctx, "call", to="let_go"))


@flows.flow
async def let_go(ctx: StateContext, engine: Engine) -> Command:
    with contextlib.suppress(InvalidCommandError):  # It has ended: it does not wait.
        await engine.signal(ctx.get(str, "call"), "go", key=ctx.effect_key)
    return Commit(Delay(ctx, "limiter", after=INTERVAL))


@flows.flow
async def enter(ctx: StateContext, engine: Engine) -> Command:
    await engine.signal("limiter", "call", ctx.current.id, key=ctx.effect_key)
    return Commit(Receive(ctx, "go", to="call"))


@flows.flow
async def call(ctx: StateContext, engine: Engine) -> Command:
    return Commit(End(ctx))  # Here goes what must not happen too often.


async def demo(engine: Engine) -> list[str]:
    """Let ten calls go, one in 100 ms."""
    await begin(engine, State("limiter"), "limiter")
    for number in range(10):
        await begin(engine, State(f"call {number}", labels={"kind": "call"}), "enter")
    return [f"{state.id}: {state.status}" for state in await reached(engine, {"kind": "call"}, 10)]
