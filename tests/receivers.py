"""States that receive messages, for tests of mailboxes."""

from typing import Any

from flowstate import (
    Command,
    Commit,
    Engine,
    FlowRegistry,
    Receive,
    State,
    StateContext,
    Status,
    Transit,
)
from flowstate.mailboxes.mailbox import mailbox_id

__all__ = ["BOX", "begun", "latest", "paused", "received", "receiving", "waiting"]

BOX = mailbox_id("a")


def receiving(got: list[tuple[str, Any]]) -> FlowRegistry:
    """Return flows that receive one message after the other, and note them."""
    flows = FlowRegistry()
    flows.declare("elsewhere")

    @flows.flow("wait")
    async def wait(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(Receive(ctx, "m", "n", to="next"))

    @flows.flow("next")
    async def next_(ctx: StateContext, engine: Engine) -> Command[None]:
        got.append((ctx.signal, ctx.get(object, ctx.signal)))
        return Commit(Receive(ctx, "m", "n", to="next"))

    return flows


async def begun(engine: Engine, id: str = "a", **state: Any) -> StateContext:
    """Return the context of a new state that is in a flow which runs elsewhere."""
    ctx = StateContext(State(id, **state))
    await engine.do(Commit(Transit(ctx, "elsewhere")))
    return ctx


async def waiting(engine: Engine, id: str = "a") -> StateContext:
    """Return the context of a new state that waits for messages."""
    ctx = await begun(engine, id)
    await engine.do(Commit(Receive(ctx, "m", "n", to="elsewhere")))
    return ctx


async def latest(engine: Engine, id: str = "a") -> StateContext:
    return StateContext(await engine.get_state(id))


async def received(engine: Engine, *names: str, id: str = "a") -> list[tuple[str, Any]]:
    """Receive messages until there are none, and return them."""
    found: list[tuple[str, Any]] = []
    ctx = await latest(engine, id)
    while True:
        await engine.do(Commit(Receive(ctx, *(names or ("m", "n")), to="elsewhere")))
        if ctx.current.status is Status.PAUSED:
            return found
        found.append((ctx.signal, ctx.get(object, ctx.signal)))


async def paused(engine: Engine, id: str = "a") -> State:
    return await engine.wait_for(id, status=Status.PAUSED)
