"""Call and return: the caller waits for a message, which the callee sends when it has a result."""

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

flows = FlowRegistry()


@flows.flow
async def call(ctx: StateContext, engine: Engine) -> Command:
    callee = StateContext(State(f"{ctx.current.id}/double"))
    callee.put(21, "number")
    callee.put(ctx.current.id, "caller")
    # A delay of nothing starts the callee, in any process.
    return Commit(Receive(ctx, "result", to="go_on"), Delay(callee, "double", after=timedelta(0)))


@flows.flow
async def go_on(ctx: StateContext, engine: Engine) -> Command:
    return Commit(End(ctx))  # Here goes what the result is for.


@flows.flow
async def double(ctx: StateContext, engine: Engine) -> Command:
    with contextlib.suppress(InvalidCommandError):  # The caller has ended: it does not wait.
        result = 2 * ctx.get(int, "number")
        await engine.signal(ctx.get(str, "caller"), "result", result, key=ctx.effect_key)
    return Commit(End(ctx))


async def demo(engine: Engine) -> list[str]:
    """Call a flow and use what it returns."""
    await begin(engine, State("sum", labels={"kind": "caller"}), "call")
    (caller,) = await reached(engine, {"kind": "caller"}, 1)
    return [f"{caller.id}: {caller.get(int, 'result')}"]
