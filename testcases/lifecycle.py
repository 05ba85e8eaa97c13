"""An engine opens, stops and leaves nothing behind; it executes only what it can."""

import asyncio
from typing import Any

from flowstate.commands import Check, Command, Commit, End, Execute, Noop, Pause, Transit
from flowstate.context import StateContext
from flowstate.driver import Seen
from flowstate.engine import Engine
from flowstate.errors import (
    DriverClosedError,
    EngineStoppedError,
    InvalidCommandError,
    UnknownFlowError,
)
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, know, raised, snapshot

__all__ = ["CASES"]


@case()
async def engine_that_is_not_open(h: Harness) -> None:
    """G14: an engine before, after, and a second time is refused."""
    know(h, "work")
    engine = h.make_engine()
    ctx = h.ctx("a", "work")

    async def is_refused() -> None:
        for command in (Commit(End(ctx)), Transit(ctx, "work"), Execute(ctx), Noop()):
            await raised(EngineStoppedError, engine.do, command)
        await raised(EngineStoppedError, engine.execute, ctx)
        await raised(EngineStoppedError, engine.get_state, "a")

    await is_refused()
    async with engine:
        await raised(EngineStoppedError, engine.__aenter__)
        await engine.execute(ctx)
    await is_refused()
    await raised(EngineStoppedError, engine.__aenter__)
    check(len(await h.log()), 1, "revisions")


@case("shared")
async def driver_that_is_not_open(h: Harness) -> None:
    """G14: a driver that was closed refuses to be used; one with users left does not."""
    async with h.other_driver() as driver:
        async with h.make_engine(driver):
            pass
        seen = await driver.changed(Seen())
        check(seen.head, 0, "head while there is a user left")
    await raised(DriverClosedError, driver.changed, Seen())
    await raised(DriverClosedError, driver.get_state, "a")
    await raised(DriverClosedError, driver.commit, [])


@case()
async def flow_that_cannot_run_here(h: Harness) -> None:
    """G14: a state whose flow is unknown or only declared is not executed, nor changed."""
    for flow in ("removed", "declared"):
        ctx = await committed(h, flow, to=flow)
        h.flows.unset(flow)
        if flow == "declared":
            h.flows.declare(flow)
        before = snapshot(ctx)
        error = await raised(UnknownFlowError, h.engine.execute, ctx)
        check(error.flow, flow, "flow in the error")
        await raised(UnknownFlowError, h.engine.do, Execute(ctx))
        check(snapshot(ctx), before, "context")
    ctx = h.ctx("a")
    await h.engine.do(Commit(Transit(ctx, "declared")))
    check(ctx.committed.rev, 3, "revision of a state that was sent to a declared flow")


@case()
async def flow_that_returns_nonsense(h: Harness) -> None:
    """G14: what a flow must not return is refused, and the state stays as it was committed."""
    wrong: list[Any] = [None, "end", [], State("a"), Check(h.ctx("a")), Commit]
    for n, returned in enumerate(wrong):

        def nonsense(ctx: StateContext, engine: Engine, returned: Any = returned) -> Any:
            return returned

        h.flows.set(f"flow-{n}", nonsense)
        ctx = h.ctx(f"s-{n}")
        await h.engine.do(Commit(Transit(ctx, f"flow-{n}")))
        error = await raised(InvalidCommandError, h.engine.execute, ctx)
        check(error.field, "command", f"field for {returned!r}")
        check(await h.engine.get_state(f"s-{n}"), ctx.committed, "state")
    check(await h.engine.head(), len(wrong), "head")


@case()
async def only_active_states_are_executed(h: Harness) -> None:
    """G14: a paused or ended state is not executed."""
    for step in (Pause, End):
        ctx = await committed(h, step.__name__)
        await h.engine.do(Commit(step(ctx)))
        error = await raised(InvalidCommandError, h.engine.execute, ctx)
        check(error.field, "ctx", "field")
        await raised(InvalidCommandError, h.engine.do, Execute(ctx))


@case()
async def stop_waits_for_executions(h: Harness) -> None:
    """G5: an engine that stops lets running flows finish, and forgets those that wait."""

    @h.flows.flow("polite")
    async def polite(ctx: StateContext, engine: Engine) -> Command[None]:
        check(ctx.stopping, False, "stopping at first")
        h.visit(ctx.current.id)
        await ctx.wait_stopping()
        check(ctx.stopping, True, "stopping in the end")
        await raised(EngineStoppedError, engine.do, Execute(h.ctx("late", "polite")))
        return Commit(End(ctx))

    engine = h.make_engine(max_executions=2, shutdown_timeout=30.0)
    async with engine:
        for n in range(3):
            await engine.do(Execute(h.ctx(f"s-{n}", "polite")))
        await h.until(lambda visits: len(visits) == 2)
    check(h.visits, ["s-0", "s-1"], "visits")
    ended = [(s.id, s.status) for s in await h.log()]
    check(sorted(ended), [("s-0", Status.ENDED), ("s-1", Status.ENDED)], "log")


@case()
async def stop_cancels_executions(h: Harness) -> None:
    """G9: an engine that stops cancels flows that do not end, and leaves their states."""

    @h.flows.flow("endless")
    async def endless(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("begun")
        try:
            await asyncio.Event().wait()
        finally:
            h.visit("cancelled")
        return Noop()

    ctx = h.ctx("a")
    await h.engine.do(Commit(Transit(ctx, "endless")))
    async with h.make_engine(shutdown_timeout=0.01) as engine:
        await engine.do(Execute(ctx))
        await h.visited("begun")
    check(h.visits, ["begun", "cancelled"], "visits")
    check(await h.log(), [ctx.committed], "log")


CASES: tuple[Case, ...] = (
    engine_that_is_not_open,
    driver_that_is_not_open,
    flow_that_cannot_run_here,
    flow_that_returns_nonsense,
    only_active_states_are_executed,
    stop_waits_for_executions,
    stop_cancels_executions,
)
