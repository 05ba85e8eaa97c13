"""Mutex: one state at a time is in ``protected``; the others stand in line, paused.

The line is a value of the lock, the holder first.
"""

import contextlib
from datetime import timedelta

from examples.cookbook.helpers import begin, reached
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
    Put,
    RevisionMismatchError,
    State,
    StateContext,
    Status,
    Transit,
)

LOCK = "printer"
flows = FlowRegistry()


@flows.flow
async def acquire(ctx: StateContext, engine: Engine) -> Command:
    def join(lock: StateContext) -> list[Command]:
        line = lock.get(list[str])
        lock.put([*line, ctx.current.id])
        return [Transit(ctx, "protected"), Pause(ctx)] if line else [Transit(ctx, "protected")]

    await engine.update(LOCK, join)
    return Execute(ctx) if ctx.current.status is Status.ACTIVE else Noop()


@flows.flow
async def protected(ctx: StateContext, engine: Engine) -> Command:
    async def hand_over(lock: StateContext) -> list[Command]:
        _, *line = lock.get(list[str])
        lock.put(line)
        if not line:
            return [End(ctx)]
        heir = StateContext(await engine.get_state(line[0]))
        return [End(ctx), Delay(heir, "protected", after=timedelta(0))]

    # Before it goes what only one may do at a time.
    await engine.update(LOCK, hand_over)
    return Noop()


async def open_lock(engine: Engine) -> None:
    lock = StateContext(State(LOCK))
    lock.put([])
    with contextlib.suppress(RevisionMismatchError):
        await engine.do(Commit(Put(lock)))


async def demo(engine: Engine) -> list[str]:
    """Send three workers through one lock."""
    await open_lock(engine)
    for id in ("anna", "ben", "cleo"):
        await begin(engine, State(id, labels={"kind": "worker"}), "acquire")
    return [f"{state.id}: {state.status}" for state in await reached(engine, {"kind": "worker"}, 3)]
