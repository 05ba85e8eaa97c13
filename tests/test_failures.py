"""What counts as a failure, and what a failure meets: crashes, stores that fail, other engines."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

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
    EngineStoppedError,
    Execute,
    ExecutionLostError,
    FakeClock,
    FlowRegistry,
    Noop,
    Pause,
    RetryPolicy,
    State,
    StateContext,
    Status,
    Transit,
)
from flowstate.recovery import Recoverer, attempt
from flowstate.retrying import ERROR, FAILURES
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


# What counts as a failure


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(lambda ctx: Commit(Commit(End(ctx))), id="nested"),
        pytest.param(lambda ctx: Commit(Transit(ctx, "nowhere")), id="unknown flow"),
        pytest.param(lambda _: None, id="nothing"),
        pytest.param(lambda _: Commit(), id="empty"),
        pytest.param(lambda ctx: Execute(_paused(ctx)), id="not active"),
        pytest.param(lambda _: Execute(None), id="no context"),  # type: ignore[arg-type]
    ],
)
async def test_a_bad_command_is_a_failure_of_the_flow_that_returned_it(
    engine: Engine, flows: FlowRegistry, command: Any
) -> None:
    flows.set("charge", lambda ctx, _: command(ctx), retry=THRICE)
    ctx = await new(engine)
    await engine.execute(ctx)
    assert ctx.failures == 1
    assert (await engine.get_state("a")).transition.annotations[FAILURES] == "1"


def _paused(ctx: StateContext) -> StateContext:
    return StateContext(State("other", status=Status.PAUSED, transition=ctx.current.transition))


async def test_a_lost_race_of_the_returned_command_is_no_failure(
    engine: Engine, flows: FlowRegistry
) -> None:
    @flows.flow("charge", retry=THRICE)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Commit(Pause(StateContext(await engine.get_state("a")))))
        return Commit(End(ctx))

    await engine.execute(await new(engine))
    assert engine.stats().failures == 0
    assert (await engine.get_state("a")).rev == 2


async def test_a_lost_race_inside_of_a_flow_is_a_failure_that_loses_its_race_too(
    engine: Engine, flows: FlowRegistry
) -> None:
    @flows.flow("charge", retry=THRICE)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.do(Commit(Pause(StateContext(await engine.get_state("a")))))
        await engine.do(Commit(End(ctx)))
        return Noop()

    ctx = await new(engine)
    await engine.execute(ctx)
    assert engine.stats().failures == 1
    assert engine.stats().retries == 0
    state = await engine.get_state("a")
    assert (state.rev, state.status) == (2, Status.PAUSED)


async def test_a_lost_race_for_another_state_is_tried_again(
    engine: Engine, flows: FlowRegistry
) -> None:
    @flows.flow("charge", retry=THRICE)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        if not ctx.failures:
            await engine.do(Commit(End(StateContext(State("other")))))
        return Commit(End(ctx))

    await new(engine, "other")
    async with Delayer(engine):
        await engine.execute(await new(engine))
        ended = await until_ended(engine)
    assert [state.transition.annotations.get(ERROR) for state in await history(engine)][1] == (
        "RevisionMismatchError: stored revision differs for: 'other'"
    )
    assert ended.rev == 5


@pytest.mark.parametrize("error", [EngineStoppedError("x"), ExecutionLostError("a")])
async def test_a_stop_is_no_failure(
    engine: Engine, flows: FlowRegistry, clock: FakeClock, error: Exception
) -> None:
    flows.set("charge", Calls(clock, error), retry=THRICE)
    with pytest.raises(type(error)):
        await engine.execute(await new(engine))
    assert (await engine.get_state("a")).rev == 1


class Interrupt(BaseException):
    pass


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("error", [Interrupt(), asyncio.CancelledError()], ids=["own", "cancelled"])
async def test_what_is_no_exception_is_raised(
    engine: Engine, flows: FlowRegistry, clock: FakeClock, error: BaseException, blocking: bool
) -> None:
    flows.set("charge", Calls(clock, error), retry=THRICE, blocking=blocking)
    with pytest.raises(type(error)):
        await engine.execute(await new(engine))
    assert (await engine.get_state("a")).rev == 1


async def test_what_comes_out_of_a_flow_that_was_cancelled_is_no_failure(
    engine: Engine, flows: FlowRegistry
) -> None:
    running = asyncio.Event()

    @flows.flow("charge", retry=THRICE)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("cannot clean up")

    task = asyncio.create_task(engine.execute(await new(engine)))
    await running.wait()
    task.cancel()
    with pytest.raises(ValueError, match="cannot clean up"):
        await task
    assert (await engine.get_state("a")).rev == 1


async def test_a_caller_that_was_cancelled_long_before_has_failures_like_others(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    flows.set("charge", Calls(clock, ValueError()), retry=THRICE)
    ctx = await new(engine)

    async def caller() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await engine.execute(ctx)

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)  # reason: the task begins to wait
    task.cancel()
    await task
    assert ctx.failures == 1


class OddError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "error",
    [OddError(), ValueError("x" * 10_000_000), ValueError("a\0b"), ValueError("a\ud800b")],
    ids=["none", "long", "NUL", "surrogate"],
)
@pytest.mark.parametrize("attempts", [1, 2])
async def test_errors_with_odd_texts_are_stored(
    engine: Engine, flows: FlowRegistry, clock: FakeClock, error: Exception, attempts: int
) -> None:
    flows.set("charge", Calls(clock, error), retry=RetryPolicy(attempts=attempts))
    ctx = await new(engine)
    await engine.execute(ctx)
    assert ctx.committed.rev == 2
    assert len(str(ctx.committed.transition.annotations)) < 2_000


# Crashes and failures apart


async def test_recovery_keeps_the_failures_and_a_policy_keeps_the_attempts(
    engine: Engine, driver: Unreliable, flows: FlowRegistry, clock: FakeClock
) -> None:
    calls: list[tuple[int, int, str]] = []

    @flows.flow("charge", retry=RetryPolicy(attempts=3, first=10.0, jitter=False))
    def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        calls.append((ctx.failures, attempt(ctx.current), ctx.effect_key))
        if len(calls) == 2:  # As a crash would leave it.
            driver.failing = [DriverError("away")]
        if len(calls) < 4:
            raise ValueError
        return Commit(End(ctx))

    async with Delayer(engine), Recoverer(engine):
        await engine.execute(await new(engine))
        await until_ended(engine)
    assert [call[:2] for call in calls] == [(0, 0), (1, 0), (1, 1), (2, 1)]
    assert len({key for *_, key in calls}) == 1


async def test_a_state_with_no_room_left_can_still_fail(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    flows.set("charge", Calls(clock, *[ValueError("x" * 2_000)] * 2), retry=THRICE)
    ctx = StateContext(State("a"))
    full = {"full": "x" * (1024 * 1024 - 4)}
    await engine.do(Commit(Transit(ctx, "charge", full)))
    await engine.execute(ctx)
    assert ctx.failures == 1
    assert ctx.current.transition.annotations["full"] == full["full"]


# The store


@pytest.mark.parametrize("error", [DriverError("away"), CommitUnknownError("t")])
async def test_when_the_retry_cannot_be_stored_the_failure_is_raised(
    engine: Engine,
    driver: Unreliable,
    flows: FlowRegistry,
    clock: FakeClock,
    error: Exception,
) -> None:
    flows.set("charge", Calls(clock, ValueError("declined")), retry=THRICE)
    ctx = await new(engine)
    driver.failing = [error]
    with pytest.raises(ValueError, match="declined"):
        await engine.execute(ctx)
    assert ctx.committed.rev == 1
    async with Delayer(engine), Recoverer(engine):
        await until_ended(engine)
    assert attempt((await history(engine))[1]) == 1


async def test_a_retry_that_was_stored_without_being_told_so_goes_on(
    engine: Engine, driver: Unreliable, flows: FlowRegistry, clock: FakeClock
) -> None:
    charge = Calls(clock, ValueError("declined"))
    flows.set("charge", charge, retry=THRICE)
    ctx = await new(engine)
    driver.failing, driver.is_after = [CommitUnknownError("t")], True
    with pytest.raises(ValueError, match="declined"):
        await engine.execute(ctx)
    async with Delayer(engine), Recoverer(engine):
        await until_ended(engine)
    assert charge.at == [0.0, 10.0]


@pytest.mark.parametrize("error", [DriverError("away"), CommitUnknownError("t")])
async def test_a_store_that_fails_under_a_flow_is_tried_again(
    engine: Engine, driver: Unreliable, flows: FlowRegistry, error: Exception
) -> None:
    @flows.flow("charge", retry=THRICE)
    def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        driver.failing = [] if ctx.failures else [error]
        return Commit(End(ctx))

    ctx = await new(engine)
    async with Delayer(engine):
        await engine.execute(ctx)
        assert ctx.failures == 1
        await until_ended(engine)


async def test_a_commit_that_happened_without_being_told_so_is_no_reason_to_try_again(
    engine: Engine, driver: Unreliable, flows: FlowRegistry
) -> None:
    @flows.flow("charge", retry=THRICE)
    def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        driver.failing, driver.is_after = [CommitUnknownError("t")], True
        return Commit(End(ctx))

    await engine.execute(await new(engine))
    state = await engine.get_state("a")
    assert (state.rev, state.status) == (2, Status.ENDED)


# Stops, and several engines


async def test_an_engine_that_stops_during_a_pause_leaves_it_to_another(
    driver: Unreliable, flows: FlowRegistry, clock: FakeClock
) -> None:
    charge = Calls(clock, ValueError("declined"))
    flows.set("charge", charge, retry=THRICE)
    async with driver:
        async with Engine(driver, flows, clock=clock) as engine, Delayer(engine):
            await engine.execute(await new(engine))
        async with Engine(driver, flows, clock=clock) as engine, Delayer(engine):
            await until_ended(engine)
    assert charge.at == [0.0, 10.0]
    assert charge.failures == [0, 1]


async def test_of_two_engines_that_fail_with_one_state_one_tries_again(
    engine: Engine, driver: Unreliable, flows: FlowRegistry, clock: FakeClock
) -> None:
    both = asyncio.Barrier(2)

    @flows.flow("charge", retry=THRICE)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        await both.wait()
        raise ValueError("declined")

    ctx = await new(engine)
    async with Engine(driver, flows, clock=clock) as other:
        await asyncio.gather(engine.execute(ctx), other.execute(ctx.copy()))
        assert engine.stats().retries + other.stats().retries == 1
        assert engine.stats().failures + other.stats().failures == 2
    state = await engine.get_state("a")
    assert (state.rev, state.transition.annotations[FAILURES]) == (2, "1")


async def test_a_background_execution_whose_policy_takes_its_failure_logs_no_traceback(
    engine: Engine, flows: FlowRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    flows.set("charge", Calls(clock, ValueError("declined")), retry=THRICE)
    outcome = await engine.begin(await new(engine))
    assert isinstance(await outcome, ValueError)
    assert [record.exc_info for record in caplog.records] == [None]


@pytest.mark.parametrize("on_failure", [None, "refund"])
async def test_an_expected_error_is_a_warning_of_one_line(
    engine: Engine,
    flows: FlowRegistry,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    on_failure: str | None,
) -> None:
    flows.declare("refund")
    policy = RetryPolicy(never=(ValueError,))
    calls = Calls(clock, ValueError("declined"))
    flows.set("charge", calls, retry=policy, on_failure=on_failure)
    await (await engine.begin(await new(engine)))
    (record,) = [each for each in caplog.records if "declined" in each.getMessage()]
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)


async def test_an_error_that_on_leaves_out_is_no_expected_one(
    engine: Engine, flows: FlowRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    policy = RetryPolicy(on=(OSError,), never=(lambda _: 1 / 0,))
    flows.set("charge", Calls(clock, ValueError("declined")), retry=policy)
    await (await engine.begin(await new(engine)))
    (record,) = [each for each in caplog.records if "declined" in each.getMessage()][-1:]
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


# Delays that fire without a commit


@pytest.mark.parametrize("policy", [{"retry": THRICE}, {"on_failure": "refund"}])
async def test_a_flow_of_a_claimed_delay_that_fails_takes_its_step_for_good(
    engine: Engine, flows: FlowRegistry, clock: FakeClock, policy: Any
) -> None:
    charge, refund = Calls(clock, ValueError("declined")), Calls(clock)
    flows.set("charge", charge, **policy)
    flows.set("refund", refund)
    flows.declare("ask")
    ctx = StateContext(State("a", labels={"kind": "order"}))
    delay = Delay(ctx, "charge", timedelta(seconds=1), commit=False, annotations={"by": "me"})
    await engine.do(Commit(Transit(ctx, "ask"), Pause(ctx), delay))
    async with Delayer(engine):
        ended = await until_ended(engine)
        await engine.idle()
        page = await engine.get_delayed_states()
    assert page.delayed == []
    assert ended.labels == {"kind": "order"}
    paused, failed, *_ = await history(engine)
    assert paused.status is Status.PAUSED
    assert failed.status is Status.ACTIVE
    if "retry" in policy:
        assert failed.transition.to == "charge"
        assert failed.transition.cause == "delay"
        assert failed.transition.annotations["by"] == "me"
        assert charge.at == [1.0, 11.0]
        assert charge.keys == ["a:1.1:charge"] * 2
    else:
        assert failed.transition.to == "refund"
        assert charge.keys == ["a:1.1:charge"]
