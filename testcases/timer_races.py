"""Timers against everything else that moves their state: flows, commits, delays, other timers."""

import asyncio
import contextlib
from collections import Counter
from datetime import UTC, datetime, timedelta

from flowstate.commands import (
    Command,
    Commit,
    Delay,
    End,
    Execute,
    Forget,
    Noop,
    Pause,
    SetTimer,
    Transit,
)
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.driver import Seen
from flowstate.engine import Engine
from flowstate.errors import (
    InvalidInputError,
    RevisionMismatchError,
)
from flowstate.ground.limits import MAX_TIMERS
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import (
    committed,
    delays_of,
    know,
    raised,
    snapshot,
    take,
)

__all__ = ["CASES"]

NOW = timedelta(0)
SOON = timedelta(milliseconds=50)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
PAST = datetime(2000, 1, 1, tzinfo=UTC)


def _rings(h: Harness, flow: str = "ring") -> None:
    """Register a flow that notes which timer has fired for which state, and ends it."""

    @h.flows.flow(flow)
    def ring(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"{ctx.current.id} {ctx.timer}")
        return Commit(End(ctx))


def _idles(h: Harness, flow: str = "ring") -> None:
    """Register a flow that does nothing."""

    @h.flows.flow(flow)
    def ring(ctx: StateContext, engine: Engine) -> Command[None]:
        return Noop()


async def _fired(h: Harness, state: str) -> list[State]:
    """Return the revisions of a state that timers have made."""
    return [s for s in await h.log() if s.id == state and s.transition.cause == "timer"]


@case()
async def timer_against_a_running_flow(h: Harness) -> None:
    """G10: a timer fires while a flow runs; the commit of that flow then loses its race."""
    _rings(h)
    errors: list[Exception] = []

    @h.flows.flow("slow")
    async def slow(ctx: StateContext, engine: Engine) -> Command[None]:
        await h.until(lambda visits: visits == ["job alarm"])
        errors.append(await raised(RevisionMismatchError, engine.do, Commit(Transit(ctx, "slow"))))
        return Commit(Transit(ctx, "slow"))

    ctx = h.ctx("job")
    alarm = SetTimer(ctx, "alarm", "ring", after=SOON)
    async with Delayer(h.engine):
        await h.engine.do(Commit(Transit(ctx, "slow"), alarm))
        await h.engine.execute(ctx)
        await h.engine.idle()
    check(len(errors), 1, "lost races")
    causes = [s.transition.cause for s in await h.log()]
    check(causes, ["transit", "timer", "end"], "causes in the log")


@case()
async def timers_of_a_busy_state(h: Harness) -> None:
    """G10: timers that lose races against commits of their state are tried again, and all fire."""
    names = [f"alarm-{n}" for n in range(8)]
    know(h, "work")
    _idles(h)
    ctx = await committed(h, "busy")
    await h.engine.do(Commit(*[SetTimer(ctx, name, "ring", after=SOON) for name in names]))
    commits = 0

    async def work() -> None:
        nonlocal commits
        while True:
            own = StateContext(await h.engine.get_state("busy"))
            await h.clock.sleep(0.001)
            with contextlib.suppress(RevisionMismatchError):
                await h.engine.do(Commit(Transit(own, "work")))
                commits += 1

    fired: list[str] = []
    async with h.engine.watch() as states, Delayer(h.engine, poll_interval=0.05):
        working = asyncio.ensure_future(work())
        while len(fired) < len(names) or not commits:
            state = await anext(states)
            fired += [StateContext(state).timer] * (state.transition.cause == "timer")
        working.cancel()
        await asyncio.wait([working])
    check(sorted(fired), names, "timers that have fired")


@case("shared")
async def timers_under_two_delayers(h: Harness) -> None:
    """G10: with two delayers on one store, each timer fires once."""
    _rings(h)
    know(h, "work")
    ids = [f"job-{n}" for n in range(60)]
    contexts = [h.ctx(id) for id in ids]
    await h.engine.do(Commit(*[Transit(ctx, "work") for ctx in contexts]))
    await h.engine.do(Commit(*[SetTimer(ctx, "alarm", "ring", after=NOW) for ctx in contexts]))
    async with (
        h.other_driver() as driver,
        h.make_engine(driver) as other,
        h.engine.watch(status=Status.ENDED) as ended,
        Delayer(h.engine, batch=10),
        Delayer(other, batch=10),
    ):
        await take(ended, len(ids))
        await other.idle()
    check(Counter(h.visits), Counter(f"{id} alarm" for id in ids), "how often each fired")
    check(await delays_of(h), [], "what is left")


