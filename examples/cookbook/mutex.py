"""Mutex: one state at a time is in ``protected``; the others stand in line, paused.

The lock is a state too. Whoever changes who holds it, or joins the line, writes a new revision
of it, so two of them can never decide on the same view.
"""

from examples.cookbook.helpers import reached
from flowstate import (
    Command,
    Commit,
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
    Status,
    Transit,
)

LOCK = "printer"
LINE = {"waits for": LOCK}
flows = FlowRegistry()


@flows.flow("acquire")
async def acquire(ctx: StateContext, engine: Engine) -> Command[None]:
    lock = StateContext(await engine.get_state(LOCK))
    is_held = "holder" in lock.current.annotations
    if is_held:
        step = Commit(Pause(lock), Transit(ctx, "protected"), Pause(ctx))
    else:
        lock.set_annotation("holder", ctx.current.id)
        step = Commit(Pause(lock), Transit(ctx, "protected"))
    ctx.set_label("waits for", LOCK if is_held else None)
    return await settle(step, ctx, engine)


@flows.flow("protected")
async def protected(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(Transit(ctx, "release"))  # Here goes what only one may do at a time.


@flows.flow("release")
async def release(ctx: StateContext, engine: Engine) -> Command[None]:
    lock = StateContext(await engine.get_state(LOCK))
    line = engine.states(labels=LINE, status=Status.PAUSED, latest_only=True)
    first = await anext(line, None)
    if first is None:
        lock.set_annotation("holder", None)
        return await settle(Commit(End(ctx), Pause(lock)), ctx, engine)
    heir = StateContext(first)
    heir.set_label("waits for", None)
    lock.set_annotation("holder", first.id)
    return await settle(Commit(End(ctx), Pause(lock), Resume(heir)), ctx, engine, heir)


async def settle(
    step: Commit, ctx: StateContext, engine: Engine, following: StateContext | None = None
) -> Command[None]:
    """Do ``step``; look again when another state was faster."""
    try:
        await engine.do(step)
    except RevisionMismatchError as lost:
        return Noop() if ctx.current.id in lost.ids else Execute(ctx)
    following = following or ctx
    return Execute(following) if following.current.status is Status.ACTIVE else Noop()


async def demo(engine: Engine) -> list[str]:
    """Send three workers through one lock."""
    for ctx in [StateContext(State(LOCK)), *map(worker, ("anna", "ben", "cleo"))]:
        is_lock = ctx.current.id == LOCK
        try:
            await engine.do(Commit(Pause(ctx) if is_lock else Transit(ctx, "acquire")))
        except RevisionMismatchError:
            continue  # An earlier run has made it.
        if not is_lock:
            await engine.do(Execute(ctx))
    return [f"{state.id}: {state.status}" for state in await reached(engine, {"kind": "worker"}, 3)]


def worker(id: str) -> StateContext:
    return StateContext(State(id, labels={"kind": "worker"}))
