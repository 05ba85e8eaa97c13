"""Delays belong to a revision: they fire, or the state moves on first, and never both."""

from datetime import timedelta

from flowstate.commands import Command, Commit, Delay, End, Execute, Noop, Pause, Transit
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.engine import Engine
from flowstate.errors import RevisionMismatchError
from flowstate.state import Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import (
    committed,
    contents,
    delays_of,
    raised,
    snapshot,
    take,
    visiting,
)

__all__ = ["CASES"]

SOON = timedelta(milliseconds=50)
DAY = timedelta(days=1)
DAYS = timedelta(days=3)


async def _delays_itself(h: Harness, how: str) -> None:
    """Let a flow delay itself in one of four ways, and look where it goes."""
    visiting(h, "second")

    @h.flows.flow("first")
    async def first(ctx: StateContext, engine: Engine) -> Command[None]:
        if ctx.delayed:
            h.visit("first, delayed")
            return Commit(Transit(ctx, "second"))
        h.visit("first")
        delay = Delay(ctx, "first", after=SOON)
        match how:
            case "returned":
                return delay
            case "with a commit":
                return Commit(delay)
            case "with a pause":
                return Commit(Pause(ctx), delay)
        await engine.do(delay)
        return Noop()

    ctx = h.ctx("delayed", labels={"kind": "delayed"})
    await h.engine.do(Commit(Transit(ctx, "first")))
    async with Delayer(h.engine), h.engine.watch(labels={"kind": "delayed"}) as states:
        await h.engine.execute(ctx)
        async for state in states:
            if state.status is Status.ENDED:
                break
    check(h.visits, ["first", "first, delayed", "second"], "visits")
    log, delayed = await contents(h)
    check(delayed, [], "delays")
    fired = [s for s in log if s.transition.cause == "delay"]
    check([s.transition.to for s in fired], ["first"], "steps made by a delay")


@case()
async def delay_returned(h: Harness) -> None:
    """G10: a flow returns a delay to itself, which fires once."""
    await _delays_itself(h, "returned")


@case()
async def delay_done_by_the_engine(h: Harness) -> None:
    """G10: a flow has the engine do a delay to itself, which fires once."""
    await _delays_itself(h, "by the engine")


@case()
async def delay_with_commit(h: Harness) -> None:
    """G10: a flow commits a delay to itself, which fires once."""
    await _delays_itself(h, "with a commit")


@case()
async def delay_with_pause(h: Harness) -> None:
    """G10: a delay makes a state active again that was paused with it."""
    await _delays_itself(h, "with a pause")


@case()
async def delay_fires_before_a_slow_commit(h: Harness) -> None:
    """G10: when a delay fires before the flow commits, the flow has lost, quietly."""
    visiting(h, "second", "third")

    @h.flows.flow("first")
    async def first(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Delay(ctx, "second", after=SOON))
        await h.visited("second")
        return Commit(Transit(ctx, "third"))

    ctx = h.ctx("delayed")
    await h.engine.do(Commit(Transit(ctx, "first")))
    async with Delayer(h.engine):
        await h.engine.execute(ctx)
    check(h.visits, ["second"], "visits")


@case()
async def commit_before_a_delay_fires(h: Harness) -> None:
    """G10: when a state moves on before its delay fires, the delay is gone and never fires."""
    visiting(h, "second", "third")

    @h.flows.flow("first")
    async def first(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Delay(ctx, "second", after=4 * SOON))
        return Commit(Transit(ctx, "third"))

    ctx = h.ctx("delayed")
    await h.engine.do(Commit(Transit(ctx, "first")))
    async with Delayer(h.engine):
        await h.engine.execute(ctx)
        check(await delays_of(h), [], "delays")
        await h.clock.sleep(6 * SOON.total_seconds())
    check(h.visits, ["third"], "visits")


async def _with_timeout(h: Harness, seconds: float) -> None:
    """Commit a state with a timeout of a second, and execute it at once."""
    visiting(h, "timeout", "done")

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.clock.sleep(seconds)
        return Commit(Transit(ctx, "done"))

    ctx = h.ctx("limited")
    async with Delayer(h.engine):
        timeout = Delay(ctx, "timeout", after=timedelta(seconds=1))
        await h.engine.do(Commit(Transit(ctx, "work"), timeout))
        await h.engine.execute(ctx)
        await h.clock.sleep(2)


@case("fake_clock")
async def timeout_not_reached(h: Harness) -> None:
    """G10: a flow that is faster than its timeout goes on, and the timeout does not fire."""
    await _with_timeout(h, 0.9)
    check(h.visits, ["done"], "visits")


