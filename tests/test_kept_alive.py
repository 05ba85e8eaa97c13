"""A state is kept alive in whatever way its flow goes on with it."""

from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    Execute,
    FakeClock,
    FlowRegistry,
    Noop,
    Pause,
    Put,
    Resume,
    State,
    StateContext,
    Status,
    Transit,
)
from flowstate.recovery_rules import RETRY_AFTER
from tests.heartbeats import Recorder, committed


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


async def kept_through(engine: Engine, driver: Recorder, clock: FakeClock, seconds: float) -> None:
    """Look again and again whether anything has stalled."""
    for _ in range(int(seconds / 5)):
        await clock.sleep(5.0)
        assert await driver.stalled() == []


async def test_what_is_committed_first_within_the_flow_is_kept_alive(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(10.0)
        await engine.do(Commit(Transit(ctx, "work")))
        await kept_through(engine, driver, clock, 1000)
        return Commit(End(ctx))

    ctx = StateContext(State("a"))
    await engine.do(Transit(ctx, "work"))
    await engine.execute(ctx)
    assert ctx.committed.rev == 2


async def test_what_a_returned_command_commits_first_is_kept_alive(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("first")
    async def first(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(Transit(ctx, "second"))

    @engine.flows.flow("second")
    async def second(ctx: StateContext, engine: Engine) -> Command[None]:
        await kept_through(engine, driver, clock, 1000)
        return Commit(End(ctx))

    ctx = StateContext(State("a"))
    await engine.do(Transit(ctx, "first"))
    await engine.execute(ctx)


async def test_what_commits_all_the_time_costs_the_store_nothing_else(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    steps: list[float] = []

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        steps.append(clock.monotonic())
        for _ in range(10):
            await clock.sleep(30.0)
            await engine.do(Commit(Transit(ctx, "work")))
        clock.advance(39.0)  # As a flow does that blocks the event loop.
        await engine.do(Commit(Transit(ctx, "work")))
        clock.advance(39.0)
        return Commit(Transit(ctx, "work")) if len(steps) < 3 else Commit(End(ctx))

    await engine.execute(await committed(engine))
    assert (len(steps), driver.beats, driver.asked) == (3, [], [])


async def test_a_state_that_pauses_and_resumes_in_its_flow_is_kept_alive(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Commit(Pause(ctx)))
        await clock.sleep(60.0)
        await engine.do(Commit(Resume(ctx)))
        await kept_through(engine, driver, clock, 1000)
        return Commit(End(ctx))

    await engine.execute(await committed(engine))


@pytest.mark.parametrize("is_copy", [True, False])
async def test_what_a_flow_goes_on_with_is_kept_alive(
    engine: Engine, driver: Recorder, clock: FakeClock, is_copy: bool
) -> None:
    @engine.flows.flow("first")
    async def first(ctx: StateContext, engine: Engine) -> Command[None]:
        if is_copy:
            other = ctx.copy()
        else:
            await engine.do(Commit(End(ctx)))
            other = StateContext(State("other", annotations={RETRY_AFTER: "10"}))
        await engine.do(Commit(Transit(other, "second")))
        return Execute(other)

    @engine.flows.flow("second")
    async def second(ctx: StateContext, engine: Engine) -> Command[None]:
        await kept_through(engine, driver, clock, 500)
        await engine.do(Commit(Transit(ctx, "second")))
        await kept_through(engine, driver, clock, 500)
        return Commit(End(ctx))

    ctx = StateContext(State("a"))
    await engine.do(Commit(Transit(ctx, "first")))
    await engine.execute(ctx)


async def test_nested_executions_of_one_context_are_kept_alive(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("outer")
    async def outer(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Transit(ctx, "inner"))
        await engine.execute(ctx)
        ctx.set_annotation(RETRY_AFTER, "6")
        await engine.do(Commit(Transit(ctx, "outer")))
        await kept_through(engine, driver, clock, 500)
        return Commit(End(ctx))

    @engine.flows.flow("inner")
    async def inner(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Commit(Transit(ctx, "inner")))
        return Noop()

    ctx = StateContext(State("a"))
    await engine.do(Commit(Transit(ctx, "outer")))
    await engine.execute(ctx)


@pytest.mark.parametrize("rules", [{}, {RETRY_AFTER: "200"}, {RETRY_AFTER: "60"}])
async def test_what_its_own_flow_only_changes_is_kept_alive(
    engine: Engine, driver: Recorder, clock: FakeClock, rules: dict[str, str]
) -> None:
    """Such a commit puts off nothing, so heartbeats go on as if there had been none."""

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        for number in range(50):
            await kept_through(engine, driver, clock, 35)
            ctx.put(number)
            ctx.current = replace(ctx.current, annotations=rules if number % 2 else {})
            await engine.do(Commit(Put(ctx, keep=True)))
        return Commit(End(ctx))

    ctx = await committed(engine)
    await engine.execute(ctx)
    assert ctx.committed.status is Status.ENDED
    assert len(driver.beats) < 200


async def test_what_is_only_changed_before_it_is_executed_is_kept_alive(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await kept_through(engine, driver, clock, 500)
        return Commit(End(ctx))

    ctx = await committed(engine)
    await clock.sleep(100.0)
    ctx.put("changed")
    await engine.do(Commit(Put(ctx, keep=True)))
    await engine.execute(ctx)
    assert ctx.committed.status is Status.ENDED


async def test_what_may_stand_still_for_less_from_now_on_is_kept_alive(
    engine: Engine, driver: Recorder, clock: FakeClock
) -> None:
    """The pause after a heartbeat of before is longer than all of the time."""

    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        while not driver.beats:
            await clock.sleep(1.0)
        ctx.current = replace(ctx.current, annotations={RETRY_AFTER: "5"})
        await engine.do(Commit(Put(ctx)))
        await kept_through(engine, driver, clock, 100)
        return Commit(End(ctx))

    ctx = await committed(engine)
    await engine.execute(ctx)
    assert ctx.committed.status is Status.ENDED
