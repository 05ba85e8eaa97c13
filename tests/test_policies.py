"""What becomes of a flow that fails: tried again, sent elsewhere, ended. And of one that hangs."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from random import Random
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
    FlowTimeoutError,
    InvalidCommandError,
    Noop,
    Pause,
    RetryPolicy,
    RevisionMismatchError,
    State,
    StateContext,
    Status,
    StoreData,
    Transit,
    UnknownFlowError,
)
from flowstate.driver import Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery import Recoverer, attempt, dead_states, retry_dead, set_max_attempts
from flowstate.recovery_rules import RETRY_AFTER
from flowstate.retrying import ERROR, FAILED, FAILURES, POLICY
from flowstate.testcases.support import DriverWrapper
from tests.scripted import settled

THRICE = RetryPolicy(attempts=3, first=10.0, factor=2.0, jitter=False)


class Unreliable(DriverWrapper):
    """Fails commits on request.

    Attributes:
        failing: what the next commits raise, before they are stored or (``after``) after that.
    """

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryDriver(clock))
        self.failing: list[Exception] = []
        self.is_after = False
        self.commits = 0

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        self.commits += 1
        verdicts = await super().commit(batch) if not self.failing or self.is_after else ()
        if self.failing:
            raise self.failing.pop(0)
        return verdicts


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


class Calls:
    """What a flow was called with, and what it does then.

    Attributes:
        outcomes: errors to be raised, one a call; after the last, the state is ended.
        at: when it was called, by the clock.
        keys: for effects.
        failures: as the context told them.
        errors: as the context told them.
    """

    def __init__(self, clock: FakeClock, *outcomes: BaseException) -> None:
        self.outcomes = list(outcomes)
        self.clock = clock
        self.at: list[float] = []
        self.keys: list[str] = []
        self.failures: list[int] = []
        self.errors: list[str] = []

    def __call__(self, ctx: StateContext, _: Engine) -> Command[None]:
        self.at.append(self.clock.monotonic())
        self.keys.append(ctx.effect_key)
        self.failures.append(ctx.failures)
        self.errors.append(ctx.error)
        if self.outcomes:
            raise self.outcomes.pop(0)
        return Commit(End(ctx))


async def new(engine: Engine, id: str = "a", to: str = "charge", **state: Any) -> StateContext:
    ctx = StateContext(State(id, **state))
    await engine.do(Commit(Transit(ctx, to)))
    return ctx


async def until_ended(engine: Engine, id: str = "a") -> State:
    async with engine.watch(since_rev=0) as states:
        async for state in states:
            if state.id == id and state.status is Status.ENDED:
                return state
    raise AssertionError("a watch has no end")


async def history(engine: Engine, id: str = "a") -> list[State]:
    return [state async for state in engine.states(since_rev=0) if state.id == id]


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
    "error", [OddError(), ValueError("x" * 10_000_000), ValueError("\0\ud800")], ids=str.__name__
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


# Time limits


async def test_an_async_flow_is_cancelled_in_time(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    ends: list[BaseException] = []

    @flows.flow("charge", timeout=30.0)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        try:
            await clock.sleep(31.0)
        except asyncio.CancelledError as error:
            ends.append(error)
            raise
        return Commit(End(ctx))

    ctx = await new(engine)
    with pytest.raises(FlowTimeoutError) as raised:
        await engine.execute(ctx)
    assert isinstance(raised.value, TimeoutError)
    assert (raised.value.flow, raised.value.id, raised.value.seconds) == ("charge", "a", 30.0)
    assert clock.monotonic() == 30.0
    assert len(ends) == 1
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert engine.stats().timeouts == engine.stats().failures == 1


async def test_each_call_has_its_own_time(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    @flows.flow("charge", timeout=30.0)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(29.0)
        return Commit(End(ctx)) if len(ctx.transitions) == 3 else Transit(ctx, "charge")

    await engine.execute(await new(engine))
    assert clock.monotonic() == 4 * 29.0
    assert engine.stats().timeouts == 0


async def test_a_timeout_is_a_failure_like_others(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    calls: list[int] = []

    @flows.flow("charge", timeout=30.0, retry=RetryPolicy(on=TimeoutError, jitter=False))
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        calls.append(ctx.failures)
        if not ctx.failures:
            await asyncio.Event().wait()
        return Commit(End(ctx))

    async with Delayer(engine):
        await engine.execute(await new(engine))
        await until_ended(engine)
    assert calls == [0, 1]


@pytest.mark.parametrize("swallows", ["returns", "raises"])
async def test_a_flow_that_swallows_the_end_of_its_time_has_its_way(
    engine: Engine, flows: FlowRegistry, swallows: str
) -> None:
    @flows.flow("charge", timeout=30.0)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if swallows == "raises":
                raise KeyError("half") from None
        await asyncio.sleep(0)  # reason: nothing else cancels it
        return Commit(End(ctx))

    ctx = await new(engine)
    task = asyncio.current_task()
    assert task is not None
    if swallows == "raises":
        with pytest.raises(KeyError, match="half"):
            await engine.execute(ctx)
    else:
        await engine.execute(ctx)
        assert ctx.committed.status is Status.ENDED
    assert task.cancelling() == 0
    assert engine.stats().timeouts == 1


async def test_a_flow_that_ends_with_its_time_does_what_it_returned_or_times_out(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    @flows.flow("charge", timeout=30.0)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        await clock.sleep(30.0)
        return Commit(End(ctx))

    for number in range(10):
        ctx = await new(engine, str(number))
        try:
            await engine.execute(ctx)
        except FlowTimeoutError:
            assert ctx.committed.status is Status.ACTIVE
        else:
            assert ctx.committed.status is Status.ENDED
        assert await engine.get_state(str(number)) == ctx.committed


async def test_a_cancellation_with_the_end_of_the_time_takes_precedence(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    @flows.flow("charge", timeout=30.0, retry=THRICE)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        await asyncio.Event().wait()
        return Noop()

    task = asyncio.create_task(engine.execute(await new(engine)))
    alarm = asyncio.create_task(clock.sleep(30.0))
    alarm.add_done_callback(lambda _: task.cancel())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await engine.get_state("a")).rev == 1


async def test_a_flow_that_does_not_end_with_its_time_is_named(
    engine: Engine, flows: FlowRegistry, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    @flows.flow("charge", timeout=30.0)
    async def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        for _ in range(2):
            try:
                await clock.sleep(60.0)
            except asyncio.CancelledError:
                continue
        return Commit(End(ctx))

    await engine.execute(await new(engine))
    assert "flow 'charge' of 'a' does not end, although it was cancelled after 30 s" in caplog.text


# Time limits of threads


class Blocked:
    """A blocking flow that ignores everything until it is let go."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.contexts: list[StateContext] = []

    def __call__(self, ctx: StateContext, _: Engine) -> Command[None]:
        self.contexts.append(ctx)
        self.begun.release()
        self.go_on.wait(60.0)
        self.ended.release()
        return Commit(End(ctx))

    async def wait_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=60.0)


