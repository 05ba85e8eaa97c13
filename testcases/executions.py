"""Executions are bounded, and end, fail or go on without disturbing others."""

import asyncio
import threading
from typing import Any

from flowstate.commands import Command, Commit, End, Execute, Noop, Pause, Transit
from flowstate.context import StateContext
from flowstate.engine import Engine, Flow
from flowstate.errors import (
    EngineOverloadedError,
)
from flowstate.state import Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.logs import errors_logged
from flowstate.testcases.support import committed, know, raised, snapshot

__all__ = ["CASES"]


@case()
async def background_execution_takes_a_copy(h: Harness) -> None:
    """G3: a background execution leaves the context of its caller alone."""
    know(h, "work")
    ctx = await committed(h, "a")
    before = snapshot(ctx)
    await h.engine.do(Execute(ctx))
    async with h.engine.watch(status=Status.ENDED) as ended:
        await anext(ended)
    check(snapshot(ctx), before, "context")


@case()
async def background_executions_are_bounded(h: Harness) -> None:
    """G13: at most ``max_executions`` run at once, the others wait their turn."""
    running = peak = 0
    go = asyncio.Event()

    @h.flows.flow("slow")
    async def slow(ctx: StateContext, engine: Engine) -> Command[None]:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        h.visit("begun")
        await go.wait()
        running -= 1
        h.visit("done")
        return Noop()

    async with h.make_engine(max_executions=3) as engine:
        for n in range(10):
            await engine.do(Execute(h.ctx(f"s-{n}", "slow")))
        await h.visited("begun", "begun", "begun")
        go.set()
        await h.until(lambda visits: visits.count("done") == 10)
    check(peak, 3, "executions at once")


