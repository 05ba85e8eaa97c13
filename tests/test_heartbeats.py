"""An engine keeps alive what it executes, and pays for that only as often as it must."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    Execute,
    FakeClock,
    FlowRegistry,
    State,
    StateContext,
    Transit,
)
from flowstate.executions.execution import read_note
from flowstate.recovery import idempotency_key
from flowstate.recovery_rules import DISABLED, RETRY_AFTER
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


async def test_ten_hours_are_never_stalled_and_cost_a_heartbeat_each_third(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    stalled: list[str] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        for _ in range(10 * 60):
            await clock.sleep(60.0)
            stalled.extend(await driver.stalled())
        return Commit(End(ctx))

    await engine.execute(await committed(engine))
    assert stalled == []
    assert len(driver.beats) == pytest.approx(10 * HOUR / 40.0, abs=2)
    assert read_note(driver.beats[-1].note).engine == "here"
    assert read_note(driver.beats[-1].note).seconds == pytest.approx(10 * HOUR, abs=100)


async def test_shorter_rules_count_from_their_commit_on(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    stalled: list[str] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ctx.set_annotation(RETRY_AFTER, "1")
        await engine.do(Commit(Transit(ctx, "work")))
        for _ in range(50):
            await clock.sleep(0.5)
            stalled.extend(await driver.stalled())
        return Commit(End(ctx))

    await engine.execute(await committed(engine))
    assert stalled == []


async def test_each_commit_of_a_long_execution_starts_again(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    stalled: list[str] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        for _ in range(100):
            await clock.sleep(30.0)
            await engine.do(Commit(Transit(ctx, "work")))
            stalled.extend(await driver.stalled())
        return Commit(End(ctx))

    await engine.execute(await committed(engine))
    assert stalled == []
    assert {beat.id for beat in driver.beats} <= {"a"}


async def test_short_executions_cost_no_heartbeat(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(39.0)
        return Commit(End(ctx))

    contexts = [await committed(engine, str(number)) for number in range(10)]
    await asyncio.gather(*(engine.execute(ctx) for ctx in contexts))
    assert driver.calls == 0


async def test_many_are_kept_alive_with_one_call(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(70.0)
        return Commit(End(ctx))

    for number in range(200):
        await engine.do(Execute(await committed(engine, str(number))))
    await engine.idle()
    assert (len(driver.beats), driver.calls) == (200, 1)


async def test_the_own_rules_of_a_state_count(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(100.0)
        return Commit(End(ctx))

    quick = await committed(engine, "quick", **{RETRY_AFTER: "3"})
    slow = await committed(engine, "slow", **{RETRY_AFTER: "3000"})
    off = await committed(engine, "off", **{DISABLED: ""})
    await asyncio.gather(*(engine.execute(ctx) for ctx in (quick, slow, off)))
    assert {beat.id for beat in driver.beats} == {"quick"}
    assert len(driver.beats) == pytest.approx(100, abs=5)


async def test_what_waits_for_its_turn_is_kept_alive(driver: Recorder, clock: FakeClock) -> None:
    stalled: list[str] = []
    flows = FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(500.0)
        stalled.extend(await driver.stalled())
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock, max_executions=1) as engine:
        for number in range(5):
            await engine.do(Execute(await committed(engine, str(number))))
        await engine.idle()
    assert stalled == []


async def test_an_old_state_is_kept_alive_before_its_flow_begins(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    found: list[tuple[int, int]] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        assert await driver.stalled() == []
        found.append((len(driver.beats), ctx.committed.rev))
        return Commit(End(ctx))

    await committed(engine)
    await clock.sleep(41.0)
    await engine.execute(StateContext(await engine.get_state("a")))
    assert found == [(1, 1)]


@pytest.mark.parametrize("age", [85.0, 119.0, 121.0, 7200.0])
async def test_one_that_stalls_soon_gets_a_new_revision_before_its_flow_begins(
    engine: Engine, driver: Recorder, clock: FakeClock, age: float
) -> None:
    found: list[tuple[int, str | None, str]] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        assert await driver.stalled() == []
        note = ctx.current.transition.annotations.get("note")
        found.append((ctx.committed.rev, note, ctx.current.labels["draft"]))
        return Commit(End(ctx))

    ctx = StateContext(State("a"))
    await engine.do(Commit(Transit(ctx, "work", {"note": "kept"})))
    await clock.sleep(age)
    old = StateContext(await engine.get_state("a"))
    old.set_label("draft", "of the caller")
    await engine.execute(old)
    assert found == [(2, "kept", "of the caller")]
    second, third = [s async for s in engine.states(since_rev=1)]
    assert second.transition.annotations["note"] == "kept"
    assert (second.transition.cause, dict(second.labels)) == ("transit", {})
    assert (third.status, dict(third.labels)) == ("ended", {"draft": "of the caller"})


async def test_of_two_that_execute_a_stalled_state_at_once_one_does(
    engine: Engine, clock: FakeClock
) -> None:
    ran = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(ctx.committed.rev)
        await clock.sleep(10.0)
        return Commit(End(ctx))

    await committed(engine)
    await clock.sleep(500.0)
    contexts = [StateContext(await engine.get_state("a")) for _ in range(5)]
    await asyncio.gather(*(engine.execute(ctx) for ctx in contexts))
    assert ran == [2]


async def test_executing_an_old_state_keeps_its_idempotency_key(
    engine: Engine, clock: FakeClock
) -> None:
    keys: list[str] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        keys.append(idempotency_key(ctx))
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        await engine.execute(await committed(engine))
    for _ in range(3):
        await clock.sleep(500.0)
        with pytest.raises(ValueError, match="no luck"):
            await engine.execute(StateContext(await engine.get_state("a")))
    assert keys == ["a:1:work"] * 4
