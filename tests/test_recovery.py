"""Recovery on the memory driver, in time that is not real: limits, and what is logged."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise

import pytest
from msgspec.structs import replace

from flowstate import (
    Command,
    Commit,
    DriverError,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    Noop,
    State,
    StateContext,
    Status,
    Transit,
    recovery,
)
from flowstate.driver import (
    DamagedDelay,
    Driver,
    DuePage,
    DueQuery,
    Verdict,
    Writes,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery import Recoverer
from flowstate.recovery.throttle import AttemptLimiter
from flowstate.testcases.support import DriverWrapper, end


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def engine(clock: FakeClock) -> AsyncIterator[Engine]:
    driver = MemoryDriver(clock)
    async with Engine(driver, FlowRegistry(), clock=clock, shutdown_timeout=0.1) as engine:
        yield engine


async def stalled(engine: Engine, count: int, flow: str = "work") -> list[StateContext]:
    contexts = []
    for number in range(count):
        ctx = StateContext(State(f"{flow} {number}"))
        await engine.do(Commit(Transit(ctx, flow)))
        contexts.append(ctx)
    return contexts


async def all_ended(engine: Engine, count: int) -> None:
    ended = 0
    async with engine.watch(status=Status.ENDED) as states:
        async for state in states:
            ended += not state.id.startswith("flowstate.")
            if ended == count:
                return


# How many begin


async def test_no_more_begin_in_a_second_than_allowed(engine: Engine, clock: FakeClock) -> None:
    began: list[float] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        began.append(clock.monotonic())
        return Commit(End(ctx))

    await stalled(engine, 500)
    async with Recoverer(engine, rate=50.0):
        await all_ended(engine, 500)
    assert began[-1] - began[0] == pytest.approx(10.0, rel=0.1)
    assert max(later - sooner for sooner, later in pairwise(began)) < 0.1


async def test_no_more_run_at_once_than_allowed(engine: Engine, clock: FakeClock) -> None:
    running = most = 0

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await clock.sleep(1.0)
        running -= 1
        return Commit(End(ctx))

    await stalled(engine, 200)
    async with Recoverer(engine, max_running=7, rate=1e6):
        await all_ended(engine, 200)
    assert most == 7


async def test_a_turn_that_comes_to_nothing_makes_room_at_once(
    engine: Engine, clock: FakeClock
) -> None:
    limiter = AttemptLimiter(engine, 2, 1_000.0, random.Random(1))
    async with limiter.turn():
        limiter.add(asyncio.get_running_loop().create_future())
    beginning = asyncio.Event()

    async def moved_on() -> None:
        async with limiter.turn():
            beginning.set()
            await clock.sleep(0.05)

    moving = asyncio.create_task(moved_on())
    await beginning.wait()
    async with limiter.turn():
        assert clock.monotonic() < 1.0
    await moving


async def test_long_ones_hold_up_no_others(engine: Engine, clock: FakeClock) -> None:
    @engine.flows.flow("long")
    async def long(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(36_000.0)
        return Noop()

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx))

    await stalled(engine, 20, "long")
    await stalled(engine, 20)
    began = clock.monotonic()
    async with Recoverer(engine, max_running=5):
        await all_ended(engine, 20)
    assert clock.monotonic() - began < 120 + 5 * 31


async def test_what_stalled_first_goes_first(engine: Engine, clock: FakeClock) -> None:
    order: list[str] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        order.append(ctx.current.id)
        return Commit(End(ctx))

    for number in range(250):
        ctx = StateContext(State(f"{number:03}"))
        await engine.do(Commit(Transit(ctx, "work")))
        await clock.sleep(0.001)
    async with Recoverer(engine):
        await all_ended(engine, 250)
    assert order == [f"{number:03}" for number in range(250)]


class Slow(DriverWrapper):
    """Takes its time for commits, of which it does many at once."""

    def __init__(self, driver: Driver, clock: FakeClock) -> None:
        super().__init__(driver)
        self.max_batch_size = 100
        self.latency = 0.0
        self._clock = clock

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        await self._clock.sleep(self.latency)
        return await super().commit(batch)


@pytest.mark.parametrize("latency", [0.0, 0.7])
async def test_no_attempt_waits_for_its_turn_in_the_engine(
    clock: FakeClock, latency: float
) -> None:
    flows = FlowRegistry()
    most_waiting = 0

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        nonlocal most_waiting
        await clock.sleep(0.5)
        most_waiting = max(most_waiting, engine.waiting)
        return Commit(End(ctx))

    driver = Slow(MemoryDriver(clock), clock)
    async with Engine(driver, flows, clock=clock, max_executions=3) as engine:
        await stalled(engine, 20)
        driver.latency = latency
        async with Recoverer(engine, rate=1e6):
            await all_ended(engine, 20)
    assert most_waiting == 0


@pytest.mark.parametrize("others", [0, 1])
async def test_a_leader_whose_engine_stays_full_lets_others_lead(
    clock: FakeClock, others: int
) -> None:
    flows, driver, released = FlowRegistry(), MemoryDriver(clock), asyncio.Event()

    @flows.flow("forever")
    async def forever(ctx: StateContext, engine: Engine) -> Command[None]:
        await released.wait()
        return Commit(End(ctx))

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx))

    async with contextlib.AsyncExitStack() as stack:
        full = await stack.enter_async_context(
            Engine(driver, flows, clock=clock, max_executions=1, shutdown_timeout=0.1)
        )
        for ctx in await stalled(full, 2, "forever"):
            await full.begin(ctx)
        leader = await stack.enter_async_context(Recoverer(full))
        while not leader.is_leading:
            await clock.sleep(0.1)
        for _ in range(others):
            other = await stack.enter_async_context(Engine(driver, flows, clock=clock))
            await stack.enter_async_context(Recoverer(other))
        await stalled(full, 1)
        await clock.sleep(600.0)
        assert ((await full.get_state("work 0")).status is Status.ENDED) == bool(others)
        released.set()
        await clock.sleep(600.0)
        assert (await full.get_state("work 0")).status is Status.ENDED


# Going on


class Moody(DriverWrapper):
    """Fails reads or commits on request, and can have a damaged state."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryDriver(clock))
        self.failing_reads = 0
        self.failing_commits: set[str] = set()
        self.error: Exception = DriverError("moody")
        self.slow = ""
        self.committing = asyncio.Event()
        self.refusing = asyncio.Event()

    async def get_due(self, query: DueQuery) -> DuePage:
        if self.failing_reads:
            self.failing_reads -= 1
            raise self.error
        found = await super().get_due(query)
        return replace(found, damaged=[DamagedDelay("broken", "broken", None, "not JSON")])

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        if any(put.id in self.failing_commits for writes in batch for put in writes.puts):
            self.refusing.set()
            raise DriverError("moody")
        verdicts = await super().commit(batch)
        if self.slow in [put.id for writes in batch for put in writes.puts]:
            self.committing.set()
            await asyncio.sleep(0.05)  # reason: time in which those who wait can be cancelled
        return verdicts