@case()
async def as_many_timers_as_allowed(h: Harness) -> None:
    """G13: a state has at most 64 timers, and all of them fire."""
    _idles(h)
    ctx, names = await committed(h, "job"), [f"{n}" for n in range(MAX_TIMERS)]
    alarms = [SetTimer(ctx, name, "ring", after=SOON) for name in names]
    before = snapshot(ctx)
    one_more = SetTimer(ctx, "more", "ring", after=SOON)
    error = await raised(InvalidInputError, h.engine.do, Commit(*alarms, one_more))
    check((error.field, snapshot(ctx)), ("name", before), "the field, and the context after")
    again = SetTimer(ctx, "0", "ring", after=SOON)
    await h.engine.do(Commit(*alarms, again))
    check(len(await delays_of(h)), MAX_TIMERS, "timers")
    async with Delayer(h.engine), h.engine.watch(since_rev=ctx.committed.rev) as states:
        fired = [StateContext(state).timer for state in await take(states, MAX_TIMERS)]
    check(sorted(fired), sorted(names), "timers that have fired")
    check((await delays_of(h), (await h.engine.get_state("job")).timers), ([], {}), "what is left")


@case()
async def timers_and_delays_of_one_state(h: Harness) -> None:
    """G10: a timer ends the waiting of its state, and the delay goes with that."""
    _rings(h)
    know(h, "late")
    ctx = h.ctx("job")
    async with Delayer(h.engine), h.engine.watch(status=Status.ENDED) as ended:
        await h.engine.do(
            Commit(Delay(ctx, "late", after=HOUR), SetTimer(ctx, "alarm", "ring", after=SOON))
        )
        check(ctx.current.delayed_until is None, False, "whether it is delayed")
        await anext(ended)
    check((h.visits, await delays_of(h)), (["job alarm"], []), "visits and delays")
    (fired,) = await _fired(h, "job")
    check(fired.delayed_until, None, "delayed until")


@case()
async def timers_over_delays_that_fire(h: Harness) -> None:
    """G10: a delay that fires, committed or not, leaves the timers of its state as they were."""
    _rings(h)

    @h.flows.flow("late")
    def late(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(ctx.current.id)
        return Commit(Pause(ctx))

    due: dict[str, datetime | None] = {}
    async with Delayer(h.engine):
        for id, commit in (("committed", True), ("claimed", False)):
            ctx = h.ctx(id)
            alarm = SetTimer(ctx, "alarm", "ring", after=HOUR)
            await h.engine.do(Commit(alarm, Delay(ctx, "late", after=SOON, commit=commit)))
            due[id] = ctx.current.timer_due("alarm")
        await h.until(lambda visits: len(visits) == 2)
        await h.engine.idle()
        while [(await h.engine.get_state(id)).status for id in due] != [Status.PAUSED] * 2:
            await h.driver.changed(Seen())
            await h.clock.sleep(0.01)
    for id, at in due.items():
        check((await h.engine.get_state(id)).timer_due("alarm"), at, f"due, of what is {id}")
    rows = {row.state.id: (row.timer, row.due) for row in await delays_of(h)}
    check(rows, {id: ("alarm", at) for id, at in due.items()}, "rows")


@case()
async def timer_of_a_state_that_ended_and_goes_on(h: Harness) -> None:
    """G10: timers of an earlier life do not fire in a later one, under one id and one name."""
    _rings(h)
    ctx = await committed(h, "job")
    await h.engine.do(Commit(SetTimer(ctx, "alarm", "ring", after=SOON)))
    await h.engine.do(Commit(End(ctx), Forget(ctx)))
    again = await committed(h, "job")
    await h.engine.do(Commit(SetTimer(again, "alarm", "ring", after=HOUR)))
    async with Delayer(h.engine):
        await h.clock.sleep(0.2)
    check(h.visits, [], "visits")
    check([row.state for row in await delays_of(h)], [again.committed], "timers")
    executed = Execute(again)
    await h.engine.do(Commit(Transit(again, "ring")), executed)
    await h.engine.idle()
    check(await delays_of(h), [], "timers after the end")


CASES: tuple[Case, ...] = (
    timer_against_a_running_flow,
    timers_of_a_busy_state,
    timers_under_two_delayers,
    as_many_timers_as_allowed,
    timers_and_delays_of_one_state,
    timers_over_delays_that_fire,
    timer_of_a_state_that_ended_and_goes_on,
)