@case("fake_clock")
async def timeout_reached(h: Harness) -> None:
    """G10: a flow that is slower than its timeout has lost, and only the timeout goes on."""
    await _with_timeout(h, 1.1)
    check(h.visits, ["timeout"], "visits")


@case()
async def superseded_delays_vanish(h: Harness) -> None:
    """G10: a state that moves on, by any context, takes all its delays with it."""
    visiting(h, "late")
    left, moved = await committed(h, "left"), await committed(h, "moved")
    for ctx in (left, moved, left, moved):
        await h.engine.do(Delay(ctx, "late", after=DAY))
    check(len(await delays_of(h)), 4, "delays")
    await h.engine.do(Commit(Transit(moved, "work")))
    check([d.state.id for d in await delays_of(h)], ["left", "left"], "delays that are left")
    await h.engine.do(Commit(Delay(left, "late", after=DAY)))
    delayed = [(d.state.id, d.state.rev) for d in await delays_of(h)]
    check(delayed, [("left", 4)], "delay of the newest revision")


@case()
async def refused_commit_leaves_no_delay(h: Harness) -> None:
    """G1: the delays of a commit that is refused are not stored."""
    good, stale = await committed(h, "good"), await committed(h, "stale")
    await h.engine.do(Commit(Transit(stale.copy(), "work")))
    before, contexts = await contents(h), (snapshot(good), snapshot(stale))
    late = Delay(good, "work", after=DAY)
    await raised(RevisionMismatchError, lambda: h.engine.do(Commit(late, End(stale))))
    check(await contents(h), before, "contents of the store")
    check((snapshot(good), snapshot(stale)), contexts, "contexts")


@case()
async def delay_of_a_state_that_moved_on(h: Harness) -> None:
    """G2: a delay by itself is refused when its state is no longer the latest."""
    stale = await committed(h, "stale")
    await h.engine.do(Commit(Transit(stale.copy(), "work")))
    before = await contents(h)
    late = Delay(stale, "work", after=DAY)
    error = await raised(RevisionMismatchError, h.engine.do, late)
    check(error.ids, ("stale",), "mismatched ids")
    check(await contents(h), before, "contents of the store")


@case()
async def delay_of_a_state_never_committed(h: Harness) -> None:
    """G10: a state may be stored by its delay alone; firing makes its first revision."""
    visiting(h, "second")
    ctx = h.ctx("new", labels={"kind": "new"}, annotations={"note": "kept"})
    await h.engine.do(Delay(ctx, "second", after=SOON))
    check(await h.log(), [], "log before the delay fires")
    async with Delayer(h.engine), h.engine.watch(labels={"kind": "new"}) as states:
        first, last = await take(states, 2)
    check((first.id, first.rev, first.transition.to), ("new", 1, "second"), "first revision")
    check(last.annotations, {"note": "kept"}, "annotations")


@case()
async def first_of_several_delays_wins(h: Harness) -> None:
    """G10: of several delays of a revision the earliest fires, and the others go with it."""
    visiting(h, "first", "second", "third")
    ctx = h.ctx("delayed")
    late, soon = Delay(ctx, "second", after=DAY), Delay(ctx, "first", after=SOON)
    await h.engine.do(Commit(late, soon, Delay(ctx, "third", after=DAYS)))
    delayed = await delays_of(h)
    check(ctx.current.delayed_until, delayed[0].due, "delayed until the earliest")
    async with Delayer(h.engine):
        await h.visited("first")
    check(await delays_of(h), [], "delays")


@case()
async def execution_does_not_wait_for_a_delay(h: Harness) -> None:
    """G10: a delayed state that is executed on purpose moves on, and its delay is dropped."""
    visiting(h, "second", "work")
    ctx = await committed(h, "delayed", to="work")
    await h.engine.do(Commit(Delay(ctx, "second", after=DAY)))
    await h.engine.do(Execute(ctx))
    await h.visited("work")
    async with h.engine.watch(status=Status.ENDED) as ended:
        await anext(ended)
    check(await delays_of(h), [], "delays")


CASES: tuple[Case, ...] = (
    delay_returned,
    delay_done_by_the_engine,
    delay_with_commit,
    delay_with_pause,
    delay_fires_before_a_slow_commit,
    commit_before_a_delay_fires,
    timeout_not_reached,
    timeout_reached,
    superseded_delays_vanish,
    refused_commit_leaves_no_delay,
    delay_of_a_state_that_moved_on,
    delay_of_a_state_never_committed,
    first_of_several_delays_wins,
    execution_does_not_wait_for_a_delay,
)