@pytest.mark.parametrize("error", [DriverError("moody"), ValueError("a bug of a driver")])
async def test_goes_on_after_errors_of_the_store(
    clock: FakeClock, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    driver, flows = Moody(clock), FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx))

    driver.failing_reads, driver.error = 5, error
    async with Engine(driver, flows, clock=clock) as engine:
        await stalled(engine, 10)
        driver.failing_commits = {"work 3"}
        async with Recoverer(engine) as recoverer:
            await all_ended(engine, 9)
            driver.failing_commits = set()
            began = clock.monotonic()
            await all_ended(engine, 10)
            assert clock.monotonic() - began < 120
            await clock.sleep(0.1)
            stats = recoverer.stats()
    assert "cannot look for stalled states: " + str(error) in caplog.text
    assert "cannot recover 'work 3'" in caplog.text
    assert (stats.retried, stats.completed) == (10, 10)
    assert stats.skipped == {"damaged": 1}  # Once, however often it is met.


async def test_ends_with_its_engine(clock: FakeClock) -> None:
    engine = Engine(MemoryDriver(clock), FlowRegistry(), clock=clock)
    await engine.__aenter__()
    recoverer = Recoverer(engine)
    await recoverer.__aenter__()
    await asyncio.sleep(0)  # reason: it begins
    await engine.__aexit__(None, None, None)
    await recoverer.__aexit__(None, None, None)


async def test_every_decision_is_logged(
    engine: Engine, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "flowstate.recovery")

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        raise ValueError("no luck")

    engine.flows.declare("elsewhere")
    await stalled(engine, 1, "elsewhere")
    ctx = StateContext(State("a"))
    recovery.set_max_attempts(ctx, 1)
    await engine.do(Commit(Transit(ctx, "work")))
    async with Recoverer(engine) as recoverer:
        await all_ended(engine, 1)
        stats = recoverer.stats()
    for text in (
        "lease 'recovery.default': held by",
        "'a' stalled in flow 'work': attempt 1 of 1",
        "attempt 1 of 'a' failed",
        "'a' ended by force: made no progress in 1 attempt: ValueError: no luck",
        "states in flow 'elsewhere' are not recovered: unknown flow",
    ):
        assert text in caplog.text
    named = [record for record in caplog.records if getattr(record, "state_id", None) == "a"]
    assert {record.attempt for record in named if hasattr(record, "attempt")} == {1}
    assert (stats.added, stats.retried, stats.failed, stats.dropped) == (1, 1, 1, 1)
    assert stats.skipped == {"unknown flow": 1}


async def test_a_flow_that_is_registered_later_is_found(engine: Engine, clock: FakeClock) -> None:
    engine.flows.declare("work")
    await stalled(engine, 3)
    async with Recoverer(engine) as recoverer:
        await clock.sleep(200.0)
        assert recoverer.stats().skipped == {"unknown flow": 1}  # Flows, not states.

        engine.flows.set("work", end, replace=True)
        began = clock.monotonic()
        await clock.sleep(61.0)
        await all_ended(engine, 3)
        assert clock.monotonic() - began <= 62.0


async def test_an_attempt_is_not_lost_between_its_commit_and_its_run(clock: FakeClock) -> None:
    ran: list[int] = []
    flows, driver = FlowRegistry(), Moody(clock)

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(recovery.attempt(ctx.current))
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine:
        await stalled(engine, 1)
        driver.slow = "work 0"
        recoverer = Recoverer(engine)
        await recoverer.__aenter__()
        await driver.committing.wait()
        await recoverer.__aexit__(None, None, None)
        await engine.idle()
    assert ran == [1]


@pytest.mark.parametrize("stalled_for", [5.0, 20.0])
async def test_what_the_store_refused_once_is_tried_again_soon(
    clock: FakeClock, stalled_for: float
) -> None:
    flows, driver = FlowRegistry(), Moody(clock)

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine:
        await stalled(engine, 1)
        await clock.sleep(120.0 + stalled_for)
        driver.failing_commits = {"work 0"}
        async with Recoverer(engine, poll_interval=1.0):
            await clock.sleep(0.6)
            assert driver.refusing.is_set()
            driver.failing_commits = set()
            await clock.sleep(2.0)
            await engine.idle()
            assert (await engine.get_state("work 0")).status is Status.ENDED
