"""An engine stops what it cannot keep alive, before another one may take it over."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    Execute,
    ExecutionLostError,
    FakeClock,
    FlowRegistry,
    Noop,
    State,
    StateContext,
    SystemClock,
    Transit,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery_rules import RETRY_AFTER
from tests.heartbeats import HOUR, Recorder, committed


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> Recorder:
    return Recorder(clock)


@pytest.fixture
async def engine(driver: Recorder, clock: FakeClock) -> AsyncIterator[Engine]:
    async with Engine(driver, FlowRegistry(), clock=clock, name="here") as engine:
        yield engine


@pytest.mark.parametrize("background", [True, False])
async def test_without_contact_it_stops_before_others_may_take_over(
    engine: Engine,
    driver: Recorder,
    clock: FakeClock,
    background: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped: list[tuple[float, list[str]]] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        driver.is_away = True
        try:
            await clock.sleep(HOUR)
        except asyncio.CancelledError:
            stopped.append((clock.monotonic(), await driver.stalled()))
            raise
        return Commit(End(ctx))

    ctx = await committed(engine)
    if background:
        await engine.do(Execute(ctx))
        await engine.idle()
        assert "no heartbeat got through" in caplog.text
    else:
        with pytest.raises(ExecutionLostError, match="no heartbeat got through"):
            await engine.execute(ctx)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
    ((at, stalled),) = stopped
    assert at == pytest.approx(108.0, abs=1.0)
    assert stalled == []
    assert driver.calls > 3  # It tried again meanwhile.


async def test_contact_that_comes_back_saves_the_execution(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        driver.is_away = True
        await clock.sleep(90.0)
        driver.is_away = False
        await clock.sleep(HOUR)
        return Commit(End(ctx))

    await engine.execute(await committed(engine))
    assert (await engine.get_state("a")).status == "ended"


@pytest.mark.parametrize("taken", [True, False])
async def test_a_process_that_slept_too_long_looks_before_it_calls_another_flow(
    engine: Engine, driver: Recorder, clock: FakeClock, taken: bool
) -> None:
    ran = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx.current.id)
        if len(ran) > 1:
            return Commit(End(ctx))
        if taken:
            await engine.do(Commit(Transit(StateContext(ctx.committed), "work")))
        clock.advance(HOUR)  # As when the process is stopped, right before it goes on.
        return Transit(ctx, "work")

    await engine.execute(await committed(engine))
    assert ran == ["a"] if taken else ["a", "a"]


async def test_only_the_lost_one_of_two_nested_executions_stops(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    ends: list[str] = []

    @engine.flows.flow("outer")
    async def outer(ctx: StateContext, engine: Engine) -> Command[None]:
        try:
            await engine.execute(await committed(engine, "inner", **{RETRY_AFTER: "10"}))
        except ExecutionLostError as lost:
            ends.append(lost.id)
        driver.is_away = False
        await clock.sleep(1.0)
        return Commit(End(ctx))

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        driver.is_away = True
        await clock.sleep(HOUR)
        return Noop()

    ctx = StateContext(State("outer"))
    await engine.do(Commit(Transit(ctx, "outer")))
    await engine.execute(ctx)
    assert ends == ["inner"]
    assert ctx.committed.status == "ended"


async def test_a_state_that_has_moved_on_is_not_executed(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    ran = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx)
        return Noop()

    ctx = await committed(engine)
    old = StateContext(ctx.committed)
    await engine.do(Commit(Transit(ctx, "work")))
    await engine.execute(old)
    assert ran == []


async def test_one_locked_state_stops_no_other(driver: Recorder, clock: FakeClock) -> None:
    flows, stalled = FlowRegistry(), set[str]()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(500.0)
        stalled.update(await driver.stalled())
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine:
        contexts = [await committed(engine, str(number)) for number in range(50)]
        driver.locked = "7"
        for ctx in contexts:
            await engine.do(Execute(ctx))
        await engine.idle()
    assert stalled == {"7"}


async def test_a_stop_that_is_cancelled_leaves_nothing_behind(
    driver: Recorder, clock: FakeClock
) -> None:
    flows, before, threads = FlowRegistry(), asyncio.all_tasks(), set(threading.enumerate())

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await asyncio.Event().wait()
        return Noop()

    engine = Engine(driver, flows, clock=clock, shutdown_timeout=60.0)
    await engine.__aenter__()
    await engine.do(Execute(await committed(engine)))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await engine.__aexit__(None, None, None)
    assert asyncio.all_tasks() == before
    assert set(threading.enumerate()) <= threads


class Suspended(SystemClock):
    """That of a machine that can be suspended: its timers stand still meanwhile."""

    longest_sleep = 0.02
    slept = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.slept


async def test_what_ran_while_the_machine_was_suspended_is_stopped_when_it_wakes() -> None:
    clock, flows = Suspended(), FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        clock.slept = HOUR
        await asyncio.sleep(10.0)
        return Noop()

    async with Engine(MemoryDriver(), flows, clock=clock) as engine:
        with pytest.raises(ExecutionLostError):
            await engine.execute(await committed(engine))
