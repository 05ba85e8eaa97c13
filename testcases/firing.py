"""Delayers fire what is due: once, on time, next to other delayers, and whatever fails."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from flowstate.commands import Command, Commit, Delay, End, Noop, Transit
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.driver import Driver, Verdict, Writes
from flowstate.engine import Engine
from flowstate.errors import CommitUnknownError, StoreUnavailableError
from flowstate.state import Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import (
    DriverWrapper,
    committed,
    contents,
    delays_of,
    take,
    visiting,
)

__all__ = ["CASES"]

SOON = timedelta(milliseconds=50)
DAYS = timedelta(days=3)
RARELY = 86_400.0


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


@case()
async def delay_without_commit_of_what_stays(h: Harness) -> None:
    """G10: a delay with ``commit=False`` whose flow commits nothing has fired all the same."""

    @h.flows.flow("later")
    def later(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("later")
        return Noop()

    ctx = await committed(h, "delayed")
    await h.engine.do(Delay(ctx, "later", after=SOON, commit=False))
    async with Delayer(h.engine, lease=0.5):
        await h.visited("later")
        await h.clock.sleep(1.0)
    check(h.visits, ["later"], "visits")
    check(await delays_of(h), [], "delays")
    check(await h.engine.get_state("delayed"), ctx.committed, "the state")


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


@case("fake_clock")
async def delay_of_three_days(h: Harness) -> None:
    """G10: a delay of three days fires after three days, to the millisecond."""
    visiting(h, "second")
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
    visiting(h, "due")
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
    visiting(h, "due")
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
    visiting(h, "due", "never")
    until = datetime(9999, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC)
    await h.engine.do(Commit(Delay(h.ctx("far"), "never", until=until)))
    await h.engine.do(Commit(Delay(h.ctx("near"), "due", after=SOON)))
    async with Delayer(h.engine):
        await h.visited("due")
    check([(d.state.id, d.due) for d in await delays_of(h)], [("far", until)], "delays")


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
    visiting(h, "here", "there")
    await h.engine.do(Commit(Delay(h.ctx("a"), "there", after=timedelta(0))))
    h.flows.unset("there")
    h.flows.declare("there")
    await h.engine.do(Commit(Delay(h.ctx("b"), "here", after=SOON)))
    async with Delayer(h.engine):
        await h.visited("here")
        check([d.state.id for d in await delays_of(h)], ["a"], "delays that are left")
    h.flows.unset("there")
    visiting(h, "there")
    async with h.make_engine() as there, Delayer(there):
        await h.visited("here", "there")


@case("shared", real_time=True)
async def delay_of_another_process_is_noticed(h: Harness) -> None:
    """G10: a delayer that has nothing to do hears of a delay that another process stores."""
    visiting(h, "due", "later")
    async with Delayer(h.engine, poll_interval=RARELY):
        await h.engine.do(Commit(Delay(h.ctx("own"), "due", after=timedelta(0))))
        await h.visited("due")  # It has looked, and waits for a hint from now on.
        async with h.other_driver() as driver, h.make_engine(driver) as other:
            await other.do(Commit(Delay(h.ctx("theirs"), "later", after=SOON)))
            await h.visited("due", "later")


@case()
async def failing_flow_holds_no_delay_up(h: Harness) -> None:
    """G12: a delay whose flow fails is fired, and so are all the others."""
    visiting(h, "fine")

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
    visiting(h, "second")
    ctx = h.ctx("delayed")
    await h.engine.do(Commit(Delay(ctx, "second", after=DAYS, annotations={"why": "sleep"})))
    before = await contents(h)
    await h.reopen()
    check(await contents(h), before, "contents of the store")
    async with Delayer(h.engine, poll_interval=RARELY):
        await h.visited("second")


class _BadLine(DriverWrapper):
    """Loses some of the claims after the first: the request, or only the reply."""

    def __init__(self, driver: Driver, *, lost: int, arrive: bool) -> None:
        super().__init__(driver)
        self._lost = range(2, 2 + lost)
        self._arrive = arrive
        self._claims = 0

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Commit, or fail before or after that if there are claims."""
        self._claims += any(writes.claims for writes in batch)
        if not any(writes.claims for writes in batch) or self._claims not in self._lost:
            return await super().commit(batch)
        if not self._arrive:
            raise StoreUnavailableError("the connection is lost")
        await super().commit(batch)
        return [CommitUnknownError(writes.token) for writes in batch]


