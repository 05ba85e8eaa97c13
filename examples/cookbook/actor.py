"""Actor: a state handles its messages one after the other, in the order in which they were sent."""

from examples.cookbook.helpers import begin
from flowstate import Command, Commit, Engine, FlowRegistry, Receive, State, StateContext

flows = FlowRegistry()


@flows.flow
async def actor(ctx: StateContext, engine: Engine) -> Command:
    if ctx.signal:
        ctx.put(ctx.get(int) + ctx.get(int, "add"))
    return Commit(Receive(ctx, "add", to="actor"))


async def demo(engine: Engine) -> list[str]:
    """Send five numbers to an actor that adds them up."""
    await begin(engine, State("adder"), "actor", 0)
    for number in range(1, 6):
        await engine.signal("adder", "add", number, key=f"message {number}")
    state = await engine.wait_for("adder", until=lambda state: state.get(int) == 15)
    return [f"total {state.get(int)}"]
