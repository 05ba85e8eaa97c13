"""What could not be kept alive while it waited is executed only if no other has taken it over."""

import asyncio
import contextlib
from collections.abc import Sequence

import pytest

from flowstate import (
    Command,
    Commit,
    DriverError,
    End,
    Engine,
    EngineStoppedError,
    Execute,
    FakeClock,
    FlowRegistry,
    State,
    StateContext,
    StoreBusyError,
    Transit,
)
from flowstate.driver import Heartbeat, Liveness, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery import Recoverer
from flowstate.recovery_rules import RETRY_AFTER
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


class Asked(Slow):
    """Counts what it is asked, and cannot note heartbeats of one state."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.calls = 0
        self.locked = ""

    async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        self.calls += 1
        return await super().get_liveness(ids)

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        self.calls += 1
        if self.locked in [heartbeat.id for heartbeat in heartbeats]:
            raise StoreBusyError("locked")
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


@pytest.mark.parametrize("seconds", [2.0, 5.0, 9.5, 60.0])
async def test_what_a_commit_that_waited_for_its_turn_has_just_stored_is_executed_without_a_write(
    seconds: float,
) -> None:
    clock, flows, ran = FakeClock(), FlowRegistry(), list[float]()

    class Queueing(Asked):
        async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
            await clock.sleep(seconds)
            return await super().commit(batch)

        async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
            await clock.sleep(0.1)  # In which a heartbeat is sent.
            return await super().get_liveness(ids)

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(clock.monotonic())
        return End(ctx)

    driver = Queueing(clock)
    async with Engine(driver, flows, clock=clock) as engine:
        ctx = StateContext(State("job", annotations={RETRY_AFTER: "10"}))
        await engine.do(Commit(Transit(ctx, "work")))
        driver.seconds = 20.0  # A heartbeat would queue as well.
        await engine.do(Execute(ctx))
        await engine.idle()
        assert ran == [seconds if seconds < 10.0 / 3 else seconds + 0.1]
        assert await engine.head() == 1


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


async def test_what_no_other_has_taken_over_meanwhile_is_executed() -> None:
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


class LateVerdicts(Slow):
    """A store that commits at once, and takes a while to say so."""

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        verdicts = await super().commit(batch)
        seconds, self.seconds = self.seconds, 0.0
        await self._clock.sleep(seconds)
        return verdicts


@pytest.mark.parametrize("taken", [True, False])
async def test_a_renewal_that_was_acknowledged_too_late_is_confirmed_again(taken: bool) -> None:
    clock, ran = FakeClock(), list[int]()
    driver, flows = LateVerdicts(clock), FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx.committed.rev)
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine:
        ctx = await committed(engine, "job")
        await clock.sleep(9.5)
        driver.seconds = 20.0
        executing = asyncio.create_task(engine.execute(ctx))
        await clock.sleep(15.0)
        if taken:
            other = StateContext(await engine.get_state("job"))
            await engine.do(Commit(Transit(other, "work")))
        await executing
    assert ran == ([] if taken else [3])


@pytest.mark.parametrize("taken", [True, False])
async def test_a_renewal_between_two_steps_that_was_acknowledged_too_late(taken: bool) -> None:
    clock, ran = FakeClock(), list[int]()
    driver, flows = LateVerdicts(clock), FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx.committed.rev)
        driver.seconds = 7.0
        return Commit(Transit(ctx, "next"))

    @flows.flow("next")
    async def following(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx.committed.rev)
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine:
        executing = asyncio.create_task(engine.execute(await committed(engine, "job")))
        await clock.sleep(6.5)
        driver.seconds = 20.0
        await clock.sleep(15.0)
        other = StateContext(await engine.get_state("job"))
        assert other.committed.rev == 3  # The renewal, of which its own engine does not know yet.
        if taken:
            await engine.do(Commit(Transit(other, "next")))
        await executing
    assert ran == ([1] if taken else [1, 4])


@pytest.mark.parametrize("max_batch_size", [1, 64])
async def test_nothing_begins_when_its_engine_closes_while_it_is_confirmed(
    max_batch_size: int,
) -> None:
    """Nothing would keep it alive, and another engine would execute it as well."""
    clock, ran = FakeClock(), list[str]()
    driver, flows = Slow(clock), FlowRegistry()
    driver.max_batch_size = max_batch_size

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(engine.name)
        return Commit(End(ctx))

    async with driver:
        async with Engine(driver, flows, clock=clock) as other:
            ctx = await committed(other, "a")
        await clock.sleep(5.0)
        driver.seconds = 1.0
        async with Engine(driver, flows, clock=clock) as engine:
            read = StateContext(await engine.get_state(ctx.current.id))
            executing = asyncio.create_task(engine.execute(read))
            await clock.sleep(0.5)
        with pytest.raises(EngineStoppedError):
            await executing
    assert ran == []


@pytest.mark.parametrize(("locked", "most"), [("", 2), ("7", 20)])
async def test_many_are_confirmed_together(locked: str, most: int) -> None:
    clock, clock_of_store, flows = FakeClock(), FakeClock(), FlowRegistry()
    driver = Asked(clock_of_store)
    driver.max_batch_size = 64

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine:
        ids = [str(number) for number in range(20)]
        for id in ids:
            await committed(engine, id)
        read = [StateContext(await engine.get_state(id)) for id in ids]
        clock_of_store.advance(5.0)  # Else a look would do.
        driver.calls, driver.locked = 0, locked
        outcomes = await asyncio.gather(*map(engine.execute, read), return_exceptions=True)

    assert driver.calls <= most
    failed = [ctx.current.id for ctx, found in zip(read, outcomes, strict=True) if found]
    assert failed == [id for id in ids if id == locked]


async def test_what_stalls_sooner_than_the_store_replies_is_left_to_recovery(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, flows, ran = FakeClock(), FlowRegistry(), list[str]()

    class LateVerdicts(DriverWrapper):
        seconds = 0.0

        async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
            verdicts = await super().commit(batch)
            await clock.sleep(self.seconds)
            return verdicts

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx.current.id)
        return Commit(End(ctx))

    driver = LateVerdicts(MemoryDriver(clock))
    async with Engine(driver, flows, clock=clock) as engine:
        ctx = StateContext(State("a", annotations={RETRY_AFTER: "0.05"}))
        await engine.do(Commit(Transit(ctx, "work")))
        driver.seconds = 0.06
        await clock.sleep(0.05)
        head = await engine.head()
        await engine.execute(ctx)
        assert await engine.head() == head + 2
    assert ran == []
    assert "'a' stalls sooner than the store replies" in caplog.text
