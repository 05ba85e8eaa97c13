"""Fork and join: parts run at the same time, and the last one to finish resumes the whole.

A part ends and is counted in one commit, so it is counted once.
"""

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
    Noop,
    Pause,
    Resume,
    RevisionMismatchError,
    State,
    StateContext,
    Transit,
)

PARTS = 3
flows = FlowRegistry()


@flows.flow("fork")
async def fork(ctx: StateContext, engine: Engine) -> Command[None]:
    parts = [StateContext(State(f"{ctx.current.id}/{n}")) for n in range(PARTS)]
    for part in parts:
        part.set_annotation("whole", ctx.current.id)
    ctx.set_annotation("left", str(PARTS))
    starts = [Delay(part, "part", after=timedelta(0)) for part in parts]
    return Commit(Transit(ctx, "joined"), Pause(ctx), *starts)


@flows.flow("part")
async def part(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(Transit(ctx, "join"))  # Here goes the work of one part.


@flows.flow("join")
async def join(ctx: StateContext, engine: Engine) -> Command[None]:
    whole = StateContext(await engine.get_state(ctx.current.annotations["whole"]))
    left = int(whole.current.annotations["left"]) - 1
    whole.set_annotation("left", str(left))
    try:
        await engine.do(Commit(End(ctx), Pause(whole) if left else Resume(whole)))
    except RevisionMismatchError as lost:
        # Either this part is counted already, or another part was faster.
        return Noop() if ctx.current.id in lost.ids else Execute(ctx)
    return Noop() if left else Execute(whole)


@flows.flow("joined")
async def joined(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))


async def demo(engine: Engine) -> list[str]:
    """Fork one state into three parts and join them."""
    ctx = StateContext(State("build", labels={"kind": "whole"}))
    with contextlib.suppress(RevisionMismatchError):
        await engine.do(Commit(Transit(ctx, "fork")), Execute(ctx))
    (whole,) = await reached(engine, {"kind": "whole"}, 1)
    return [f"{whole.id}: {whole.status}, {whole.annotations['left']} parts left"]
