"""Whatever a state waits for is explained."""

import asyncio
from datetime import timedelta

from flowstate import recovery
from flowstate.commands import Command, Commit, Delay, End, Execute, Pause, Resume, Transit
from flowstate.context import StateContext
from flowstate.engine import Engine
from flowstate.errors import StateNotFoundError
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, raised

__all__ = ["CASES"]


@case()
async def explanations(h: Harness) -> None:
    """G11: whatever a state waits for is explained."""
    started = asyncio.Event()

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        if ctx.current.id == "failing":
            raise ValueError("no luck")
        started.set()
        await h.clock.sleep(1.0)
        return Commit(End(ctx))

    async def why(id: str) -> str:
        found = await recovery.explain(h.engine, id)
        check(found.state.id, id, "state")
        check(bool(found.text), True, "words")
        return found.why

    await raised(StateNotFoundError, recovery.explain, h.engine, "nobody")
    fresh = await committed(h, "fresh", to="work")
    check(await why("fresh"), "fresh", "fresh")
    await h.engine.do(Commit(Pause(fresh)))
    check(await why("fresh"), "paused", "paused")
    await h.engine.do(Commit(End(fresh)))
    check(await why("fresh"), "ended", "ended")
    await h.engine.do(Commit(Delay(h.ctx("later"), "work", after=timedelta(hours=1))))
    check(await why("later"), "delayed", "delayed")
    await h.engine.do(Commit(Delay(h.ctx("due"), "work", after=timedelta(0))))
    await h.clock.sleep(0.01)
    check(await why("due"), "overdue", "overdue")
    await h.engine.do(Commit(Resume(h.ctx("unsent"))))
    check(await why("unsent"), "unsent", "unsent")
    off = h.ctx("off")
    recovery.disable(off)
    await h.engine.do(Commit(Transit(off, "work")))
    check(await why("off"), "disabled", "disabled")
    stalled = h.ctx("stalled")
    recovery.set_retry_after(stalled, timedelta(milliseconds=250))
    await h.engine.do(Commit(Transit(stalled, "work")))
    running = h.ctx("running")
    recovery.set_retry_after(running, timedelta(seconds=3))
    await h.engine.do(Commit(Transit(running, "work")))
    await h.clock.sleep(1.1)
    check(await why("stalled"), "stalled", "stalled")
    failing = h.ctx("failing")
    await h.engine.do(Commit(Transit(failing, "work")), Execute(failing))
    while await why("failing") != "failed":
        await h.clock.sleep(0.01)
    found = await recovery.explain(h.engine, "failing")
    check((found.error, found.engine), ("ValueError: no luck", h.engine.name), "why it failed")
    await h.engine.do(Execute(StateContext(await h.engine.get_state("running"))))
    await started.wait()
    check(await why("running"), "executing", "executing")
    found = await recovery.explain(h.engine, "running")
    check(found.engine, h.engine.name, "by whom")
    await h.engine.idle()


CASES: tuple[Case, ...] = (explanations,)
