"""What could not be kept alive while it waited is executed only when nobody has taken it over."""

import asyncio
import contextlib
from collections.abc import Sequence

from flowstate import (
    Command,
    Commit,
    DriverError,
    End,
    Engine,
    Execute,
    FakeClock,
    FlowRegistry,
    State,
    StateContext,
    Transit,
)
from flowstate.driver import Heartbeat
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery import Recoverer
from flowstate.stalling import RETRY_AFTER
from flowstate.testcases.support import DriverWrapper


class Slow(DriverWrapper):
    """A store whose heartbeats take a while, or fail."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryDriver(clock))
        self._clock = clock
        self.seconds = 0.0
        self.is_away = False

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        await self._clock.sleep(self.seconds)
        if self.is_away:
            raise DriverError("away")
        return await super().beat(heartbeats)


async def committed(engine: Engine, id: str) -> StateContext:
    ctx = StateContext(State(id, annotations={RETRY_AFTER: "10"}))
    await engine.do(Commit(Transit(ctx, "work")))
    return ctx


async def test_a_slow_confirmation_does_not_stop_what_has_not_begun() -> None:
    clock, ran = FakeClock(), list[str]()
    driver, flows = Slow(clock), FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx.current.id)
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine:
        for age in (5.0, 9.5):
            ctx = await committed(engine, f"{age} s old")
            await clock.sleep(age)  # As when the verdict on the commit took so long.
            driver.seconds = 6.0
            await engine.do(Execute(ctx))
            await engine.idle()
            driver.seconds = 0.0
    assert ran == ["5.0 s old", "9.5 s old"]


async def waiting(*, taken: bool, away: bool) -> list[str]:
    """Let an execution wait for long behind another one; return what was executed."""
    clock, ran = FakeClock(), list[str]()
    driver, flows = Slow(clock), FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx.current.id)
        if ctx.current.id == "first":
            driver.is_away = away
            if taken:
                other = StateContext(await engine.get_state("second"))
                await engine.do(Commit(Transit(other, "work")))
            with contextlib.suppress(asyncio.CancelledError):
                await clock.sleep(60.0)
            driver.is_away = False
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock, max_executions=1) as engine:
        contexts = [await committed(engine, id) for id in ("first", "second")]
        await engine.do(*map(Execute, contexts))
        await engine.idle()
    return ran


async def test_what_nobody_has_taken_over_meanwhile_is_executed() -> None:
    assert await waiting(taken=False, away=True) == ["first", "second"]


async def test_what_others_have_taken_over_is_not_executed() -> None:
    assert await waiting(taken=True, away=True) == ["first"]


async def test_what_is_known_to_be_taken_over_is_not_executed() -> None:
    assert await waiting(taken=True, away=False) == ["first"]


async def test_a_slow_commit_of_an_attempt_wastes_none() -> None:
    clock, ran = FakeClock(), list[str]()
    driver, flows = Slow(clock), FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx.current.id)
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine:
        await committed(engine, "job")
        driver.seconds = 6.0
        async with Recoverer(engine, lease=100.0) as recoverer:
            while not ran:
                await clock.sleep(1.0)
            assert recoverer.stats().retried == 1
