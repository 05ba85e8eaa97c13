"""What a state waits for is explained."""

import asyncio
from datetime import timedelta

from flowstate import recovery
from flowstate.commands import (
    Command,
    Commit,
    Delay,
    End,
    Execute,
    Noop,
    Pause,
    Resume,
    SetTimer,
    Transit,
)
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.driver import Heartbeat
from flowstate.engine import Engine
from flowstate.errors import StateNotFoundError
from flowstate.mailboxes.receiving import Receive
from flowstate.recovery import Recoverer
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, know, raised

__all__ = ["CASES"]


@case()
async def explanations(h: Harness) -> None:
    """G11: what a state waits for is explained."""
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

    await raised(StateNotFoundError, recovery.explain, h.engine, "unknown")
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


async def _why(h: Harness, id: str) -> tuple[str, str]:
    found = await recovery.explain(h.engine, id)
    return found.why, found.text


@case()
async def explanations_of_delays(h: Harness) -> None:
    """G11: a delay is what explains a paused state as well, before it is due and after."""
    know(h, "expired")
    for id, after in (("later", timedelta(hours=1)), ("due", timedelta(0))):
        ctx = h.ctx(id)
        await h.engine.do(Commit(Pause(ctx), Delay(ctx, "expired", after=after)))
    await h.clock.sleep(0.01)
    for id, expected in (("later", "delayed"), ("due", "overdue")):
        why, text = await _why(h, id)
        check((why, "expired" in text), (expected, True), f"{id}: {text}")


@case()
async def explanations_of_unknown_flows(h: Harness) -> None:
    """G11: a flow that this engine does not have is told, of what stalls and of what is due."""
    know(h, "gone", "stays")
    await h.engine.do(Commit(Delay(h.ctx("due"), "gone", after=timedelta(0))))
    for id, beats in (("silent", False), ("kept", True)):
        ctx = h.ctx(id)
        recovery.set_retry_after(ctx, timedelta(milliseconds=20))
        await h.engine.do(Commit(Transit(ctx, "gone")))
        if beats:
            await h.driver.beat([Heartbeat(id, ctx.committed.rev, 0.0, "")])
    h.flows.unset("gone")
    h.flows.declare("gone")
    await h.clock.sleep(0.05)
    async with Delayer(h.engine), Recoverer(h.engine, lease=1.0, poll_interval=0.05):
        for id in ("silent", "kept", "due"):
            why, text = await _why(h, id)
            while id == "due" and why == "overdue":  # Until the delayer has looked.
                await h.clock.sleep(0.05)
                why, text = await _why(h, id)
            check((why, "gone" in text), ("unknown flow", True), f"{id}: {text}")


@case()
async def explanations_of_superseded_executions(h: Harness) -> None:
    """G11: an execution here that goes on from an older revision is told, and only that."""
    started, go_on = asyncio.Event(), asyncio.Event()

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        started.set()
        await go_on.wait()
        return Noop()

    ctx = await committed(h, "a", to="work")
    await h.engine.do(Execute(ctx))
    await started.wait()
    check((await recovery.explain(h.engine, "a")).superseded, False, "before")
    await h.engine.do(Commit(Pause(StateContext(ctx.committed))))
    found = await recovery.explain(h.engine, "a")
    check((found.why, found.superseded), ("paused", True), "after")
    check("is superseded" in found.text, True, found.text)
    go_on.set()
    await h.engine.idle()
    check((await recovery.explain(h.engine, "a")).superseded, False, "in the end")


@case()
async def explanations_of_starts_signals_and_timers(h: Harness) -> None:
    """G11: as the core writes them."""
    know(h, "work", "paid")
    await h.engine.start(h.ctx("elsewhere"), "work", elsewhere=True)
    waiting = h.ctx("waiting")
    alarm = SetTimer(waiting, "alarm", "work", after=timedelta(hours=1))
    await h.engine.do(Commit(Receive(waiting, "paid", to="paid"), alarm))
    await h.engine.signal("waiting", "other")
    await h.clock.sleep(0.01)
    found = await recovery.explain(h.engine, "elsewhere")
    check((found.why, "'work'" in found.text), ("started", True), found.text)
    found = await recovery.explain(h.engine, "waiting")
    check((found.why, found.signals, found.to), ("waiting", ("paid",), "paid"), found.text)
    (timer,) = found.timers
    check((timer.name, timer.to), ("alarm", "work"), "timer")
    check(timer.due, found.state.timer_due("alarm"), "when it fires")
    check("kept for it: 1" in found.text, True, found.text)


CASES: tuple[Case, ...] = (
    explanations,
    explanations_of_delays,
    explanations_of_unknown_flows,
    explanations_of_superseded_executions,
    explanations_of_starts_signals_and_timers,
)
