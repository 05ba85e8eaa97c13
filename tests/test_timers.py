"""Timers: what a commit writes for them, and how they fire against everything else."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from flowstate import (
    CancelTimer,
    Command,
    Commit,
    CommitUnknownError,
    Delay,
    Delayer,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    Forget,
    InvalidCommandError,
    InvalidInputError,
    Noop,
    Pause,
    Put,
    RevisionMismatchError,
    SetTimer,
    State,
    StateContext,
    StateNotFoundError,
    Status,
    Timer,
    Transit,
    Transition,
)
from flowstate.driver import DuePage, DueQuery, NewTimer, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.testcases.support import DriverWrapper, end, take
from flowstate.timers import (
    changed_timers,
    lasting_timers,
    timer_id,
    timer_to_fire,
    without_timer,
)

NOW, SECOND, HOUR = timedelta(0), timedelta(seconds=1), timedelta(hours=1)
AT = datetime(2030, 1, 1, tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
RELATIVE = Timer("ring", after=HOUR)
ABSOLUTE = Timer("ring", AT + HOUR)


# The rules


def stored(**timers: Timer) -> State:
    return State("a", 7, committed_at=AT, timers=timers)


def test_a_timer_gets_its_time_with_the_next_revision() -> None:
    known = stored(kept=RELATIVE, absolute=ABSOLUTE, set=RELATIVE)
    current = replace(known, timers={**known.timers, "set": Timer("ring", after=HOUR)})

    found = lasting_timers(current, known)

    assert found == {"kept": ABSOLUTE, "absolute": ABSOLUTE, "set": RELATIVE}
    assert lasting_timers(replace(current, status=Status.ENDED), known) == {}
    only_absolute = stored(absolute=ABSOLUTE)
    assert lasting_timers(only_absolute, only_absolute) is only_absolute.timers


@pytest.mark.parametrize(
    ("before", "after", "is_set"),
    [
        (RELATIVE, RELATIVE, False),
        (RELATIVE, ABSOLUTE, False),  # As the next revision has it.
        (RELATIVE, Timer("ring", after=HOUR), True),
        (RELATIVE, Timer("ring", AT + 2 * HOUR), True),
        (RELATIVE, Timer("other", AT + HOUR), True),
        (ABSOLUTE, Timer("ring", AT + HOUR), False),
        (ABSOLUTE, RELATIVE, True),
        (None, RELATIVE, True),
        (None, ABSOLUTE, True),
    ],
)
def test_what_counts_as_set_again(before: Timer | None, after: Timer, is_set: bool) -> None:
    known = stored(**({"t": before} if before else {}))

    assert changed_timers({"t": after}, known) == (["t"] if is_set else [], [])
    assert changed_timers({}, known) == ([], ["t"] if before else [])


def test_a_timer_that_counts_from_an_unknown_time_is_set_again() -> None:
    known = replace(stored(t=RELATIVE), committed_at=None)

    assert lasting_timers(known, known) is known.timers
    assert changed_timers(known.timers, known) == (["t"], [])


def test_a_timer_is_the_same_in_all_revisions_that_have_it() -> None:
    first = stored(t=RELATIVE)
    second = replace(first, rev=8, committed_at=AT + SECOND, timers=lasting_timers(first, first))

    assert timer_to_fire(first, "t") == timer_to_fire(second, "t") == ABSOLUTE
    assert timer_to_fire(first, "other") is None
    assert timer_to_fire(replace(first, status=Status.ENDED), "t") is None
    assert without_timer(stored(t=RELATIVE, u=ABSOLUTE), "t") == {"u": ABSOLUTE}


def test_times_beyond_the_last_one_are_that_one() -> None:
    state = replace(stored(t=Timer("ring", after=timedelta(days=365_000))), committed_at=LAST)

    assert state.timer_due("t") == LAST
    assert stored(t=RELATIVE).timer_due("t") == AT + HOUR
    assert stored().timer_due("t") is None
    assert State("new", timers={"t": RELATIVE}).timer_due("t") is None


def test_ids_of_rows_are_short_and_differ() -> None:
    ids = {
        timer_id(id, name) for id in ("a", "b", "ab", "é" * 256) for name in ("", "a", "b", "ba")
    }

    assert len(ids) == 16
    assert {len(id) for id in ids} == {len("timer-") + 40}


# What a commit writes


class Recorder(DriverWrapper):
    """Keeps what was committed; does something else first, or fails, when told to.

    Attributes:
        writes: of each commit.
        before: is awaited, once, before a commit that a timer makes.
        error: is what such a commit has as its verdict, once.
    """

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryDriver(clock))
        self.writes: list[Writes] = []
        self.pages = 0
        self.before: list[Any] = []
        self.error: Exception | None = None

    async def get_due(self, query: DueQuery) -> DuePage:
        self.pages += query.kind == "delay"
        return await super().get_due(query)

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        self.writes += batch
        if any(put.transition.cause == "timer" for writes in batch for put in writes.puts):
            if self.before:
                await self.before.pop(0)()
            if self.error is not None:
                error, self.error = self.error, None
                raise error
        return await super().commit(batch)

    @property
    def rows(self) -> tuple[list[NewTimer], list[str]]:
        """The rows that the last commit has stored, and the ids of those that it has removed."""
        return list(self.writes[-1].timers), [drop.id for drop in self.writes[-1].drops]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> Recorder:
    return Recorder(clock)


@pytest.fixture
async def engine(driver: Recorder, clock: FakeClock) -> AsyncIterator[Engine]:
    flows = FlowRegistry()
    for flow in ("work", "ring"):
        flows.set(flow, end)
    async with Engine(driver, flows, clock=clock) as engine:
        yield engine


async def begun(engine: Engine, *commands: str, id: str = "a") -> StateContext:
    """Return a new state, with a timer for each name, which is due in an hour."""
    ctx = StateContext(State(id))
    timers = [SetTimer(ctx, name, "ring", after=HOUR) for name in commands]
    await engine.do(Commit(Transit(ctx, "work"), *timers))
    return ctx


async def test_commits_write_what_has_changed_and_no_more(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    ctx = await begun(engine, "one", "two")
    (one, two), gone = driver.rows
    assert [(row.name, row.put, row.to, row.due, row.after) for row in (one, two)] == [
        ("one", 0, "ring", None, HOUR),
        ("two", 0, "ring", None, HOUR),
    ]
    assert gone == []
    due = ctx.current.timer_due("one")
    await clock.sleep(60.0)
    for command in (Transit(ctx, "work"), Pause(ctx), Put(ctx)):
        await engine.do(Commit(command))
        assert driver.rows == ([], [])
    assert ctx.committed.timers == {"one": Timer("ring", due), "two": Timer("ring", due)}
    again = SetTimer(ctx, "one", "ring", after=HOUR)
    await engine.do(Commit(again, CancelTimer(ctx, "two")))
    ((row,), gone) = driver.rows
    assert (row.id, row.after, gone) == (one.id, HOUR, [two.id])
    assert ctx.current.timer_due("one") == clock.now() + HOUR
    until = SetTimer(ctx, "one", "ring", until=clock.now() + HOUR)
    await engine.do(Commit(until, CancelTimer(ctx, "two")))
    assert driver.rows == ([], [])  # It is due at that time already.
    await engine.do(Commit(End(ctx)))
    assert driver.rows == ([], [one.id])


async def test_several_states_of_a_commit_have_their_own_timers(
    engine: Engine, driver: Recorder
) -> None:
    first, second = await begun(engine, "t"), await begun(engine, id="b")
    await engine.do(
        Commit(
            Transit(first, "work"),
            SetTimer(second, "t", "work", after=SECOND),
            CancelTimer(first, "t"),
        )
    )
    (row,), gone = driver.rows
    assert (driver.writes[-1].puts[row.put].id, row.to) == ("b", "work")
    assert (row.id, gone) == (timer_id("b", "t"), [timer_id("a", "t")])


async def test_a_timer_that_is_set_again_in_the_working_copy_counts_anew(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    ctx = await begun(engine, "t")
    await clock.sleep(60.0)
    await engine.do(SetTimer(ctx, "t", "ring", after=HOUR))
    assert ctx.current == replace(ctx.committed, timers=ctx.current.timers)
    await engine.do(Commit(Put(ctx)))
    assert len(driver.rows[0]) == 1
    assert ctx.current.timer_due("t") == clock.now() + HOUR


async def test_timers_count_for_the_size_and_the_bounds_of_a_commit(
    engine: Engine, driver: Recorder
) -> None:
    contexts = [StateContext(State(f"{n}")) for n in range(20)]
    alarms = [SetTimer(ctx, f"{n}", "ring", after=HOUR) for ctx in contexts for n in range(64)]
    with pytest.raises(InvalidCommandError, match="at most 1000 timers"):
        await engine.do(Commit(*alarms))
    await engine.do(Commit(*alarms[: 15 * 64]))
    assert len(driver.rows[0]) == 15 * 64


async def test_a_hand_made_timer_is_stored_or_refused(engine: Engine, driver: Recorder) -> None:
    made = State("a", timers={"t": Timer("ring", after=HOUR), "u": Timer("ring", AT)})
    await engine.do(Commit(Transit(StateContext(made), "work")))
    assert [(row.name, row.due, row.after) for row in driver.rows[0]] == [
        ("t", None, HOUR),
        ("u", AT, None),
    ]
    bad: list[Any] = [None, "t", {"t": None}, {"t": Timer("ring")}, {"": RELATIVE}, {1: RELATIVE}]
    bad += [{"t": Timer("", AT)}, {"t": Timer("ring", datetime(2030, 1, 1))}]  # noqa: DTZ001
    bad += [{"t": Timer("ring", after=-SECOND)}, {f"{n}": RELATIVE for n in range(65)}]
    for timers in bad:
        ctx = StateContext(State("b"))
        ctx.current = replace(ctx.current, timers=timers)
        with pytest.raises(InvalidInputError, match=r"^state\.timers"):
            await engine.do(Commit(Transit(ctx, "work")))
    assert await engine.head() == 1


async def test_an_ended_state_has_no_timers(engine: Engine, driver: Recorder) -> None:
    ctx = await begun(engine, "t")
    await engine.do(End(ctx))
    assert ctx.current.timers == {}
    ctx.current = replace(ctx.current, timers={"t": RELATIVE, "u": RELATIVE})
    await engine.do(Commit(Put(ctx)))
    assert (ctx.committed.timers, driver.rows) == ({}, ([], [timer_id("a", "t")]))


# How they fire


async def pause(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(Pause(ctx))


async def idle(ctx: StateContext, engine: Engine) -> Command[None]:
    return Noop()


async def fired(engine: Engine) -> list[tuple[str, str, datetime | None]]:
    """Return which timer has fired, of which state, and when."""
    return [
        (state.id, StateContext(state).timer, state.committed_at)
        async for state in engine.states()
        if state.transition.cause == "timer"
    ]


async def test_a_timer_that_is_moved_while_it_fires_waits_for_its_new_time(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    start, ctx = clock.now(), await begun(engine, "t")

    async def set_again() -> None:
        await engine.do(Commit(SetTimer(ctx, "t", "ring", after=HOUR)))

    driver.before.append(set_again)
    async with Delayer(engine), engine.watch(status=Status.ENDED) as ended:
        await anext(ended)
    assert await fired(engine) == [("a", "t", start + 2 * HOUR)]


@pytest.mark.parametrize("times", [1, 3, 15])
async def test_a_timer_that_loses_races_is_tried_at_the_new_revision_at_once(
    engine: Engine, driver: Recorder, clock: FakeClock, times: int
) -> None:
    start, ctx = clock.now(), await begun(engine, "t")
    pages: list[int] = []

    async def move_on() -> None:
        pages.append(driver.pages)
        await engine.do(Commit(Transit(ctx, "work")))

    driver.before += [move_on] * times
    async with Delayer(engine), engine.watch(status=Status.ENDED) as ended:
        await anext(ended)
    assert await fired(engine) == [("a", "t", start + HOUR)]
    assert pages == pages[:1] * times  # None was read in between.


async def test_a_timer_that_always_loses_is_left_for_a_moment(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    start, ctx = clock.now(), await begun(engine, "t")

    async def move_on() -> None:
        await engine.do(Commit(Transit(ctx, "work")))

    driver.before += [move_on] * 40
    async with Delayer(engine, poll_interval=10.0), engine.watch(status=Status.ENDED) as ended:
        await anext(ended)
    assert await fired(engine) == [("a", "t", start + HOUR + 20 * SECOND)]


@pytest.mark.parametrize(
    "commands",
    [
        lambda ctx: [CancelTimer(ctx, "t")],
        lambda ctx: [End(ctx)],
        lambda ctx: [End(ctx), Forget(ctx)],
        lambda ctx: [SetTimer(ctx, "t", "work", until=AT - HOUR), CancelTimer(ctx, "t")],
    ],
    ids=["cancelled", "ended", "forgotten", "set and cancelled"],
)
async def test_a_timer_that_goes_while_it_fires_does_not_fire(
    engine: Engine, driver: Recorder, clock: FakeClock, commands: Any
) -> None:
    ctx = await begun(engine, "t")

    async def go() -> None:
        await engine.do(Commit(*commands(ctx)))

    driver.before.append(go)
    async with Delayer(engine):
        await clock.sleep(HOUR.total_seconds() + 60.0)
    assert await fired(engine) == []
    assert (await engine.get_delayed_states()).delayed == []


async def test_a_timer_of_the_life_before_does_not_fire_in_the_next_one(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    start, ctx = clock.now(), await begun(engine, "t")

    async def begin_again() -> None:
        await engine.do(Commit(End(ctx), Forget(ctx)))
        await begun(engine, "t")

    driver.before.append(begin_again)
    async with Delayer(engine), engine.watch(status=Status.ENDED) as ended:
        assert [state.transition.cause for state in await take(ended, 2)] == ["forget", "end"]
    assert await fired(engine) == [("a", "t", start + 2 * HOUR)]


async def test_a_store_that_fails_while_a_timer_fires_is_asked_again(
    engine: Engine, driver: Recorder, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    start = clock.now()
    await begun(engine, "t")
    driver.error = CommitUnknownError("token")
    async with Delayer(engine, poll_interval=5.0), engine.watch(status=Status.ENDED) as ended:
        await anext(ended)
    assert await fired(engine) == [("a", "t", start + HOUR + 5 * SECOND)]
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert vars(record)["state_id"] == "a"


async def test_a_delay_that_fires_first_leaves_the_timer_to_fire(
    engine: Engine, clock: FakeClock
) -> None:
    start, ctx = clock.now(), await begun(engine, "t")
    engine.flows.set("work", pause, replace=True)
    await engine.do(Commit(Delay(ctx, "work", after=HOUR)))
    async with Delayer(engine), engine.watch(status=Status.ENDED) as ended:
        await anext(ended)
    assert await fired(engine) == [("a", "t", start + HOUR)]
    causes = [state.transition.cause async for state in engine.states()]
    assert causes.count("delay") <= 1


async def test_timers_of_one_state_fire_in_the_order_of_their_times(
    engine: Engine, clock: FakeClock
) -> None:
    engine.flows.set("ring", idle, replace=True)
    ctx = await begun(engine)
    order = [5, 3, 9, 1, 7]
    await engine.do(Commit(*[SetTimer(ctx, f"{n}", "ring", after=n * SECOND) for n in order]))
    await clock.sleep(60.0)  # All of them are late.
    async with Delayer(engine), engine.watch(since_rev=2) as states:
        await take(states, len(order))
    assert [name for _, name, _ in await fired(engine)] == ["1", "3", "5", "7", "9"]


async def test_a_timer_survives_a_clock_that_steps_back(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    ctx = await begun(engine, "t")
    due = ctx.current.timer_due("t")
    store = driver._driver
    assert isinstance(store, MemoryDriver)
    real, back = store._now, timedelta(minutes=10)
    store._now = lambda: real() - back
    await engine.do(Commit(Transit(ctx, "work"), SetTimer(ctx, "u", "ring", after=60 * SECOND)))
    assert ctx.current.timer_due("t") == due
    engine.flows.set("ring", pause, replace=True)
    started = clock.monotonic()
    async with Delayer(engine, poll_interval=1.0), engine.watch(since_rev=2) as states:
        while (await anext(states)).transition.cause != "timer":
            pass
        assert clock.monotonic() - started == 60.0  # Counted from the store's now.
        while StateContext(await anext(states)).timer != "t":
            pass
        assert store._now() == due
    assert [name for _, name, _ in await fired(engine)] == ["u", "t"]


async def test_a_stop_while_a_timer_fires_fires_it_whole_or_not_at_all(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    await begun(engine, "t")
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        reached.set()
        await go_on.wait()

    driver.before.append(hold)
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(Delayer(engine))
        await reached.wait()
        leaving = asyncio.ensure_future(stack.aclose())
        go_on.set()
        await leaving
    await engine.idle()
    assert [s.transition.cause async for s in engine.states()] == ["transit", "timer", "end"]


async def test_many_timers_that_are_pending_cost_a_look_nothing(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    contexts = [StateContext(State(f"{n}")) for n in range(2_000)]
    for start in range(0, len(contexts), 100):
        await engine.do(
            Commit(*[SetTimer(c, "t", "ring", after=HOUR) for c in contexts[start : start + 100]])
        )
    async with Delayer(engine), engine.watch(status=Status.ENDED, since_latest=True) as ended:
        for _ in range(10):
            soon = StateContext(State("soon"))
            await engine.do(Commit(SetTimer(soon, "t", "ring", after=SECOND)))
            last = await anext(ended)
            await engine.do(Commit(Forget(StateContext(last))))
            await anext(ended)
    assert driver.pages <= 10 * 4


async def test_a_context_knows_which_timer_has_fired(engine: Engine) -> None:
    seen: list[tuple[str, str, bool]] = []

    async def ring(ctx: StateContext, engine: Engine) -> Command[None]:
        seen.append((ctx.timer, ctx.current.transition.cause, ctx.delayed))
        return Commit(Transit(ctx, "work"))

    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        seen.append((ctx.timer, ctx.current.transition.cause, ctx.delayed))
        return Commit(End(ctx))

    engine.flows.set("ring", ring, replace=True)
    engine.flows.set("work", work, replace=True)
    await begun(engine, "t")
    async with Delayer(engine), engine.watch(status=Status.ENDED) as ended:
        await anext(ended)
    assert seen == [("t", "timer", False), ("", "transit", False)]
    noted = Transition("work", {"flowstate.timer": "t"})
    assert StateContext(State("b", transition=noted)).timer == ""


# At random


IDS, NAMES = ("a", "b", "c"), ("t", "u")


class Chance:
    """Does something at random with states that have timers, and looks whether all agrees."""

    def __init__(self, engine: Engine, clock: FakeClock, seed: int) -> None:
        self.engine, self.clock, self.rng = engine, clock, Random(seed)
        self.contexts = {id: StateContext(State(id)) for id in IDS}
        self.lost = 0

    def commands(self, ctx: StateContext) -> list[Command[None]]:
        """Return what is done with a state by one commit."""
        rng, after = self.rng, timedelta(seconds=self.rng.randrange(6))
        name, now = rng.choice(NAMES), self.clock.now()
        choices: list[list[Command[None]]] = [
            [SetTimer(ctx, name, "ring", after=after), Put(ctx)],
            [SetTimer(ctx, name, "work", until=now + after), Transit(ctx, "work")],
            [CancelTimer(ctx, name), Pause(ctx)],
            [Pause(ctx)],
            [Transit(ctx, "work")],
            [Delay(ctx, "ring", after=after, commit=rng.random() < 0.5)],
            [End(ctx)],
            [End(ctx), Forget(ctx)],
        ]
        found = rng.choice(choices)
        is_over = ctx.current.status is Status.ENDED and isinstance(found[0], SetTimer)
        return [Transit(ctx, "work"), *found] if is_over else found

    async def step(self) -> None:
        rng = self.rng
        id = rng.choice(IDS)
        if rng.random() < 0.6:
            await self.read(id)
        ctx = self.contexts[id]
        try:
            for command in self.commands(ctx) if rng.random() < 0.2 else ():
                if not isinstance(command, Put | Delay):
                    await self.engine.do(command)
            await self.engine.do(Commit(*self.commands(ctx)))
        except (RevisionMismatchError, InvalidCommandError):
            self.lost += 1
            await self.read(id)
        if rng.random() < 0.5:
            await self.clock.sleep(rng.choice([0.0, 0.5, 1.0, 3.0]))

    async def read(self, id: str) -> None:
        try:
            state = await self.engine.get_state(id)
        except StateNotFoundError:
            state = State(id)
        self.contexts[id] = StateContext(state)

    async def rows(self) -> dict[tuple[str, str], datetime]:
        page = await self.engine.get_delayed_states(limit=1_000)
        return {(row.state.id, row.timer): row.due for row in page.delayed if row.timer}

    async def promised(self) -> dict[tuple[str, str], datetime | None]:
        """Return the timers of all states, as their latest revisions have them."""
        return {
            (state.id, name): state.timer_due(name)
            async for state in self.engine.states(latest_only=True)
            for name in state.timers
        }


def check_log(log: list[State]) -> int:
    """Each timer that fired was there, was due, and is gone; return how many have fired."""
    latest: dict[str, State] = {}
    count = 0
    for state in log:
        before = latest.get(state.id, State(state.id))
        if state.transition.cause == "timer":
            due = before.timer_due(name := StateContext(state).timer)
            assert due is not None
            assert state.committed_at is not None
            assert state.committed_at >= due
            assert {*before.timers} - {*state.timers} == {name}
            count += 1
        for name in {*before.timers} & {*state.timers}:
            timer, due = state.timers[name], before.timer_due(name)
            assert timer.after is not None or timer.due is not None
            if state.transition.cause in {"delay", "timer", "end"}:
                assert (timer.due, timer.to) == (due, before.timers[name].to)
        latest[state.id] = State(state.id) if state.transition.cause == "forget" else state
    return count


@pytest.mark.parametrize("seed", range(40))
async def test_rows_and_states_agree_whatever_happens(
    engine: Engine, clock: FakeClock, seed: int
) -> None:
    chance = Chance(engine, clock, seed)
    engine.flows.set("ring", pause, replace=True)
    async with Delayer(engine, poll_interval=0.5, rng=Random(seed)):
        for _ in range(150):
            await chance.step()
            assert await chance.rows() == await chance.promised()
        await clock.sleep(60.0)
        await engine.idle()
    assert await chance.rows() == await chance.promised() == {}
    assert check_log([state async for state in engine.states()]) > 0
    assert 0 < chance.lost < 150
