"""Timers: alarms of a state that survive every commit, and fire once, at the latest revision."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from flowstate import recovery
from flowstate.commands import (
    CancelTimer,
    Command,
    Commit,
    Delay,
    End,
    Forget,
    Noop,
    Pause,
    Resume,
    SetTimer,
    Stack,
    Transit,
    Unstack,
)
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.engine import Engine
from flowstate.errors import (
    InvalidCommandError,
    InvalidInputError,
    UnknownFlowError,
)
from flowstate.recovery import Recoverer
from flowstate.state import State, Status, Timer
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import (
    committed,
    delays_of,
    know,
    raised,
    snapshot,
    stored,
    take,
    timer,
)
from flowstate.timers import timer_id
from flowstate.writes import Writes

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


async def _fired(h: Harness, state: str) -> list[State]:
    """Return the revisions of a state that timers have made."""
    return [s for s in await h.log() if s.id == state and s.transition.cause == "timer"]


@case("fake_clock")
async def timer_fires_when_it_is_due(h: Harness) -> None:
    """G10: a timer fires once, to the microsecond, whatever the state has done meanwhile."""
    _rings(h)
    know(h, "work")
    start, ctx = h.clock.now(), await committed(h, "job")
    await h.engine.do(Commit(SetTimer(ctx, "alarm", "ring", after=10 * SECOND)))
    async with Delayer(h.engine, poll_interval=3600.0), h.engine.watch(status=Status.ENDED) as done:
        for _ in range(4):
            await h.clock.sleep(2.0)
            check(ctx.current.timer_due("alarm"), start + 10 * SECOND, "when it is due")
            await h.engine.do(Commit(Transit(ctx, "work")))
        await h.engine.do(Commit(Pause(ctx)))
        await anext(done)
    (fired,) = await _fired(h, "job")
    check(fired.committed_at, start + 10 * SECOND, "when it fired")
    check(fired.transition.annotations, {"flowstate.timer": "alarm"}, "annotations")
    check((fired.status, fired.transition.to), (Status.ACTIVE, "ring"), "status and flow")
    check((fired.timers, await delays_of(h)), ({}, []), "timers that are left")
    check(h.visits, ["job alarm"], "visits")


@case()
async def timer_is_not_a_delay(h: Harness) -> None:
    """G10: a timer makes no state wait; the page of what is due names it, with the latest state."""
    _rings(h)
    ctx = await committed(h, "job")
    await h.engine.do(Commit(SetTimer(ctx, "alarm", "ring", after=HOUR)))
    await h.engine.do(Commit(Transit(ctx, "work")))
    (row,) = await delays_of(h)
    check((row.timer, row.to, row.due), ("alarm", "ring", ctx.current.timer_due("alarm")), "row")
    check((row.state, row.id), (ctx.committed, timer_id("job", "alarm")), "state and id of it")
    check(ctx.committed.delayed_until, None, "delayed until")
    (liveness,) = await h.driver.get_liveness(["job"])
    assert liveness is not None
    assert liveness.stalls_at is not None
    check(liveness.delay_due, None, "when a delay is due")
    check(liveness.stalls_at < row.due, True, "whether recovery comes before it")


@case()
async def timer_that_is_due_at_once(h: Harness) -> None:
    """G10: a timer until a time that has passed fires at once, also of a state that is paused."""
    _rings(h)
    know(h, "work")
    async with Delayer(h.engine), h.engine.watch(status=Status.ENDED) as ended:
        paused, active = h.ctx("paused"), h.ctx("active")
        past = SetTimer(paused, "alarm", "ring", until=PAST)
        await h.engine.do(Commit(Transit(paused, "work"), Pause(paused), past))
        await h.engine.do(
            Commit(SetTimer(active, "alarm", "ring", after=NOW), Transit(active, "work"))
        )
        await take(ended, 2)
    check(sorted(h.visits), ["active alarm", "paused alarm"], "visits")


@case("fake_clock")
async def timer_that_is_set_again(h: Harness) -> None:
    """G10: a timer that is set again fires at its new time only, later or earlier."""
    _rings(h)
    start, later, sooner = h.clock.now(), await committed(h, "later"), await committed(h, "sooner")
    for ctx in (later, sooner):
        await h.engine.do(Commit(SetTimer(ctx, "alarm", "ring", after=10 * SECOND)))
    async with Delayer(h.engine), h.engine.watch(status=Status.ENDED) as ended:
        await h.clock.sleep(5.0)
        await h.engine.do(Commit(SetTimer(later, "alarm", "ring", after=10 * SECOND)))
        await h.engine.do(Commit(SetTimer(sooner, "alarm", "ring", until=start + 7 * SECOND)))
        await take(ended, 2)
    times = [(await _fired(h, id))[0].committed_at for id in ("sooner", "later")]
    check(times, [start + 7 * SECOND, start + 15 * SECOND], "times")
    check(h.visits, ["sooner alarm", "later alarm"], "visits")


@case()
async def timers_that_never_fire(h: Harness) -> None:
    """G10: a timer goes with its cancellation, and with the end of its state."""
    _rings(h)
    know(h, "work")
    stop: dict[str, Callable[[StateContext], list[Command[None]]]] = {
        "cancelled": lambda ctx: [CancelTimer(ctx, "alarm")],
        "ended": lambda ctx: [End(ctx)],
        "forgotten": lambda ctx: [End(ctx), Forget(ctx)],
        "set and ended at once": lambda ctx: [SetTimer(ctx, "more", "ring", after=SOON), End(ctx)],
    }
    for id, commands in stop.items():
        ctx = await committed(h, id)
        await h.engine.do(Commit(SetTimer(ctx, "alarm", "ring", after=SOON)))
        await h.engine.do(Commit(*commands(ctx)))
        check(ctx.current.timers, {}, f"timers of what is {id}")
    check(await delays_of(h), [], "what is left of them")
    head = await h.engine.head()
    async with Delayer(h.engine):
        await h.clock.sleep(0.2)
    check((h.visits, await h.engine.head()), ([], head), "visits and head")


@case("durable", "fake_clock")
async def timers_after_a_restart(h: Harness) -> None:
    """G10: timers are as durable as states."""
    _rings(h)
    start, ctx = h.clock.now(), await committed(h, "job")
    await h.engine.do(Commit(SetTimer(ctx, "alarm", "ring", after=HOUR)))
    await h.engine.do(Commit(Transit(ctx, "work")))
    await h.reopen()
    check((await h.engine.get_state("job")).timer_due("alarm"), start + HOUR, "when it is due")
    async with Delayer(h.engine), h.engine.watch(status=Status.ENDED) as ended:
        await anext(ended)
    check((await _fired(h, "job"))[0].committed_at, start + HOUR, "when it fired")


@case()
async def timers_of_flows_that_run_elsewhere(h: Harness) -> None:
    """G12: a timer to a flow that an engine does not have is left to one that has it."""
    h.flows.declare("elsewhere")
    _rings(h)
    ctx = await committed(h, "job")
    alarms = [
        SetTimer(ctx, "first", "elsewhere", after=NOW),
        SetTimer(ctx, "second", "ring", after=NOW),
    ]
    async with Delayer(h.engine), h.engine.watch(status=Status.ENDED) as ended:
        await h.engine.do(Commit(*alarms))
        await anext(ended)
    check(h.visits, ["job second"], "visits")


@case()
async def timers_postpone_no_recovery(h: Harness) -> None:
    """G11: a state that waits for nothing but a timer is recovered while that is pending."""
    _rings(h)

    @h.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"attempt {recovery.attempt(ctx.current)}, timers {[*ctx.current.timers]}")
        return Commit(End(ctx)) if recovery.attempt(ctx.current) else Noop()

    ctx = h.ctx("job")
    recovery.set_retry_after(ctx, timedelta(milliseconds=250 if h.has_fake_clock else 800))
    await h.engine.do(Commit(Transit(ctx, "work"), SetTimer(ctx, "alarm", "ring", after=HOUR)))
    async with Delayer(h.engine), Recoverer(h.engine, lease=1.0, poll_interval=0.05):
        await h.visited("attempt 1, timers ['alarm']")
        await h.engine.idle()
    check(await delays_of(h), [], "timers that are left")


@case("fake_clock")
async def timers_in_working_copies(h: Harness) -> None:
    """G3: outside a commit a timer is set in the working copy; the next commit stores it."""
    _rings(h)
    ctx = await committed(h, "job")
    await h.engine.do(SetTimer(ctx, "alarm", "ring", after=HOUR), Transit(ctx, "work"))
    check((await delays_of(h), [*ctx.current.timers]), ([], ["alarm"]), "rows and timers")
    error = await raised(InvalidCommandError, h.engine.do, Delay(ctx, "work", after=NOW))
    check(error.field, "delay", "what is refused: its timer would not be set")
    await h.clock.sleep(60.0)
    await h.engine.do(Commit(Resume(ctx)))
    check(
        [row.due for row in await delays_of(h)], [h.clock.now() + HOUR], "counted from the commit"
    )
    await h.engine.do(CancelTimer(ctx, "alarm"))
    check((len(await delays_of(h)), [*ctx.current.timers]), (1, []), "rows and timers")
    await h.engine.do(Commit(Pause(ctx)))
    check(await delays_of(h), [], "rows after the commit")
    check((await h.engine.get_state("job")).timers, {}, "timers after the commit")


@case("fake_clock")
async def timers_of_forks_and_stacked_contexts(h: Harness) -> None:
    """G3: a fork has no timers; a stacked context has its own as they were, with their times."""
    _rings(h)
    carrier, ctx = await committed(h, "carrier"), await committed(h, "job")
    await h.engine.do(Commit(SetTimer(ctx, "alarm", "ring", after=HOUR)))
    check(ctx.fork("other").current.timers, {}, "timers of a fork")
    due = ctx.current.timer_due("alarm")
    for is_changed in (False, True):
        await h.clock.sleep(60.0)
        if is_changed:
            await h.engine.do(Transit(ctx, "work"), SetTimer(ctx, "more", "ring", after=HOUR))
        back = StateContext(State("job"))
        await h.engine.do(Commit(Stack(carrier, ctx, "it")))
        await h.clock.sleep(60.0)
        await h.engine.do(Unstack(carrier, back, "it"))
        await h.engine.do(Commit(Transit(back, "work")))
        rows = {row.timer: row.due for row in await delays_of(h)}
        check(rows.pop("alarm"), due, "when the old one is due")
        check(rows, {"more": h.clock.now() + HOUR} if is_changed else {}, "the others")
        ctx = back


@case()
async def timer_without_its_state(h: Harness) -> None:
    """G10: what an older library has left of a timer is removed, and fires nothing."""
    _rings(h)
    know(h, "work")
    ended, active = await committed(h, "ended"), await committed(h, "active")
    await h.engine.do(Commit(End(ended)))
    for ctx in (ended, active):
        own = ctx.committed
        left = {"old": Timer("ring", PAST)} if ctx is ended else {}
        put = State(own.id, own.rev, transition=own.transition, status=own.status, timers=left)
        row = timer(f"stray {own.id}", NOW, name="old", to="ring")
        await stored(h, Writes(f"stray {own.id}", (put,), timers=(row,)))
    async with Delayer(h.engine, poll_interval=0.05):
        while await delays_of(h):
            await h.clock.sleep(0.01)
    check((h.visits, await h.engine.head()), ([], 5), "visits and head")


@case()
async def timers_that_are_refused(h: Harness) -> None:
    """G14: what cannot be a timer is refused, and names the field."""
    _rings(h)
    ctx, ended = await committed(h, "job"), await committed(h, "ended")
    await h.engine.do(Commit(End(ended)))
    naive = datetime(2030, 1, 1)  # noqa: DTZ001 - that is the point
    refused: list[tuple[Command[None], type[Exception], str]] = [
        (SetTimer(ctx, "t", "ring"), InvalidInputError, "timer"),
        (SetTimer(ctx, "t", "ring", after=NOW, until=PAST), InvalidInputError, "timer"),
        (SetTimer(ctx, "", "ring", after=NOW), InvalidInputError, "name"),
        (SetTimer(ctx, "\0", "ring", after=NOW), InvalidInputError, "name"),
        (SetTimer(ctx, "x" * 513, "ring", after=NOW), InvalidInputError, "name"),
        (SetTimer(ctx, None, "ring", after=NOW), InvalidInputError, "name"),  # type: ignore[arg-type]
        (SetTimer(ctx, "t", "ring", after=-SECOND), InvalidInputError, "after"),
        (SetTimer(ctx, "t", "ring", after=1.0), InvalidInputError, "after"),  # type: ignore[arg-type]
        (SetTimer(ctx, "t", "ring", until=naive), InvalidInputError, "until"),
        (SetTimer(ctx, "t", "nowhere", after=NOW), UnknownFlowError, ""),
        (SetTimer(ended, "t", "ring", after=NOW), InvalidCommandError, "ctx"),
        (CancelTimer(ctx, ""), InvalidInputError, "name"),
    ]
    head = await h.engine.head()
    for command, kind, field in refused:
        before = snapshot(ctx), snapshot(ended)
        for tried in (command, Commit(command)):
            error = await raised(kind, h.engine.do, tried)
            check(getattr(error, "field", ""), field, f"the field, of {command!r}")
            check((snapshot(ctx), snapshot(ended)), before, "the contexts after it")
    check((await h.engine.head(), await delays_of(h)), (head, []), "head and timers")


CASES: tuple[Case, ...] = (
    timer_fires_when_it_is_due,
    timer_is_not_a_delay,
    timer_that_is_due_at_once,
    timer_that_is_set_again,
    timers_that_never_fire,
    timers_after_a_restart,
    timers_of_flows_that_run_elsewhere,
    timers_postpone_no_recovery,
    timers_in_working_copies,
    timers_of_forks_and_stacked_contexts,
    timer_without_its_state,
    timers_that_are_refused,
)
