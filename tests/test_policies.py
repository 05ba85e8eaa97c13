"""What becomes of a flow that fails: tried again, sent elsewhere, ended. And of one that hangs."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    DriverError,
    End,
    Engine,
    EngineStats,
    EngineStoppedError,
    FakeClock,
    FlowRegistry,
    InvalidCommandError,
    Pause,
    RetryPolicy,
    State,
    StateContext,
    Status,
    StoreData,
    Transit,
    UnknownFlowError,
)
from flowstate.recovery import Recoverer, dead_states, retry_dead, set_max_attempts
from flowstate.recovery_rules import RETRY_AFTER
from flowstate.retrying import ERROR, FAILED, FAILURES, POLICY
from tests.failing import THRICE, Calls, Unreliable, history, new, until_ended


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> Unreliable:
    return Unreliable(clock)


@pytest.fixture
def flows() -> FlowRegistry:
    return FlowRegistry()


@pytest.fixture
async def engine(
    driver: Unreliable, flows: FlowRegistry, clock: FakeClock
) -> AsyncIterator[Engine]:
    async with Engine(driver, flows, clock=clock, shutdown_timeout=1.0) as engine:
        yield engine


# Tried again


async def test_a_failure_is_tried_again_after_a_pause_that_is_stored(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    charge = Calls(clock, ValueError("declined"), ConnectionError("reset"))
    flows.set("charge", charge, retry=THRICE)
    ctx = await new(engine)
    async with Delayer(engine):
        await engine.execute(ctx)
        assert ctx.committed.delayed_until == clock.now() + timedelta(seconds=10)
        assert ctx.committed.status is Status.ACTIVE
        assert ctx.committed.transition.annotations == {
            FAILURES: "1",
            ERROR: "ValueError: declined",
        }
        ended = await until_ended(engine)
        await engine.idle()
    assert charge.at == [0.0, 10.0, 30.0]
    assert charge.failures == [0, 1, 2]
    assert charge.errors == ["", "ValueError: declined", "ConnectionError: reset"]
    assert charge.keys == [ctx.effect_key] * 3
    assert FAILURES not in ended.transition.annotations
    assert [state.status.value for state in await history(engine)] == ["active"] * 5 + ["ended"]
    stats = engine.stats()
    assert (stats.executions, stats.failures, stats.retries, stats.exhausted) == (3, 2, 2, 0)


@pytest.mark.parametrize("kind", ["async", "plain", "blocking"])
async def test_flows_of_every_kind_are_tried_again(
    engine: Engine, flows: FlowRegistry, clock: FakeClock, kind: str
) -> None:
    charge = Calls(clock, ValueError("declined"))

    async def call(ctx: StateContext, engine: Engine) -> Command[None]:
        await asyncio.sleep(0)  # reason: it is one that waits
        return charge(ctx, engine)

    flow: Any = call if kind == "async" else charge
    flows.set("charge", flow, retry=THRICE, blocking=kind == "blocking")
    async with Delayer(engine):
        await engine.execute(await new(engine))
        await until_ended(engine)
    assert charge.failures == [0, 1]


async def test_jitter_comes_from_the_rng_of_the_engine(
    driver: Unreliable, flows: FlowRegistry, clock: FakeClock
) -> None:
    charge = Calls(clock, *[ValueError()] * 5)
    flows.set("charge", charge, retry=RetryPolicy(attempts=6, first=64.0, factor=1.0))
    async with Engine(driver, flows, clock=clock, rng=Random(5)) as engine, Delayer(engine):
        await engine.execute(await new(engine))
        await until_ended(engine)
    rng = Random(5)
    pauses = [later - at for at, later in zip(charge.at, charge.at[1:], strict=False)]
    assert pauses == pytest.approx([rng.uniform(0.0, 64.0) for _ in range(5)], abs=1e-4)


async def test_an_error_says_how_long_to_wait(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    error = ValueError("busy")
    error.retry_after = timedelta(minutes=7)  # type: ignore[attr-defined]
    charge = Calls(clock, error)
    flows.set("charge", charge, retry=THRICE)
    async with Delayer(engine):
        await engine.execute(await new(engine))
        await until_ended(engine)
    assert charge.at == [0.0, 420.0]


async def test_what_a_failed_flow_has_changed_and_not_committed_is_gone(
    engine: Engine, flows: FlowRegistry
) -> None:
    @flows.flow("charge", retry=THRICE)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        if not ctx.failures:
            ctx.set_label("charged", "yes")
            ctx.set_annotation("note", "half")
            await engine.do(Transit(ctx, "other"))
            raise ValueError
        assert ctx.current.labels == ctx.current.annotations == {}
        return Commit(End(ctx))

    flows.declare("other")
    ctx = await new(engine)
    async with Delayer(engine):
        await engine.execute(ctx)
        assert ctx.current is ctx.committed
        assert (ctx.current.labels, ctx.transitions) == ({}, ())
        assert ctx.current.transition.to == "charge"
        ended = await until_ended(engine)
    assert "reason" not in str(ended.transition.annotations)


async def test_what_a_failed_flow_has_committed_stays_and_the_key_too(
    engine: Engine, flows: FlowRegistry
) -> None:
    keys: list[str] = []

    @flows.flow("charge", retry=THRICE)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        keys.append(ctx.effect_key)
        if not ctx.failures:
            ctx.set_annotation("progress", "half")
            await engine.do(Commit(StoreData(_with_data(ctx), "blob")))
            keys.append(ctx.effect_key)
            raise ValueError
        assert ctx.current.annotations == {"progress": "half"}
        return Commit(End(ctx))

    async with Delayer(engine):
        await engine.execute(await new(engine))
        await until_ended(engine)
    assert keys == ["a:1:charge"] * 3


def _with_data(ctx: StateContext) -> StateContext:
    from flowstate import Data  # noqa: PLC0415 - used here only

    ctx.data["blob"] = Data(b"half")
    return ctx


async def test_failures_count_from_zero_after_the_next_transit(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    charge = Calls(clock, ValueError(), ValueError())
    ship = Calls(clock, ValueError(), ValueError())

    def first(ctx: StateContext, engine: Engine) -> Command[None]:
        charge(ctx, engine)
        return Commit(Transit(ctx, "ship"))

    flows.set("charge", first, retry=THRICE)
    flows.set("ship", ship, retry=THRICE)
    async with Delayer(engine):
        await engine.execute(await new(engine))
        await until_ended(engine)
    assert (charge.failures, ship.failures) == ([0, 1, 2], [0, 1, 2])
    assert len({*charge.keys, *ship.keys}) == 2


async def test_a_flow_that_was_not_committed_is_tried_again_from_what_was(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    visits: list[str] = []

    @flows.flow
    def reserve(ctx: StateContext, engine: Engine) -> Command[None]:
        visits.append("reserve")
        return Transit(ctx, "charge")

    @flows.flow("charge", retry=THRICE)
    def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        visits.append(ctx.effect_key)
        if len(visits) < 4:
            raise ValueError
        return Commit(End(ctx))

    async with Delayer(engine):
        await engine.execute(await new(engine, to="reserve"))
        await until_ended(engine)
    assert visits == ["reserve", "a:1.1:charge"] * 2


# Not tried again


async def test_when_the_attempts_are_used_up_the_state_is_dead(
    engine: Engine, flows: FlowRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    charge = Calls(clock, *[ValueError("declined")] * 3)
    flows.set("charge", charge, retry=THRICE)
    async with Delayer(engine):
        await engine.execute(await new(engine, labels={"kind": "order"}))
        await until_ended(engine)
    (dead,) = [each async for each in dead_states(engine, {"kind": "order"})]
    assert dead.reason == "failed 3 times in flow 'charge'"
    assert dead.error == "ValueError: declined"
    assert (dead.failures, dead.attempts) == (3, 0)
    assert dead.state.transition.to == "charge"
    assert engine.stats().exhausted == 1
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert [text.split(",")[1] for text in warnings] == [" failure 1", " failure 2"]
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "ended as dead: ValueError: declined" in error.getMessage()
    assert error.exc_info is not None


async def test_a_dead_state_that_is_retried_begins_to_count_again_with_the_same_key(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    charge = Calls(clock, *[ValueError("declined")] * 4)
    flows.set("charge", charge, retry=THRICE)
    async with Delayer(engine):
        await engine.execute(await new(engine))
        await until_ended(engine)
        ctx = await retry_dead(engine, "a")
        assert ctx.committed.labels == ctx.committed.transition.annotations == {}
        while charge.outcomes or len(charge.at) < 5:
            await clock.sleep(1.0)
        await engine.idle()
    assert charge.failures == [0, 1, 2, 0, 1]
    assert len(set(charge.keys)) == 1


async def test_an_error_that_is_not_worth_it_ends_the_state_at_once(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    flows.set("charge", Calls(clock, KeyError("x")), retry=RetryPolicy(never=LookupError))
    await engine.execute(await new(engine))
    (dead,) = [each async for each in dead_states(engine)]
    assert dead.reason.endswith("with an error that is not tried again")


async def test_without_a_policy_a_failure_is_raised_as_ever(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    flows.set("charge", Calls(clock, ValueError("declined")), timeout=5.0)
    ctx = await new(engine)
    with pytest.raises(ValueError, match="declined"):
        await engine.execute(ctx)
    assert ctx.committed == await engine.get_state("a")
    assert ctx.committed.rev == 1
    stats = engine.stats()
    assert (stats.failures, stats.retries, stats.exhausted) == (1, 0, 0)


async def test_a_state_that_was_never_committed_raises(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    flows.set("charge", Calls(clock, ValueError("declined")), retry=THRICE)
    ctx = StateContext(State("a"))
    await engine.do(Transit(ctx, "charge"))
    with pytest.raises(ValueError, match="declined"):
        await engine.execute(ctx)
    assert await engine.head() == 0


@pytest.mark.parametrize("aside", [Pause, End])
async def test_a_flow_that_has_set_its_state_aside_and_fails_then_raises(
    engine: Engine, flows: FlowRegistry, aside: Any
) -> None:
    @flows.flow("charge", retry=THRICE)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Commit(aside(ctx)))
        raise ValueError("too late")

    ctx = await new(engine)
    with pytest.raises(ValueError, match="too late"):
        await engine.execute(ctx)
    assert (await engine.get_state("a")).rev == 2


async def test_a_flow_that_has_delayed_its_state_and_fails_then_raises(
    engine: Engine, flows: FlowRegistry
) -> None:
    @flows.flow("charge", retry=THRICE)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Commit(Delay(ctx, "charge", timedelta(hours=1))))
        raise ValueError("too late")

    with pytest.raises(ValueError, match="too late"):
        await engine.execute(await new(engine))
    assert (await engine.get_state("a")).delayed_until is not None


# Sent elsewhere


async def test_a_state_goes_where_failures_go_and_its_execution_goes_on_there(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    flows.set("charge", Calls(clock, ValueError("declined")), on_failure="refund")
    refund = Calls(clock)
    flows.set("refund", refund)
    await engine.execute(await new(engine))
    assert refund.errors == ["ValueError: declined"]
    assert refund.failures == [0]
    revisions = await history(engine)
    assert [state.transition.to for state in revisions] == ["charge", "refund", "refund"]
    assert revisions[1].transition.annotations[FAILED] == '["charge"]'
    assert revisions[2].status is Status.ENDED
    stats = engine.stats()
    assert (stats.executions, stats.failures, stats.exhausted) == (1, 1, 1)


async def test_a_flow_for_failures_that_fails_too_has_its_own_policy(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    flows.set("charge", Calls(clock, ValueError("declined")), on_failure="refund")
    refund = Calls(clock, *[ConnectionError("reset")] * 3)
    flows.set("refund", refund, retry=THRICE)
    async with Delayer(engine):
        await engine.execute(await new(engine))
        await until_ended(engine)
    (dead,) = [each async for each in dead_states(engine)]
    assert dead.reason == "failed 3 times in flow 'refund'"
    assert refund.at == [0.0, 10.0, 30.0]


async def test_two_that_send_to_each_other_come_to_an_end(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    ping, pong = (Calls(clock, *[ValueError()] * 100) for _ in range(2))
    flows.set("ping", ping, on_failure="pong")
    flows.set("pong", pong, on_failure="ping")
    await engine.execute(await new(engine, to="ping"))
    assert (len(ping.at), len(pong.at)) == (1, 1)
    (dead,) = [each async for each in dead_states(engine)]
    assert dead.reason == "failed once in flow 'pong'; 'ping', for failures, had failed before"


async def test_where_failures_go_may_be_executed_by_another_engine(
    engine: Engine, driver: Unreliable, flows: FlowRegistry, clock: FakeClock
) -> None:
    elsewhere = FlowRegistry()
    refund = Calls(clock)
    elsewhere.set("refund", refund)
    elsewhere.declare("charge")
    flows.set("charge", Calls(clock, ValueError("declined")), on_failure="refund")
    flows.declare("refund")
    await engine.execute(await new(engine))
    async with Engine(driver, elsewhere, clock=clock) as other, Delayer(other):
        await until_ended(engine)
    assert refund.errors == ["ValueError: declined"]
    assert refund.keys == ["a:2:refund"]
    assert len(await history(engine)) == 3


async def test_a_flow_for_failures_that_nobody_knows_leaves_the_state_to_recovery(
    engine: Engine, flows: FlowRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    flows.set("charge", Calls(clock, ValueError("declined")), on_failure="refund")
    with pytest.raises(ValueError, match="declined"):
        await engine.execute(await new(engine))
    assert (await engine.get_state("a")).rev == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], UnknownFlowError)


# Overrides


async def test_a_state_overrides_the_attempts_of_its_flow(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    charge = Calls(clock, *[ValueError()] * 3)
    flows.set("charge", charge, retry=RetryPolicy(attempts=2, jitter=False))
    ctx = StateContext(State("a"))
    ctx.set_policy(attempts=4, first=0.5, factor=1.0)
    await engine.do(Commit(Transit(ctx, "charge")))
    async with Delayer(engine):
        await engine.execute(ctx)
        await until_ended(engine)
    assert charge.at == [0.0, 0.5, 1.0, 1.5]


async def test_a_state_may_have_a_policy_where_its_flow_has_none(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    flows.set("charge", Calls(clock, ValueError("declined")))
    flows.set("refund", Calls(clock))
    ctx = StateContext(State("a"))
    ctx.set_policy(on_failure="refund")
    await engine.do(Commit(Transit(ctx, "charge")))
    await engine.execute(ctx)
    assert [state.transition.to for state in await history(engine)] == [
        "charge",
        "refund",
        "refund",
    ]


async def test_an_override_counts_from_its_commit_on(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    @flows.flow
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        ctx.set_policy(timeout=5.0, attempts=1)
        await engine.do(Commit(Transit(ctx, "wait")))
        return Transit(ctx, "wait")

    @flows.flow
    async def wait(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(7.0)
        return Commit(End(ctx))

    await engine.execute(await new(engine))
    (dead,) = [each async for each in dead_states(engine)]
    assert dead.error == "FlowTimeoutError: flow 'wait' of 'a' took longer than 5 s"
    assert clock.monotonic() == 5.0


async def test_what_stalls_under_a_policy_is_recovered_as_ever(
    engine: Engine, driver: Unreliable, flows: FlowRegistry, clock: FakeClock
) -> None:
    flows.set("charge", Calls(clock, *[ValueError()] * 2), retry=THRICE)
    ctx = StateContext(State("a", annotations={RETRY_AFTER: "5"}))
    set_max_attempts(ctx, 0)
    await engine.do(Commit(Transit(ctx, "charge")))
    driver.failing = [DriverError("away")]
    with pytest.raises(ValueError, match=r"^$"):
        await engine.execute(ctx)
    async with Delayer(engine), Recoverer(engine):
        await until_ended(engine)
    (dead,) = [each async for each in dead_states(engine)]
    assert dead.reason == "made no progress in 0 attempts"
    assert dead.failures == 0
    assert POLICY not in dead.state.annotations


async def test_invalid_commands_of_the_caller_are_no_failures(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    flows.set("charge", Calls(clock), retry=THRICE)
    with pytest.raises(InvalidCommandError):
        await engine.execute(StateContext(State("a")))
    assert engine.stats().failures == engine.stats().executions == 0


async def test_counts_are_those_of_an_open_engine(
    driver: Unreliable, flows: FlowRegistry, clock: FakeClock
) -> None:
    engine = Engine(driver, flows, clock=clock)
    with pytest.raises(EngineStoppedError):
        engine.stats()
    async with engine:
        assert engine.stats() == EngineStats(0, 0, 0, 0, 0, 0)