@case()
async def pending_executions_are_bounded(h: Harness) -> None:
    """G13: with ``max_pending`` waiting, a caller waits for room, and a flow is told."""
    go = asyncio.Event()

    @h.flows.flow("slow")
    async def slow(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("begun")
        await go.wait()
        return Noop()

    @h.flows.flow("greedy")
    async def greedy(ctx: StateContext, engine: Engine) -> Command[None]:
        for n in range(2):
            await engine.do(Execute(h.ctx(f"greedy-{n}", "slow")))
        await raised(EngineOverloadedError, engine.do, Execute(h.ctx("too many", "slow")))
        h.visit("told")
        await go.wait()
        return Noop()

    async with h.make_engine(max_executions=1, max_pending=2) as engine:
        await engine.do(Execute(h.ctx("greedy", "greedy")))
        await h.visited("told")
        waiting = asyncio.ensure_future(engine.do(Execute(h.ctx("outside", "slow"))))
        await asyncio.wait([waiting], timeout=0)
        check(waiting.done(), False, "whether there was room")
        go.set()
        await waiting
        await h.visited("told", "begun", "begun", "begun")


@case(real_time=True)
async def blocking_flows_do_not_block(h: Harness) -> None:
    """G12: blocking flows run in threads, while the event loop goes on."""
    free, met = threading.Event(), threading.Barrier(2)

    @h.flows.flow("blocking", blocking=True)
    def blocking(ctx: StateContext, engine: Engine) -> Command[None]:
        met.wait(10)
        check(free.wait(10), True, "whether the event loop went on")
        return Commit(Transit(ctx, "after"))

    @h.flows.flow("after")
    def after(ctx: StateContext, engine: Engine) -> Command[None]:
        in_loop = threading.current_thread() is threading.main_thread()
        h.visit("in the event loop" if in_loop else "in a thread")
        return Commit(End(ctx))

    async with h.make_engine(blocking_threads=2) as engine:
        for id in ("a", "b"):
            await engine.do(Execute(h.ctx(id, "blocking")))
        await engine.do(Commit(Pause(h.ctx("meanwhile"))))
        free.set()
        await h.until(lambda visits: len(visits) == 2)
    check(set(h.visits), {"in the event loop"}, "where the plain flow ran")
    check((await h.log())[0].id, "meanwhile", "what was committed first")


@case(real_time=True)
async def blocking_flows_are_bounded(h: Harness) -> None:
    """G13: at most ``blocking_threads`` blocking flows run at once."""
    lock = threading.Lock()
    running = peak = 0
    gone = threading.Event()

    @h.flows.flow("blocking", blocking=True)
    def blocking(ctx: StateContext, engine: Engine) -> Command[None]:
        nonlocal running, peak
        with lock:
            running += 1
            peak = max(peak, running)
        gone.wait(0.01)
        with lock:
            running -= 1
        return Commit(End(ctx))

    async with h.make_engine(blocking_threads=2) as engine:
        for n in range(8):
            await engine.do(Execute(h.ctx(f"s-{n}", "blocking", labels={"b": "1"})))
        async with engine.watch(labels={"b": "1"}) as ended:
            for _ in range(8):
                await anext(ended)
    check(peak, 2, "blocking flows at once")


@case()
async def failing_flow(h: Harness) -> None:
    """G12: what a flow raises is raised by ``execute``, and the state stays as committed."""

    @h.flows.flow("failing")
    async def failing(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Commit(Transit(ctx, "failing", {"step": "committed"})))
        await engine.do(Transit(ctx, "failing", {"step": "not committed"}))
        raise ArithmeticError("on purpose")

    @h.flows.flow("failing thread", blocking=True)
    def failing_thread(ctx: StateContext, engine: Engine) -> Command[None]:
        raise ArithmeticError("on purpose")

    await raised(ArithmeticError, h.engine.execute, h.ctx("a", "failing"))
    found = await h.engine.get_state("a")
    check(found.transition.annotations, {"step": "committed"}, "annotations")
    check((found.status, await h.engine.head()), (Status.ACTIVE, 1), "status and head")
    await raised(ArithmeticError, h.engine.execute, h.ctx("b", "failing thread"))


@case()
async def failing_background_execution(h: Harness) -> None:
    """G12: what a flow raises in the background is logged with the id of the state, once."""

    @h.flows.flow("failing")
    async def failing(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(ctx.current.id)
        raise ArithmeticError("on purpose")

    know(h, "work")
    with errors_logged() as errors:
        async with h.make_engine() as engine:
            await engine.do(Execute(h.ctx("bad", "failing")), Execute(h.ctx("good", "work")))
            async with engine.watch(status=Status.ENDED) as ended:
                check((await anext(ended)).id, "good", "the execution that did not fail")
    found = [(getattr(r, "state_id", None), r.exc_info and r.exc_info[0]) for r in errors]
    check(found, [("bad", ArithmeticError)], "logged errors")


@case()
async def lost_race_ends_quietly(h: Harness) -> None:
    """G2: a flow whose returned commit lost a race ends, and the winner's state stays."""

    @h.flows.flow("racing")
    async def racing(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("racing")
        await engine.do(Commit(Pause(ctx.copy())))
        return Commit(Transit(ctx, "racing"))

    ctx = h.ctx("a")
    await h.engine.do(Commit(Transit(ctx, "racing")))
    with errors_logged() as errors:
        await h.engine.execute(ctx)
    check((h.visits, errors), (["racing"], []), "visits and logged errors")
    check([s.status.value for s in await h.log()], ["active", "paused"], "log")


def _returning(h: Harness, command: str) -> Flow:
    def flow(ctx: StateContext, engine: Engine) -> Command[Any]:
        h.visit(command)
        other = h.ctx("other", "last")
        commands: dict[str, Command[Any]] = {
            "Noop": Noop(),
            "Pause": Pause(ctx),
            "End": Commit(End(ctx)),
            "Transit": Transit(ctx, "last"),
            "Execute": Execute(other),
            "other": Commit(Transit(other, "last")),
        }
        return commands[command]

    return flow


@case()
async def what_goes_on(h: Harness) -> None:
    """G5: an execution goes on after a transit of its own state, or with what it executes."""
    h.flows.set("last", _returning(h, "Noop"))
    table = {
        "Noop": ["Noop"],
        "Pause": ["Pause"],
        "End": ["End"],
        "Transit": ["Transit", "Noop"],
        "Execute": ["Execute", "Noop"],
        "other": ["other"],
    }
    for command, visits in table.items():
        h.flows.set(command, _returning(h, command))
        h.visits.clear()
        await h.engine.execute(h.ctx(f"returns {command}", command))
        check(h.visits, visits, f"visits after a flow returned {command}")


@case()
async def endless_flow_starves_nobody(h: Harness) -> None:
    """G12: a state that goes round without an end leaves room for all others."""
    done = asyncio.Event()

    @h.flows.flow("round")
    def go_round(ctx: StateContext, engine: Engine) -> Command[None]:
        return Noop() if done.is_set() else Transit(ctx, "round")

    know(h, "work")
    await h.engine.do(Execute(h.ctx("endless", "round")))
    for n in range(10):
        await h.engine.execute(h.ctx(f"s-{n}", "work"))
    done.set()
    check(await h.engine.head(), 10, "head")


CASES: tuple[Case, ...] = (
    background_execution_takes_a_copy,
    background_executions_are_bounded,
    pending_executions_are_bounded,
    blocking_flows_do_not_block,
    blocking_flows_are_bounded,
    failing_flow,
    failing_background_execution,
    lost_race_ends_quietly,
    what_goes_on,
    endless_flow_starves_nobody,
)