async def _hold(h: Harness, line: Driver) -> list[str]:
    """Let a delay be held for long over ``line`` while another delayer waits for it.

    Returns which attempts began and were cancelled, and in which second.
    """

    @h.flows.flow("later")
    async def later(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit(f"begun in {round(engine.clock.monotonic())}")
        try:
            await engine.clock.sleep(300)
        except asyncio.CancelledError:
            h.visit(f"cancelled in {round(engine.clock.monotonic())}")
            raise
        return Commit(End(ctx))

    ctx = await committed(h, "delayed")
    await h.engine.do(Delay(ctx, "later", after=timedelta(0), commit=False))
    async with (
        h.make_engine(line) as holder,
        Delayer(holder, lease=60),
        h.engine.watch(status=Status.ENDED) as ended,
    ):
        await h.until(lambda visits: len(visits) > 0)
        async with Delayer(h.engine, lease=60):
            await anext(ended)
            await h.clock.sleep(600)
    check(await delays_of(h), [], "delays that are left")
    return h.visits


@case("fake_clock")
async def renewal_whose_reply_is_lost(h: Harness) -> None:
    """G10: a lease that was renewed is kept, although the reply to the renewal was lost."""
    found = await _hold(h, _BadLine(h.driver, lost=1, arrive=True))
    check(found, ["begun in 0"], "attempts")


@case("fake_clock")
async def renewals_that_fail_for_a_while(h: Harness) -> None:
    """G10: a lease is kept when one of the attempts to renew it succeeds in time."""
    found = await _hold(h, _BadLine(h.driver, lost=5, arrive=False))
    check(found, ["begun in 0"], "attempts")


@case("fake_clock")
async def renewals_that_fail(h: Harness) -> None:
    """G10: an execution whose lease cannot be renewed is cancelled before another one begins."""
    found = await _hold(h, _BadLine(h.driver, lost=1_000_000, arrive=False))
    check(found, ["begun in 0", "cancelled in 54", "begun in 60"], "attempts")


@case("fake_clock")
async def held_delay_of_a_state_that_moves_on(h: Harness) -> None:
    """G10: an execution that commits goes on when its delay, and so its lease, is gone."""

    @h.flows.flow("later")
    async def later(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Commit(Transit(ctx, "later")))
        await engine.clock.sleep(300)
        h.visit("later")
        return Commit(End(ctx))

    ctx = await committed(h, "delayed")
    await h.engine.do(Delay(ctx, "later", after=timedelta(0), commit=False))
    async with Delayer(h.engine, lease=60), h.engine.watch(status=Status.ENDED) as ended:
        await anext(ended)
    check(h.visits, ["later"], "visits")


CASES: tuple[Case, ...] = (
    many_delays_due_at_once,
    delay_without_commit,
    delay_without_commit_of_what_stays,
    delay_without_commit_is_retried,
    delay_of_three_days,
    never_before_its_time,
    delay_until_the_past,
    delay_until_the_far_future,
    two_delayers_in_one_process,
    two_delayers_on_one_store,
    delay_to_a_flow_of_another_process,
    delay_of_another_process_is_noticed,
    failing_flow_holds_no_delay_up,
    delays_survive,
    renewal_whose_reply_is_lost,
    renewals_that_fail_for_a_while,
    renewals_that_fail,
    held_delay_of_a_state_that_moves_on,
)
