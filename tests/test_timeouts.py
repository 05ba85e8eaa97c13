"""A flow that takes too long is cancelled, or given up in its thread, and has failed."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from flowstate import (
    Command,
    Commit,
    Delayer,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    FlowTimeoutError,
    Noop,
    Pause,
    RetryPolicy,
    RevisionMismatchError,
    StateContext,
    Status,
    Transit,
)
from tests.failing import THRICE, Unreliable, new, until_ended
from tests.scripted import settled


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


# On the event loop


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


# In threads


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
