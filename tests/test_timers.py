"""Timers fire once, when they are due, at the latest revision, whatever else happens."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest

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
    Forget,
    Noop,
    Pause,
    SetTimer,
    State,
    StateContext,
    Status,
    Transit,
    Transition,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.testcases.support import take
from tests.timers import AT, HOUR, SECOND, Recorder, begun, opened


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> Recorder:
    return Recorder(clock)


@pytest.fixture
async def engine(driver: Recorder, clock: FakeClock) -> AsyncIterator[Engine]:
    async with opened(driver, clock) as engine:
        yield engine


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
