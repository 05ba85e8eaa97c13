"""Delays fire once, never before their time, and only for the revision that they belong to."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from flowstate.commands import Command, Commit, Delay, End, Execute, Noop, Pause, Transit
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.engine import Engine
from flowstate.errors import RevisionMismatchError
from flowstate.state import Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, contents, delays_of, raised, snapshot, take

__all__ = ["CASES"]

SOON = timedelta(milliseconds=50)
DAY = timedelta(days=1)
DAYS = timedelta(days=3)
RARELY = 86_400.0


def _visiting(h: Harness, *flows: str) -> None:
    """Register flows that note their visit and end."""
    for flow in flows:

        def visit(ctx: StateContext, engine: Engine, flow: str = flow) -> Command[None]:
            h.visit(flow)
            return Commit(End(ctx))

        h.flows.set(flow, visit)


async def _delays_itself(h: Harness, how: str) -> None:
    """Let a flow delay itself in one of four ways, and look where it goes."""
    _visiting(h, "second")

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
    _visiting(h, "second", "third")

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
    _visiting(h, "second", "third")

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
    _visiting(h, "timeout", "done")

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
async def many_delays_due_at_once(h: Harness) -> None:
    """G10: 1,200 delays that are due at the same time all fire, once each."""
    ids = [f"delayed-{n}" for n in range(1_200)]

    @h.flows.flow("due")
    def due(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(ctx.current.id)
        return Commit(End(ctx))

    for start in range(0, len(ids), 100):
        made = [Delay(h.ctx(id), "due", after=timedelta(0)) for id in ids[start : start + 100]]
        await h.engine.do(Commit(*made))
    async with Delayer(h.engine), h.engine.watch(status=Status.ENDED) as ended:
        await take(ended, len(ids))
    counted = Counter(h.visits)
    check(counted, Counter(ids), "how often each fired")
    check(await delays_of(h), [], "delays")
    check(await h.engine.head(), 3 * len(ids), "revisions")


@case()
async def superseded_delays_vanish(h: Harness) -> None:
    """G10: a state that moves on, whoever moves it, takes all its delays with it."""
    _visiting(h, "late")
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
async def delay_without_commit(h: Harness) -> None:
    """G10: a delay with ``commit=False`` executes its state without committing it first."""
    seen: list[tuple[int, bool, str]] = []

    @h.flows.flow("later")
    def later(ctx: StateContext, engine: Engine) -> Command[None]:
        seen.append((ctx.committed.rev, ctx.delayed, ctx.current.transition.annotations["why"]))
        h.visit("later")
        return Commit(End(ctx))

    ctx = await committed(h, "delayed")
    await h.engine.do(Delay(ctx, "later", after=SOON, commit=False, annotations={"why": "so"}))
    async with Delayer(h.engine), h.engine.watch(status=Status.ENDED) as ended:
        await anext(ended)
    check(seen, [(1, True, "so")], "what the flow was given")
    check([s.status.value for s in await h.log()], ["active", "ended"], "log")
    check(await delays_of(h), [], "delays")


@case("fake_clock")
async def delay_without_commit_is_retried(h: Harness) -> None:
    """G10: a delay with ``commit=False`` whose flow fails fires again after its lease."""

    @h.flows.flow("later")
    def later(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(str(round(engine.clock.monotonic())))
        if len(h.visits) < 3:
            raise ConnectionError("the first attempts fail")
        return Commit(End(ctx))

    ctx = await committed(h, "delayed")
    await h.engine.do(Delay(ctx, "later", after=timedelta(seconds=10), commit=False))
    async with Delayer(h.engine, lease=60), h.engine.watch(status=Status.ENDED) as ended:
        await anext(ended)
    check(h.visits, ["10", "70", "130"], "seconds of the attempts")


@case()
async def delay_of_a_state_never_committed(h: Harness) -> None:
    """G10: a state may be stored by its delay alone; firing makes its first revision."""
    _visiting(h, "second")
    ctx = h.ctx("new", labels={"kind": "new"}, annotations={"note": "kept"})
    await h.engine.do(Delay(ctx, "second", after=SOON))
    check(await h.log(), [], "log before the delay fires")
    async with Delayer(h.engine), h.engine.watch(labels={"kind": "new"}) as states:
        first, last = await take(states, 2)
    check((first.id, first.rev, first.transition.to), ("new", 1, "second"), "first revision")
    check(last.annotations, {"note": "kept"}, "annotations")


@case("fake_clock")
async def delay_of_three_days(h: Harness) -> None:
    """G10: a delay of three days fires after three days, to the millisecond."""
    _visiting(h, "second")
    start = h.clock.now()
    ctx = await committed(h, "delayed")
    await h.engine.do(Commit(Delay(ctx, "second", after=DAYS)))
    check(ctx.current.delayed_until, start + DAYS, "delayed until")
    (delay,) = await delays_of(h)
    check((delay.due, delay.state.rev, delay.to), (start + DAYS, 2, "second"), "the delay")
    async with (
        Delayer(h.engine, poll_interval=RARELY),
        h.engine.watch(since_rev=2) as states,
    ):
        fired = await anext(states)
    check(fired.committed_at, start + DAYS, "time of firing")
    check((fired.transition.cause, fired.delayed_until), ("delay", None), "how it got there")


@case("fake_clock")
async def never_before_its_time(h: Harness) -> None:
    """G10: delays fire in the order of their times, none of them early."""
    start = h.clock.now()
    seconds = [7, 1, 5, 3, 9, 2]
    _visiting(h, "due")
    for n in seconds:
        until = start + timedelta(seconds=n, milliseconds=n)
        await h.engine.do(Commit(Delay(h.ctx(f"after-{n}"), "due", until=until)))
    async with Delayer(h.engine), h.engine.watch(status=Status.ENDED) as ended:
        fired = await take(ended, len(seconds))
    found = [(s.id, s.committed_at) for s in fired]
    expected = [
        (f"after-{n}", start + timedelta(seconds=n, milliseconds=n)) for n in sorted(seconds)
    ]
    check(found, expected, "states and their times")


@case()
async def delay_until_the_past(h: Harness) -> None:
    """G10: a delay until a time that has passed, even year 1, is due at once."""
    _visiting(h, "due")
    for year in (1, 1969, 2001):
        until = datetime(year, 1, 1, tzinfo=UTC)
        await h.engine.do(Commit(Delay(h.ctx(f"year-{year}"), "due", until=until)))
    check([d.due.year for d in await delays_of(h)], [1, 1969, 2001], "years")
    async with Delayer(h.engine), h.engine.watch(status=Status.ENDED) as ended:
        found = {s.id for s in await take(ended, 3)}
    check(found, {"year-1", "year-1969", "year-2001"}, "states")


@case()
async def delay_until_the_far_future(h: Harness) -> None:
    """G10: a delay until the year 9999 is kept, and does not fire."""
    _visiting(h, "due", "never")
    until = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    await h.engine.do(Commit(Delay(h.ctx("far"), "never", until=until)))
    await h.engine.do(Commit(Delay(h.ctx("near"), "due", after=SOON)))
    async with Delayer(h.engine):
        await h.visited("due")
    check([(d.state.id, d.due) for d in await delays_of(h)], [("far", until)], "delays")


@case()
async def first_of_several_delays_wins(h: Harness) -> None:
    """G10: of several delays of a revision the earliest fires, and the others go with it."""
    _visiting(h, "first", "second", "third")
    ctx = h.ctx("delayed")
    late, soon = Delay(ctx, "second", after=DAY), Delay(ctx, "first", after=SOON)
    await h.engine.do(Commit(late, soon, Delay(ctx, "third", after=DAYS)))
    delayed = await delays_of(h)
    check(ctx.current.delayed_until, delayed[0].due, "delayed until the earliest")
    async with Delayer(h.engine):
        await h.visited("first")
    check(await delays_of(h), [], "delays")


async def _race(h: Harness, one: Engine, two: Engine) -> None:
    """Let two delayers fire the same delays."""
    ids = [f"delayed-{n}" for n in range(60)]

    @h.flows.flow("due")
    async def due(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(ctx.current.id)
        return Commit(End(ctx))

    made = [Delay(h.ctx(id), "due", after=SOON) for id in ids]
    await h.engine.do(Commit(*made))
    async with Delayer(one), Delayer(two), h.engine.watch(status=Status.ENDED) as ended:
        await take(ended, len(ids))
    check(Counter(h.visits), Counter(ids), "how often each fired")
    fired = [s.id for s in await h.log() if s.transition.cause == "delay"]
    check(sorted(fired), sorted(ids), "steps made by delays")


@case()
async def two_delayers_in_one_process(h: Harness) -> None:
    """G10: two delayers on one driver fire each delay once between them."""
    async with h.make_engine() as other:
        await _race(h, h.engine, other)


@case("shared")
async def two_delayers_on_one_store(h: Harness) -> None:
    """G10: two delayers on one store fire each delay once between them."""
    async with h.other_driver() as driver, h.make_engine(driver) as other:
        await _race(h, h.engine, other)


@case()
async def delay_to_a_flow_of_another_process(h: Harness) -> None:
    """G10: a delay to a flow that is only declared is left to an engine that has it."""
    _visiting(h, "here", "there")
    await h.engine.do(Commit(Delay(h.ctx("a"), "there", after=timedelta(0))))
    h.flows.unset("there")
    h.flows.declare("there")
    await h.engine.do(Commit(Delay(h.ctx("b"), "here", after=SOON)))
    async with Delayer(h.engine):
        await h.visited("here")
        check([d.state.id for d in await delays_of(h)], ["a"], "delays that are left")
    h.flows.unset("there")
    _visiting(h, "there")
    async with h.make_engine() as there, Delayer(there):
        await h.visited("here", "there")


@case()
async def failing_flow_holds_no_delay_up(h: Harness) -> None:
    """G12: a delay whose flow fails is fired, and so are all the others."""
    _visiting(h, "fine")

    @h.flows.flow("failing")
    def failing(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("failing")
        raise ArithmeticError("on purpose")

    bad = Delay(h.ctx("bad"), "failing", after=timedelta(0))
    await h.engine.do(Commit(bad, Delay(h.ctx("good"), "fine", after=SOON)))
    async with Delayer(h.engine):
        await h.visited("failing", "fine")
    bad_state = await h.engine.get_state("bad")
    check((bad_state.status, bad_state.transition.to), (Status.ACTIVE, "failing"), "left for later")
    check(await delays_of(h), [], "delays")


@case("durable", "fake_clock")
async def delays_survive(h: Harness) -> None:
    """G10: delays are there after the store was closed and opened again."""
    _visiting(h, "second")
    ctx = h.ctx("delayed")
    await h.engine.do(Commit(Delay(ctx, "second", after=DAYS, annotations={"why": "sleep"})))
    before = await contents(h)
    await h.reopen()
    check(await contents(h), before, "contents of the store")
    async with Delayer(h.engine, poll_interval=RARELY):
        await h.visited("second")


@case()
async def execution_does_not_wait_for_a_delay(h: Harness) -> None:
    """G10: a delayed state that is executed on purpose moves on, and its delay is dropped."""
    _visiting(h, "second", "work")
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
    many_delays_due_at_once,
    superseded_delays_vanish,
    refused_commit_leaves_no_delay,
    delay_of_a_state_that_moved_on,
    delay_without_commit,
    delay_without_commit_is_retried,
    delay_of_a_state_never_committed,
    delay_of_three_days,
    never_before_its_time,
    delay_until_the_past,
    delay_until_the_far_future,
    first_of_several_delays_wins,
    two_delayers_in_one_process,
    two_delayers_on_one_store,
    delay_to_a_flow_of_another_process,
    failing_flow_holds_no_delay_up,
    delays_survive,
    execution_does_not_wait_for_a_delay,
)
