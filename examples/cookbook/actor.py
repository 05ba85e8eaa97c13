"""Actor: a state handles its messages one after the other, in the order in which they were sent.

A message is a paused state. It ends in the commit that changes the actor, so it is handled once.
"""

import contextlib

from examples.cookbook.helpers import oldest, reached
from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    Execute,
    FlowRegistry,
    Noop,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    Transit,
)

flows = FlowRegistry()


@flows.flow("actor")
async def actor(ctx: StateContext, engine: Engine) -> Command[None]:
    message = StateContext(await oldest(engine, {"inbox": ctx.current.id}))
    total = int(ctx.current.annotations.get("total", "0"))
    ctx.set_annotation("total", str(total + int(message.current.annotations["add"])))
    last = message.current.id
    try:
        await engine.do(Commit(End(message), Transit(ctx, "actor", {"handled": last})))
    except RevisionMismatchError as lost:
        if ctx.current.id in lost.ids:
            return Noop()  # The same actor runs elsewhere, and has gone on.
        ctx.current = ctx.committed  # Somebody took the message back: forget what it added.
    return Execute(ctx)


async def send(engine: Engine, to: str, id: str, add: int) -> None:
    """Send a message; one with the same id is sent once."""
    message = State(id, labels={"inbox": to}, annotations={"add": str(add)})
    with contextlib.suppress(RevisionMismatchError):
        await engine.do(Commit(Pause(StateContext(message))))


async def demo(engine: Engine) -> list[str]:
    """Send five numbers to an actor that adds them up."""
    ctx = StateContext(State("adder"))
    with contextlib.suppress(RevisionMismatchError):
        await engine.do(Commit(Transit(ctx, "actor")), Execute(ctx))
    for number in range(1, 6):
        await send(engine, "adder", f"message {number}", number)
    await reached(engine, {"inbox": "adder"}, 5)
    state = await engine.get_state("adder")
    return [f"total {state.annotations['total']} after {state.transition.annotations['handled']}"]
