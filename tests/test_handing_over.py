"""Recovery: what is handed over, what it costs, options, and explanations."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    End,
    Engine,
    Execute,
    FakeClock,
    FlowRegistry,
    InvalidInputError,
    Noop,
    Pause,
    State,
    StateContext,
    Status,
    Transit,
    recovery,
)
from flowstate.driver import (
    DuePage,
    DueQuery,
    Liveness,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery import Recoverer
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


# Handing over


@pytest.mark.parametrize("attempts", [0, 3])
async def test_what_a_stopping_engine_interrupts_goes_on_elsewhere_and_is_no_attempt(
    clock: FakeClock, attempts: int
) -> None:
    driver, flows = MemoryDriver(clock), FlowRegistry()
    ran: list[tuple[float, int]] = []

    @flows.flow("long")
    async def long(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append((clock.monotonic(), recovery.attempt(ctx.current)))
        await clock.sleep(3_600.0)
        return Commit(End(ctx))

    ctx = StateContext(State("a"))
    recovery.set_max_attempts(ctx, attempts)
    async with Engine(driver, flows, clock=clock) as other, Recoverer(other) as recoverer:
        for _ in range(5):
            async with Engine(driver, flows, clock=clock, shutdown_timeout=0) as engine:
                if not ran:
                    await engine.do(Commit(Transit(ctx, "long")), Execute(ctx))
                await clock.sleep(1_000.0)
            await clock.sleep(10.0)
        assert [number for _, number in ran] == [0, 0]  # The second engine goes on to the end.
        assert ran[1][0] - 1_000.0 < 10.0
        await clock.sleep(3_600.0)
        stats = recoverer.stats()
        assert (await other.get_state("a")).status is Status.ENDED
    assert (stats.taken_over, stats.retried, stats.added, stats.completed) == (1, 0, 0, 1)


async def test_what_a_flow_leaves_because_its_engine_stops_is_handed_over(
    clock: FakeClock,
) -> None:
    driver, flows, ran = MemoryDriver(clock), FlowRegistry(), list[int]()

    @flows.flow("long")
    async def long(ctx: StateContext, engine: Engine) -> Command[None]:
        ran.append(recovery.attempt(ctx.current))
        if len(ran) == 1:
            await ctx.wait_stopping()
            return Noop()
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as other, Recoverer(other) as recoverer:
        async with Engine(driver, flows, clock=clock) as engine:
            ctx = StateContext(State("a"))
            await engine.do(Commit(Transit(ctx, "long")), Execute(ctx))
            await clock.sleep(1.0)
        await clock.sleep(10.0)
        assert ran == [0, 0]
        assert recoverer.stats().taken_over == 1


# What it costs


@pytest.mark.parametrize(("rate", "most"), [(1e6, 2), (100.0, 4)])
async def test_what_is_known_of_stalled_states_is_asked_for_together(
    clock: FakeClock, rate: float, most: int
) -> None:
    class Counting(DriverWrapper):
        asked = 0

        async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
            self.asked += 1
            return await super().get_liveness(ids)

    flows, driver = FlowRegistry(), Counting(MemoryDriver(clock))
    flows.set("work", end)
    async with Engine(driver, flows, clock=clock) as engine:
        await stalled(engine, 100)
        await clock.sleep(200.0)
        async with Recoverer(engine, rate=rate):
            await all_ended(engine, 100)
    assert driver.asked <= most


async def test_states_of_unknown_flows_cost_nothing(clock: FakeClock) -> None:
    class Counting(DriverWrapper):
        found = 0

        async def get_due(self, query: DueQuery) -> DuePage:
            page = await super().get_due(query)
            self.found += len(page.due)
            return page

    flows, driver = FlowRegistry(), Counting(MemoryDriver(clock))
    flows.set("work", end)
    flows.declare("elsewhere")
    async with Engine(driver, flows, clock=clock) as engine:
        await stalled(engine, 500, "elsewhere")
        await stalled(engine, 1)
        await clock.sleep(200.0)
        async with Recoverer(engine) as recoverer:
            await all_ended(engine, 1)
            await clock.sleep(300.0)
            assert recoverer.stats().skipped == {"unknown flow": 1}
    assert driver.found == 1


async def test_the_log_names_no_error_where_there_was_none(
    engine: Engine, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    engine.flows.set("work", end)
    ctx = StateContext(State("a"))
    recovery.set_max_attempts(ctx, 0)
    await engine.do(Commit(Transit(ctx, "work")))
    async with Recoverer(engine):
        await all_ended(engine, 1)
        await clock.sleep(1.0)
    messages = [record.getMessage() for record in caplog.records]
    assert "'a' ended by force: made no progress in 0 attempts" in messages


# Options


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("group", ["", "a\0b", 3]),
        ("lease", [0, -1, float("nan"), float("inf"), "x", True]),
        ("poll_interval", [0, -1, float("nan"), "x"]),
        ("max_running", [0, -1, 1.5, True, "x"]),
        ("rate", [0, -1, float("nan"), "x", True]),
        ("rng", [3, "x"]),
    ],
)
def test_bad_options_are_refused_by_name(field: str, values: list[Any]) -> None:
    engine = Engine(MemoryDriver(), FlowRegistry())
    for value in values:
        with pytest.raises(InvalidInputError) as raised:
            Recoverer(engine, **{field: value})
        assert raised.value.field == field


# Explaining


@pytest.mark.parametrize("is_paused", [False, True])
async def test_a_delay_explains_why_a_state_does_not_move(
    engine: Engine, clock: FakeClock, is_paused: bool
) -> None:
    engine.flows.set("expired", end)
    ctx = StateContext(State("a"))
    delay = Delay(ctx, "expired", after=timedelta(hours=1))
    await engine.do(Commit(Pause(ctx), delay) if is_paused else Commit(delay))
    found = await recovery.explain(engine, "a")
    assert (found.why, found.until) == ("delayed", clock.now() + timedelta(hours=1))
    await clock.sleep(7_200.0)
    found = await recovery.explain(engine, "a")
    assert (found.why, "paused" in found.text) == ("overdue", is_paused)
    engine.flows.unset("expired")
    async with Delayer(engine):
        found = await recovery.explain(engine, "a")
        assert (found.why, "'expired'" in found.text) == ("unknown flow", True)


@pytest.mark.parametrize("beats", [False, True])
async def test_an_unknown_flow_is_named_also_after_heartbeats(
    clock: FakeClock, beats: bool
) -> None:
    driver, old = MemoryDriver(clock), FlowRegistry()

    @old.flow("charge")
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(1_000.0)
        return Noop()

    ctx = StateContext(State("a"))
    async with Engine(driver, FlowRegistry(), clock=clock) as engine:
        async with Engine(driver, old, clock=clock, shutdown_timeout=0) as stopping:
            await stopping.do(Commit(Transit(ctx, "charge")))
            if beats:
                await stopping.do(Execute(ctx))
                await clock.sleep(100.0)
        await clock.sleep(600.0)
        found = await recovery.explain(engine, "a")
    assert (found.why, "'charge'" in found.text) == ("unknown flow", True)


async def test_what_was_handed_over_says_so(clock: FakeClock) -> None:
    driver, flows = MemoryDriver(clock), FlowRegistry()

    @flows.flow("long")
    async def long(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(1_000.0)
        return Noop()

    ctx = StateContext(State("a"))
    async with Engine(driver, flows, clock=clock) as engine:
        async with Engine(driver, flows, clock=clock, shutdown_timeout=0, name="first") as first:
            await first.do(Commit(Transit(ctx, "long")), Execute(ctx))
            await clock.sleep(10.0)
        found = await recovery.explain(engine, "a")
    assert (found.why, found.engine) == ("stalled", "first")
    assert "handed over by first" in found.text


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
