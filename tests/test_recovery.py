"""Recovery on the memory driver, in time that is not real: rules, admission, and what is logged."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from itertools import pairwise

import pytest

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
from flowstate.driver import DamagedState, Heartbeat, StalledQuery, StalledStates, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery import Lease, Recoverer
from flowstate.recovery.policy import attempt_annotations, decide, without_attempt
from flowstate.stalling import stalls_after
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


# Rules


def committed(ctx: StateContext, **annotations: str) -> State:
    state = ctx.current
    transition = State("x").transition
    return State(
        state.id,
        rev=7,
        annotations=state.annotations,
        transition=type(transition)("work", annotations),
    )


def test_attempts_double_their_wait_and_differ_by_chance() -> None:
    ctx = StateContext(State("a"))
    recovery.set_retry_after(ctx, timedelta(seconds=10))
    state = committed(ctx, note="kept")
    waits = []
    for number in range(1, 15):
        found = attempt_annotations(state, random.Random(number))
        state = committed(ctx, note="kept", **found)
        assert recovery.attempt(state) == number
        assert recovery.idempotency_key(StateContext(state)) == "a:7:work"
        after = stalls_after(state)
        assert after is not None
        waits.append(after.total_seconds())
    for number, wait in enumerate(waits):
        assert 10 * 2 ** min(number, 10) <= wait <= 12.5 * 2 ** min(number, 10)
    assert len(set(waits[10:])) == 4
    assert without_attempt(state) == {"note": "kept"}


def test_a_wait_never_exceeds_what_can_be_stored() -> None:
    ctx = StateContext(State("a"))
    recovery.set_retry_after(ctx, timedelta(days=365_000))
    state = committed(ctx, **attempt_annotations(committed(ctx), random.Random(1)))
    assert stalls_after(state) == timedelta(days=365_000)


def test_decisions() -> None:
    ctx = StateContext(State("a"))
    recovery.set_max_attempts(ctx, 1)
    first = committed(ctx)
    second = committed(ctx, **attempt_annotations(first, random.Random(1)))
    assert decide(first, is_known=True) == "retry"
    assert decide(first, is_known=False) == "unknown flow"
    assert decide(second, is_known=True) == "drop"
    assert decide(second, is_known=False) == "unknown flow"


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "\u0663", "1" * 5_000])
def test_counts_that_cannot_be_read_are_the_default(text: str) -> None:
    key = "flowstate.recovery.max_attempts"
    state = State("a", annotations={key: text})
    assert recovery.max_attempts(state) == 3
    transition = committed(StateContext(state), **{"flowstate.recovery.attempt": text})
    assert recovery.attempt(transition) == 0


# Admission


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


async def test_a_full_engine_gets_no_more(clock: FakeClock) -> None:
    flows = FlowRegistry()
    most_waiting = 0

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        nonlocal most_waiting
        await clock.sleep(0.5)
        most_waiting = max(most_waiting, engine.waiting)
        return Commit(End(ctx))

    async with Engine(MemoryDriver(clock), flows, clock=clock, max_executions=3) as engine:
        await stalled(engine, 100)
        async with Recoverer(engine, rate=1e6):
            await all_ended(engine, 100)
    assert most_waiting <= 100  # Of one page at the very most; more would be a flood.


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
        self.on_beat: Callable[[], None] | None = None

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        if self.on_beat is not None:
            self.on_beat()
        return await super().beat(heartbeats)

    async def get_stalled(self, query: StalledQuery) -> StalledStates:
        if self.failing_reads:
            self.failing_reads -= 1
            raise self.error
        found = await super().get_stalled(query)
        damaged = (DamagedState("broken", 3, "not JSON"),)
        return StalledStates(found.states, found.more, found.now, found.next_at, found.end, damaged)

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        if any(put.id in self.failing_commits for writes in batch for put in writes.puts):
            raise DriverError("moody")
        verdicts = await super().commit(batch)
        if self.slow in [put.id for writes in batch for put in writes.puts]:
            self.committing.set()
            await asyncio.sleep(0.05)  # reason: time in which whoever waits can be cancelled
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
        "'elsewhere 0' is not recovered: unknown flow",
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
        assert recoverer.stats().skipped == {"unknown flow": 3}

        engine.flows.set("work", end, replace=True)
        began = clock.monotonic()
        await clock.sleep(61.0)
        await all_ended(engine, 3)
        assert clock.monotonic() - began <= 62.0


# Beyond help


async def test_a_dead_state_that_was_repaired_is_not_retried(
    engine: Engine, clock: FakeClock
) -> None:
    engine.flows.set("work", end)
    ctx = StateContext(State("a"))
    recovery.set_max_attempts(ctx, 0)
    await engine.do(Commit(Transit(ctx, "work")))
    async with Recoverer(engine):
        await all_ended(engine, 1)
    assert await recovery.count_dead(engine) == 1
    repaired = StateContext(await engine.get_state("a"))
    await engine.do(Commit(Transit(repaired, "work"), End(repaired)))
    assert not recovery.is_dead(repaired.committed)
    assert await recovery.count_dead(engine) == 0
    assert await recovery.retry_all_dead(engine) == 0


@pytest.mark.parametrize("attempts", [0, 1])
async def test_a_state_that_is_full_can_be_retried_and_ended(
    engine: Engine, clock: FakeClock, attempts: int
) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        raise ValueError("no luck")

    labels = {f"label {number}": "x" for number in range(64)}
    ctx = StateContext(State("a", labels=labels))
    recovery.set_max_attempts(ctx, attempts)
    await engine.do(Commit(Transit(ctx, "work", {"note": "x" * (1024 * 1024 - 4)})))
    async with Recoverer(engine):
        await all_ended(engine, 1)
    assert recovery.is_dead(await engine.get_state("a"))
    assert await recovery.retry_all_dead(engine) == 1


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


# The lease


async def test_a_lease_given_up_during_a_heartbeat_can_be_taken_again(clock: FakeClock) -> None:
    driver = Moody(clock)
    async with (
        Engine(driver, FlowRegistry(), clock=clock) as engine,
        Lease(engine, "job", seconds=1.0) as lease,
    ):
        await lease.wait_held()
        driver.on_beat = lease.give_up
        await clock.sleep(0.5)
        driver.on_beat = None
        await clock.sleep(5.0)
        assert lease.is_held


async def test_a_lease_survives_errors_of_any_kind(clock: FakeClock) -> None:
    driver = Moody(clock)

    def fail() -> None:
        raise OSError("no route to host")

    async with (
        Engine(driver, FlowRegistry(), clock=clock) as engine,
        Lease(engine, "job", seconds=1.0) as lease,
    ):
        await lease.wait_held()
        driver.on_beat = fail
        await clock.sleep(0.8)
        assert not lease.is_held
        driver.on_beat = None
        await clock.sleep(5.0)
        assert lease.is_held