@pytest.fixture
async def slow(driver: Unreliable, flows: FlowRegistry) -> AsyncIterator[tuple[Engine, FakeClock]]:
    """An engine whose clock moves only when it is told to."""
    clock = FakeClock(autojump=False)
    async with Engine(
        driver, flows, clock=clock, blocking_threads=16, shutdown_timeout=1.0
    ) as engine:
        yield engine, clock


async def test_a_blocking_flow_is_told_and_given_up_and_cannot_commit_any_more(
    slow: tuple[Engine, FakeClock], flows: FlowRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    engine, clock = slow
    blocked = Blocked()
    flows.set("charge", blocked, blocking=True, timeout=30.0, on_failure="refund")

    @flows.flow
    async def refund(ctx: StateContext, engine: Engine) -> Command[None]:
        (old,) = blocked.contexts
        assert old is not ctx
        assert (old.stopping, ctx.stopping) == (True, False)
        with pytest.raises(RevisionMismatchError):
            await engine.do(Commit(End(old)))
        return Commit(Pause(ctx))

    executing = asyncio.create_task(engine.execute(await new(engine)))
    await blocked.wait_begun()
    (ctx,) = blocked.contexts
    assert not ctx.stopping
    clock.advance(30.0)
    await executing
    assert "'charge' of 'a' took longer than 30 s, and goes on in its thread" in caplog.text
    blocked.go_on.set()
    assert await asyncio.to_thread(blocked.ended.acquire, timeout=60.0)
    state = await engine.get_state("a")
    assert (state.status, state.transition.to) == (Status.PAUSED, "refund")


async def test_threads_that_are_never_given_back_are_named_and_the_time_of_others_begins_late(
    slow: tuple[Engine, FakeClock], flows: FlowRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    engine, clock = slow
    blocked, quick = Blocked(), threading.Event()
    flows.set("charge", blocked, blocking=True, timeout=30.0)

    @flows.flow("quick", blocking=True, timeout=1.0)
    def quickly(ctx: StateContext, engine: Engine) -> Command[None]:
        quick.set()
        return Commit(End(ctx))

    tasks = [asyncio.create_task(engine.execute(await new(engine, str(n)))) for n in range(16)]
    for _ in tasks:
        await blocked.wait_begun()
    late = asyncio.create_task(engine.execute(await new(engine, "late", "quick")))
    clock.advance(30.0)
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(error) for error in errors} == {FlowTimeoutError}
    full = "all 16 threads for blocking flows are taken by calls that were given up: 16 of flow"
    assert f"{full} 'charge'" in caplog.text
    clock.advance(100.0)
    await settled()
    assert not quick.is_set()
    assert not late.done()
    blocked.go_on.set()
    await late
    assert (await engine.get_state("late")).status is Status.ENDED


async def test_a_blocking_flow_that_ends_in_time_is_not_told_anything(
    slow: tuple[Engine, FakeClock], flows: FlowRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    engine, clock = slow
    blocked = Blocked()
    flows.set("charge", blocked, blocking=True, timeout=30.0)
    executing = asyncio.create_task(engine.execute(await new(engine)))
    await blocked.wait_begun()
    clock.advance(29.0)
    blocked.go_on.set()
    await executing
    assert (await engine.get_state("a")).status is Status.ENDED
    assert not blocked.contexts[0].stopping
    assert caplog.text == ""


async def test_an_engine_that_stops_does_not_wait_for_a_call_that_was_given_up(
    driver: Unreliable, flows: FlowRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    clock, blocked = FakeClock(autojump=False), Blocked()
    flows.set("charge", blocked, blocking=True, timeout=30.0)
    async with Engine(driver, flows, clock=clock, shutdown_timeout=60.0) as engine:
        executing = asyncio.create_task(engine.execute(await new(engine)))
        await blocked.wait_begun()
        clock.advance(30.0)
        with pytest.raises(FlowTimeoutError):
            await executing
    assert "blocking flow 'charge' still runs" in caplog.text
    blocked.go_on.set()


async def test_a_plain_flow_on_the_event_loop_has_no_time_limit(
    engine: Engine, flows: FlowRegistry, clock: FakeClock
) -> None:
    @flows.flow("charge", timeout=30.0)
    def charge(ctx: StateContext, engine: Engine) -> Command[None]:
        clock.advance(31.0)
        return Commit(End(ctx))

    ctx = await new(engine)
    await engine.execute(ctx)
    assert ctx.committed.status is Status.ENDED


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
