"""Clocks that jump by hours, in a process or in a store: nothing is early, nothing stays late."""

import asyncio
from datetime import timedelta
from random import Random

import pytest

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    Pause,
    State,
    StateContext,
    Status,
    Transit,
)
from flowstate.driver import Driver
from flowstate.recovery import Lease, Recoverer, set_retry_after
from flowstate.testing.faults import WrongClock
from tests.world.places import Place

LIMIT = 15.0  # Real seconds; the others pass in no time.
HOURS = 3
STEP = 0.01
ROUNDS = 12

pytestmark = pytest.mark.parametrize("kind", ["memory", "sqlite"])


@pytest.fixture
def clock() -> WrongClock:
    return WrongClock(FakeClock())


@pytest.fixture
def driver(kind: str, tmp_path: object, clock: WrongClock) -> Driver:
    return Place(kind, f"{tmp_path}/store.db").driver(clock=clock)


async def leading(recoverer: Recoverer, clock: WrongClock) -> None:
    """Wait until it leads, since the first look of a leader is believed."""
    while not recoverer.is_leading:
        await clock.sleep(0.01)


class Fired:
    """Flows, and when they ran."""

    def __init__(self, clock: WrongClock) -> None:
        self.at: dict[str, float] = {}
        self._clock = clock
        self.flows = FlowRegistry()
        self.flows.set("fire", self._fire)

    def after(self, moment: float, id: str) -> float:
        """Return how long after a moment the flow of a state ran; stores count microseconds."""
        return round(self.at[id] - moment, 3)

    async def _fire(self, ctx: StateContext, _: Engine) -> Command[None]:
        self.at[ctx.current.id] = self._clock.monotonic()
        return Commit(End(ctx))


def stalling(id: str) -> StateContext:
    ctx = StateContext(State(id))
    set_retry_after(ctx, timedelta(seconds=1))
    return ctx


async def ended(engine: Engine, *ids: str) -> None:
    """Wait until states have ended, in steps: the clock jumps for those who sleep."""
    async with asyncio.timeout(LIMIT):
        for id in ids:
            while (await engine.get_state(id)).status is not Status.ENDED:
                await engine.clock.sleep(STEP)


@pytest.mark.parametrize("jump", [HOURS, -HOURS])
async def test_a_delay_made_before_a_jump(driver: Driver, clock: WrongClock, jump: int) -> None:
    """Ahead: what became due meanwhile fires soon. Back: it waits by the new time of day."""
    fired = Fired(clock)
    async with Engine(driver, fired.flows, clock=clock) as engine, Delayer(engine):
        overdue, soon = StateContext(State("hour")), StateContext(State("soon"))
        await engine.do(Commit(Delay(overdue, "fire", timedelta(hours=1))))
        await clock.sleep(0.1)
        clock.error = timedelta(hours=jump)
        jumped = clock.monotonic()
        await engine.do(Commit(Delay(soon, "fire", timedelta(milliseconds=300))))
        await ended(engine, "soon", *(["hour"] if jump > 0 else []))
        assert 0.3 <= fired.after(jumped, "soon") < 0.4
        if jump > 0:
            assert fired.after(jumped, "hour") < 0.1
        else:
            assert "hour" not in fired.at


async def test_a_jump_back_and_again_the_right_time(driver: Driver, clock: WrongClock) -> None:
    fired = Fired(clock)
    async with Engine(driver, fired.flows, clock=clock) as engine, Delayer(engine):
        clock.error = timedelta(hours=HOURS)  # Ahead once, so that committed_at is.
        await engine.do(Commit(Pause(StateContext(State("ahead")))))
        clock.error = timedelta(0)
        began = clock.monotonic()
        ctx = StateContext(State("soon"))
        await engine.do(Commit(Pause(ctx), Delay(ctx, "fire", timedelta(milliseconds=200))))
        until = StateContext(State("until"))
        at = clock.now() + timedelta(milliseconds=300)
        await engine.do(Commit(Delay(until, "fire", until=at)))
        await ended(engine, "soon", "until")
        assert 0.2 <= fired.after(began, "soon") < 0.3
        assert 0.3 <= fired.after(began, "until") < 0.4
        times = [state.committed_at async for state in engine.states()]
        assert times == sorted(times)  # type: ignore[type-var]


async def test_recovery_of_what_was_committed_while_the_clock_was_ahead(
    driver: Driver, clock: WrongClock
) -> None:
    """Its deadline counts from the time of the store, not from what is stamped."""
    fired = Fired(clock)
    clock.error = timedelta(hours=HOURS)
    async with driver:
        async with Engine(driver, fired.flows, clock=clock) as engine:
            await engine.do(Commit(Transit(stalling("early"), "fire")))
        clock.error = timedelta(0)
        async with Engine(driver, fired.flows, clock=clock) as engine:
            await engine.do(Commit(Transit(stalling("late"), "fire")))
            began = clock.monotonic()
            async with Recoverer(engine, lease=2.0, poll_interval=0.1):
                await ended(engine, "late")
        assert 1.0 <= fired.after(began, "late") < 1.5


