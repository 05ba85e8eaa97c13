"""Fork and join: parts run at the same time, and the last one to finish lets the whole go on.

A part ends and is counted in one commit, so it is counted once.
"""

from datetime import timedelta

from examples.cookbook.helpers import begin, reached
from flowstate import (
    Command,
    Commit,
    Delay,
    End,
    Engine,
    FlowRegistry,
    Noop,
    Pause,
    State,
    StateContext,
)

PARTS = 3
NOW = timedelta(0)
flows = FlowRegistry()


@flows.flow
async def fork(ctx: StateContext, engine: Engine) -> Command:
    ctx.put(PARTS, "left")
    parts = [StateContext(State(f"{ctx.current.id}/{n}")) for n in range(PARTS)]
    for part in parts:
        part.put(ctx.current.id, "whole")
    return Commit(Pause(ctx), *(Delay(part, "part", after=NOW) for part in parts))


@flows.flow
async def part(ctx: StateContext, engine: Engine) -> Command:
    def count(whole: StateContext) -> list[Command]:  # Before it goes the work of one part.
        left = whole.get(int, "left") - 1
        whole.put(left, "left")
        return [End(ctx)] if left else [End(ctx), Delay(whole, "join", after=NOW)]

    await engine.update(ctx.get(str, "whole"), count)
    return Noop()


@flows.flow
async def join(ctx: StateContext, engine: Engine) -> Command:
    return Commit(End(ctx))


async def demo(engine: Engine) -> list[str]:
    """Fork one state into three parts and join them."""
    await begin(engine, State("build", labels={"kind": "whole"}), "fork")
    (whole,) = await reached(engine, {"kind": "whole"}, 1)
    return [f"{whole.id}: {whole.status}, {whole.get(int, 'left')} parts left"]
