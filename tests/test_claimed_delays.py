"""Delays that are claimed while their flow runs, instead of committed."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import pytest

from flowstate import (
    Command,
    Commit,
    CommitUnknownError,
    Delay,
    Delayer,
    DriverError,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    Noop,
    Pause,
    State,
    StateContext,
    Status,
    Transit,
)
from flowstate.driver import Claim, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.testcases.support import DriverWrapper

LOGGER = "flowstate.delayer"
SECOND = timedelta(seconds=1)
REAL_SECONDS = 20  # A fake clock that jumps on and on is not stopped by pytest.


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


async def next_ended(engine: Engine) -> tuple[str, datetime | None]:
    """Wait for a state to end; return which, and when."""
    async with asyncio.timeout(REAL_SECONDS), engine.watch(status=Status.ENDED) as ended:
        state = await anext(ended)
    return state.id, state.committed_at


class Claims(DriverWrapper):
    """Loses the replies to claims, or refuses them, when told to."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryDriver(clock))
        self.lost = 0
        self.failing = False
        self.claims: list[Claim] = []

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        claims = [claim for writes in batch for claim in writes.claims]
        self.claims += claims
        if claims and self.failing:
            raise DriverError("no claims")
        verdicts = await super().commit(batch)
        if claims and self.lost:
            self.lost -= 1
            return [CommitUnknownError(writes.token) for writes in batch]
        return verdicts


async def claimed(engine: Engine) -> None:
    ctx = StateContext(State("a"))
    await engine.do(Commit(Pause(ctx)), Delay(ctx, "long", after=SECOND, commit=False))


def long_flow(clock: FakeClock, ran: list[str], seconds: float) -> FlowRegistry:
    flows = FlowRegistry()

    @flows.flow("long")
    async def long(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append("began")
        try:
            await clock.sleep(seconds)
        except asyncio.CancelledError:
            ran.append("cancelled")
            raise
        ran.append("ended")
        return Noop()

    return flows


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_a_claim_is_renewed_while_the_flow_runs_and_dropped_after_it(
    clock: FakeClock, lost: int
) -> None:
    driver, ran = Claims(clock), list[str]()
    async with Engine(driver, long_flow(clock, ran, 1_000.0), clock=clock) as engine:
        await claimed(engine)
        async with Delayer(engine, lease=60.0):
            while not ran:
                await clock.sleep(0.5)
            driver.lost = lost
            await clock.sleep(2_000.0)
            assert ran == ["began", "ended"]
            assert not (await engine.get_delayed_states()).delayed
    assert len({claim.holder for claim in driver.claims}) == 1
    assert 45 <= len(driver.claims) <= 60


async def test_an_execution_whose_claim_cannot_be_renewed_is_cancelled_before_others_begin(
    clock: FakeClock,
) -> None:
    driver, ran = Claims(clock), list[str]()
    async with Engine(driver, long_flow(clock, ran, 1_000.0), clock=clock) as engine:
        await claimed(engine)
        async with Delayer(engine, lease=60.0):
            while not ran:
                await clock.sleep(0.5)
            driver.failing = True
            await clock.sleep(58.0)
            assert ran == ["began", "cancelled"]
            driver.failing = False
            await clock.sleep(10.0)
            assert ran == ["began", "cancelled", "began"]


async def test_two_engines_never_execute_a_claimed_delay_at_once(clock: FakeClock) -> None:
    memory, ran = MemoryDriver(clock), list[str]()
    flows = long_flow(clock, ran, 500.0)
    async with (
        Engine(memory, flows, clock=clock) as first,
        Engine(memory, flows, clock=clock) as second,
        Delayer(first, lease=10.0),
        Delayer(second, lease=10.0),
    ):
        await claimed(first)
        await clock.sleep(1_000.0)
    assert ran == ["began", "ended"]


async def test_a_flow_that_moves_its_state_on_needs_no_claim_any_more(clock: FakeClock) -> None:
    driver, ran, flows = Claims(clock), list[str](), FlowRegistry()

    @flows.flow("long")
    async def long(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Commit(Transit(ctx, "long")))
        await clock.sleep(500.0)
        ran.append("ended")
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine, Delayer(engine, lease=60.0):
        await claimed(engine)
        assert (await next_ended(engine))[0] == "a"
    assert ran == ["ended"]
    assert len(driver.claims) == 2  # The second one was refused.


async def test_a_claimed_delay_that_the_store_calls_due_does_not_run_twice_at_once(
    clock: FakeClock,
) -> None:
    flows, release, most = FlowRegistry(), asyncio.Event(), 0
    running = 0

    @flows.flow("long")
    async def long(ctx: StateContext, engine: Engine) -> Command[None]:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await release.wait()
        running -= 1
        return Commit(End(ctx))

    flows.declare("other")
    driver = Claims(clock)
    async with Engine(driver, flows, clock=clock) as engine, Delayer(engine, lease=30):
        await claimed(engine)
        while not driver.claims:
            await clock.sleep(0.5)
        clock.set_now(clock.now() + 100 * SECOND)  # The store's clock is set; no time has passed.
        await engine.do(Delay(StateContext(State("b")), "other", after=SECOND))  # Look again.
        await clock.sleep(5)
        release.set()
        await next_ended(engine)

    assert most == 1


async def test_a_flow_that_supersedes_itself_fires_again_and_again_but_not_at_once(
    clock: FakeClock,
) -> None:
    flows, ran = FlowRegistry(), list[float]()

    @flows.flow("long")
    async def long(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(clock.monotonic())
        await engine.update("a", lambda own: own.put(len(ran)))
        return Commit(End(ctx))

    async with Engine(MemoryDriver(clock), flows, clock=clock) as engine:
        ctx = StateContext(State("a"))
        await engine.do(Commit(Delay(ctx, "long", after=SECOND, commit=False)))
        async with Delayer(engine, lease=60.0):
            await clock.sleep(100.0)
    assert 15 <= len(ran) <= 20
    assert all(later - sooner >= 5.0 for sooner, later in pairwise(ran))


async def test_what_is_interrupted_because_its_state_was_moved_on_fires_again(
    clock: FakeClock,
) -> None:
    flows, ran = FlowRegistry(), list[str]()

    @flows.flow("long", interrupt=True)
    async def long(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx.get(str, default=""))
        await clock.sleep(30.0)
        return Commit(End(ctx))

    async with Engine(MemoryDriver(clock), flows, clock=clock) as engine:
        ctx = StateContext(State("a"))
        await engine.do(Commit(Delay(ctx, "long", after=SECOND, commit=False)))
        async with Delayer(engine, lease=60.0):
            await clock.sleep(10.0)
            await engine.update("a", lambda own: own.put("new"))
            await engine.wait_for("a", status=Status.ENDED, timeout=100.0)
    assert ran == ["", "new"]