@pytest.mark.parametrize("jump", [HOURS, -HOURS])
async def test_what_runs_while_the_clock_jumps_is_not_recovered(
    driver: Driver, clock: WrongClock, jump: int
) -> None:
    runs, flows, go_on = [], FlowRegistry(), asyncio.Event()

    @flows.flow("long")
    async def long(ctx: StateContext, engine: Engine) -> Command[None]:
        runs.append(ctx.current.rev)
        await go_on.wait()
        return Commit(End(ctx))

    async with (
        Engine(driver, flows, clock=clock) as worker,
        Engine(driver, flows, clock=clock) as other,
        Recoverer(other, lease=2.0, poll_interval=0.1),
        Lease(worker, "held", seconds=2.0, poll_interval=0.1) as lease,
    ):
        ctx = stalling("a")
        await worker.do(Commit(Transit(ctx, "long")))
        task = asyncio.create_task(worker.execute(ctx))
        await lease.wait_held()
        term = lease.term
        for hours in (jump, 2 * jump):
            await clock.sleep(3.0)
            clock.error = timedelta(hours=hours)
            await clock.sleep(3.0)
            assert lease.is_held
            assert lease.term == term
        go_on.set()
        await asyncio.wait_for(task, LIMIT)
    assert len(runs) == 1


@pytest.mark.parametrize("behind", [2.1, 2.9, 60.0])
async def test_a_clock_that_is_behind_for_a_moment_takes_no_execution_over(
    driver: Driver, clock: WrongClock, behind: float
) -> None:
    """The deadline that a heartbeat sets meanwhile comes too early, and no look shows why."""
    runs, flows, go_on = [], FlowRegistry(), asyncio.Event()

    @flows.flow("long")
    async def long(ctx: StateContext, engine: Engine) -> Command[None]:
        runs.append(ctx.current.id)
        await go_on.wait()
        return Commit(End(ctx))

    async with (
        Engine(driver, flows, clock=clock) as worker,
        Engine(driver, flows, clock=clock) as other,
        Recoverer(other, lease=2.0, poll_interval=0.1, rng=Random(0)) as recoverer,
    ):
        await leading(recoverer, clock)
        ctx = stalling("a")
        set_retry_after(ctx, timedelta(seconds=3))
        await worker.do(Commit(Transit(ctx, "long")))
        task = asyncio.create_task(worker.execute(ctx))
        for step in range(ROUNDS):
            await clock.sleep(1.0 + step / ROUNDS)
            clock.error = timedelta(seconds=-behind)
            await clock.sleep(1.1)  # A heartbeat comes each second.
            clock.error = timedelta(0)
        assert recoverer.stats().retried == 0
        go_on.set()
        await asyncio.wait_for(task, LIMIT)
    assert runs == ["a"]


@pytest.mark.parametrize("behind", [0.0, 2.9, 8.0])
async def test_what_dies_while_the_clock_is_behind_is_recovered_within_twice_its_time(
    driver: Driver, clock: WrongClock, behind: float
) -> None:
    fired = Fired(clock)
    async with (
        Engine(driver, fired.flows, clock=clock) as engine,
        Recoverer(engine, lease=2.0, poll_interval=0.1) as recoverer,
    ):
        await leading(recoverer, clock)
        for id in "abc":
            await clock.sleep(1.0)
            clock.error = timedelta(seconds=-behind)
            await clock.sleep(0.3)
            await engine.do(Commit(Transit(stalling(id), "fire")))
            committed = clock.monotonic()
            await clock.sleep(0.3)
            clock.error = timedelta(0)
            await ended(engine, id)
            assert 1.0 <= fired.after(committed, id) < (2.1 if behind else 1.2)


async def test_what_has_crashed_is_recovered_soon_after_a_jump_ahead(
    driver: Driver, clock: WrongClock
) -> None:
    """Not at once: only the next heartbeat would show that it has not crashed."""
    fired = Fired(clock)
    async with Engine(driver, fired.flows, clock=clock) as engine:
        async with Recoverer(engine, lease=2.0, poll_interval=0.1):
            ctx = stalling("crashed")
            set_retry_after(ctx, timedelta(seconds=1.5))
            await engine.do(Commit(Transit(ctx, "fire")))
            await clock.sleep(0.5)
            clock.error = timedelta(hours=HOURS)
            jumped = clock.monotonic()
            await ended(engine, "crashed")
        assert clock.monotonic() - jumped < 4.0
