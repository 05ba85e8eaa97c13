"""Call and return: the caller pauses and travels inside the callee, which resumes it."""

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
    Stack,
    State,
    StateContext,
    Transit,
    Unstack,
)

flows = FlowRegistry()


@flows.flow("call")
async def call(ctx: StateContext, engine: Engine) -> Command[None]:
    if ctx.resumed:
        ctx.set_annotation("result", ctx.current.transition.annotations["result"])
        return Commit(End(ctx))
    callee = StateContext(State(f"{ctx.current.id}/double", annotations={"number": "21"}))
    start = Delay(callee, "double", after=timedelta(0))
    return Commit(Pause(ctx), Stack(callee, ctx, "caller"), start)


@flows.flow("double")
async def double(ctx: StateContext, engine: Engine) -> Command[None]:
    result = {"result": str(2 * int(ctx.current.annotations["number"]))}
    caller = StateContext(State("caller"))  # Unstack makes it the one that was stacked.
    try:
        await engine.do(Commit(Unstack(ctx, caller, "caller"), Resume(caller, result), End(ctx)))
    except RevisionMismatchError as lost:
        # This state has returned already, or nobody waits for its result any more.
        return Noop() if ctx.current.id in lost.ids else Commit(End(ctx))
    return Execute(caller)


async def demo(engine: Engine) -> list[str]:
    """Call a flow and use what it returns."""
    ctx = StateContext(State("sum", labels={"kind": "caller"}))
    with contextlib.suppress(RevisionMismatchError):
        await engine.do(Commit(Transit(ctx, "call")), Execute(ctx))
    (caller,) = await reached(engine, {"kind": "caller"}, 1)
    return [f"{caller.id}: {caller.annotations['result']}"]
