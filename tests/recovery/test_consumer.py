"""A consumer on the memory driver, in time that is not real: lost replies, places, and leaving."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

import pytest

from flowstate import (
    Command,
    Commit,
    CommitUnknownError,
    CompactedError,
    Engine,
    EngineStoppedError,
    FakeClock,
    FlowRegistry,
    Pause,
    RetryPolicy,
    State,
    StateContext,
    StateNotFoundError,
    Status,
)
from flowstate.driver import Driver, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery import Consumer
from flowstate.testcases.support import DriverWrapper

ORDER = {"kind": "order"}
TICK = 0.125  # Without an error of rounding.
PLACE = "flowstate.consumer.orders"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def engine(clock: FakeClock) -> AsyncIterator[Engine]:
    async with Engine(MemoryDriver(clock), FlowRegistry(), clock=clock) as engine:
        yield engine


async def commit_orders(engine: Engine, *names: object) -> None:
    for name in names:
        await engine.do(Commit(Pause(StateContext(State(f"order {name}")))))


async def caught_up(engine: Engine, consumer: Consumer) -> None:
    while not consumer.is_consuming or await consumer.lag():
        await engine.clock.sleep(TICK)


async def count_in(engine: Engine, id: str) -> Command[None]:
    """Return what counts one more."""
    ctx = StateContext(State(id))
    with suppress(StateNotFoundError):
        ctx = StateContext(await engine.get_state(id))
    ctx.put(ctx.get(int, default=0) + 1)
    return Pause(ctx)


async def places(engine: Engine) -> int:
    return len([state async for state in engine.history(PLACE)])


# Commits with an outcome that cannot be found out


class Unsure(DriverWrapper):
    """Cannot find out what became of some commits of one state, which did happen or did not."""

    def __init__(self, driver: Driver, happens: Sequence[bool]) -> None:
        super().__init__(driver)
        self.script = iter(happens)

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        (writes,) = batch
        if "total" not in {put.id for put in writes.puts}:
            return await super().commit(batch)
        happens = next(self.script, None)
        if happens is None:
            return await super().commit(batch)
        if happens:
            await super().commit(batch)
        return [CommitUnknownError(writes.token)]


@pytest.mark.parametrize("happens", [*itertools.product([True, False], repeat=3)])
async def test_commits_of_unknown_outcome_are_done_once(
    clock: FakeClock, happens: Sequence[bool]
) -> None:
    driver = Unsure(MemoryDriver(clock), happens)
    async with Engine(driver, FlowRegistry(), clock=clock) as engine:

        async def handle(_: State) -> Command[None]:
            return await count_in(engine, "total")

        labels = {"kind": "order"}
        for number in range(5):
            ctx = StateContext(State(f"{number}", labels=labels))
            await engine.do(Commit(Pause(ctx)))
        async with Consumer(engine, "orders", handle, labels=labels) as consumer:
            await caught_up(engine, consumer)
        assert (await engine.get_state("total")).get(int) == 5
        assert next(driver.script, None) is None


# When the place is stored


async def test_the_place_is_stored_after_a_thousand_revisions_without_a_commit(
    engine: Engine,
) -> None:
    await commit_orders(engine, *range(2_500))
    handled: list[str] = []
    async with Consumer(engine, "orders", lambda state: handled.append(state.id)) as consumer:
        await caught_up(engine, consumer)
        assert await places(engine) == 1 + 2
    assert await places(engine) == 1 + 2 + 1
    assert len(handled) == 2_500


async def test_the_place_is_stored_some_seconds_after_a_revision_without_a_commit(
    engine: Engine, clock: FakeClock
) -> None:
    async with Consumer(engine, "orders", lambda _: None, save_every=7.0) as consumer:
        await caught_up(engine, consumer)
        await commit_orders(engine, 1)
        await clock.sleep(6.0)
        assert await places(engine) == 1
        await clock.sleep(9.0)
        assert await places(engine) == 2


async def test_idle_consumers_do_not_keep_each_other_awake(
    engine: Engine, clock: FakeClock
) -> None:
    async with Consumer(engine, "a", print), Consumer(engine, "b", print, save_every=4.0):
        await clock.sleep(60.0)
        before = await engine.head()
        await clock.sleep(6 * 3_600.0)
        assert await engine.head() - before <= 2 * 6 * 3_600 / (4 * 60)


class Slow(DriverWrapper):
    """Takes some turns of the loop for each commit."""

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        for _ in range(5):
            await asyncio.sleep(0)  # reason: turns of the loop are what the test is about
        return await super().commit(batch)


async def test_nothing_is_lost_or_doubled_when_revisions_come_as_the_place_is_stored(
    clock: FakeClock,
) -> None:
    handled: list[str] = []
    expected = [f"order {number}" for number in range(200)]

    async with Engine(Slow(MemoryDriver(clock)), FlowRegistry(), clock=clock) as engine:

        async def handle(state: State) -> Command[None] | None:
            handled.append(state.id)
            if len(handled) % 3:
                return None
            await clock.sleep(TICK)  # It commits in the moment in which the place may be stored.
            return Pause(StateContext(State(f"x {state.id}")))

        consumer = Consumer(engine, "orders", handle, labels=ORDER, save_every=TICK)
        async with consumer:
            await caught_up(engine, consumer)
            for number in range(200):
                ctx = StateContext(State(f"order {number}", labels=ORDER))
                await engine.do(Commit(Pause(ctx)))
                for _ in range(number % 7):  # Before, at, and after the turn in which it is stored.
                    await asyncio.sleep(0)  # reason: as above
                if number % 2:
                    await clock.sleep(TICK)
            await caught_up(engine, consumer)
    assert handled == expected


async def test_dead_letters_are_bounded(engine: Engine) -> None:
    def fail(state: State) -> None:
        raise ValueError("no luck" * 1_000)

    await commit_orders(engine, *range(150))
    once = RetryPolicy(attempts=1)
    async with Consumer(engine, "orders", fail, retry=once, skip=True) as consumer:
        await caught_up(engine, consumer)
        letters = await consumer.dead_letters()
    assert [letter.id for letter in letters] == [f"order {number}" for number in range(50, 150)]
    assert {len(letter.error) for letter in letters} == {300}


# What the handler raises


async def test_some_attempts_are_made_before_a_revision_is_passed_over(
    engine: Engine, clock: FakeClock
) -> None:
    handled: list[str] = []

    def fail_at_first(state: State) -> None:
        handled.append(state.id)
        if state.id == "order 0":
            raise ValueError("no luck")

    await commit_orders(engine, 0, 1)
    async with Consumer(engine, "orders", fail_at_first, skip=True) as consumer:
        await caught_up(engine, consumer)
    assert handled == [*["order 0"] * 5, "order 1"]
    assert clock.monotonic() < 60.0


async def test_a_handler_that_awaits_what_is_cancelled_fails_and_is_tried_after_a_pause(
    engine: Engine, clock: FakeClock
) -> None:
    at: list[float] = []

    async def handle(_: State) -> None:
        at.append(clock.monotonic())
        cancelled = asyncio.ensure_future(clock.sleep(1.0))
        cancelled.cancel()
        await cancelled

    await commit_orders(engine, 1)
    retry = RetryPolicy(attempts=3, first=1.0, jitter=False)
    async with Consumer(engine, "orders", handle, retry=retry, skip=True) as consumer:
        await caught_up(engine, consumer)
        (letter,) = await consumer.dead_letters()
    assert [after - before for before, after in itertools.pairwise(at)] == [1, 2]
    assert "cancelled" in letter.error


@pytest.mark.parametrize("error", [CompactedError(5), EngineStoppedError("another one")])
async def test_errors_of_the_store_that_a_handler_raises_are_its_failures(
    engine: Engine, error: Exception
) -> None:
    await commit_orders(engine, 1)
    failures = [error, error]

    def handle(_: State) -> None:
        if failures:
            raise failures.pop()

    async with Consumer(engine, "orders", handle) as consumer:
        await caught_up(engine, consumer)
    assert not failures


async def test_a_revision_is_tried_on_with_longer_and_longer_pauses(
    engine: Engine, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    at: list[float] = []

    def fail(_: State) -> None:
        at.append(clock.monotonic())
        raise ValueError("no luck")

    await commit_orders(engine, 1)
    retry = RetryPolicy(attempts=4, first=1.0, jitter=False)
    with caplog.at_level(logging.CRITICAL, "flowstate.recovery"):
        async with Consumer(engine, "orders", fail, retry=retry):
            await clock.sleep(30.0)
            began = clock.monotonic()
        assert clock.monotonic() == began  # It waits for an attempt, and not for a pause.
    assert [after - before for before, after in itertools.pairwise(at)] == [1, 2, 4, 8, 8]


# Running


async def test_run_consumes_until_it_is_cancelled(engine: Engine, clock: FakeClock) -> None:
    handled: list[str] = []
    consumer = Consumer(engine, "orders", lambda state: handled.append(state.id))
    task = asyncio.create_task(consumer.run())
    await commit_orders(engine, 1)
    await caught_up(engine, consumer)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert handled == ["order 1"]
    assert not consumer.is_consuming
    lease = await engine.get_state("flowstate.lease.flowstate.consumer.orders")
    assert lease.status is Status.ENDED


async def behind_a_gap(engine: Engine, error: Exception | None = None) -> None:
    """Enter a consumer that cannot know what it has missed, and leave it after it has failed."""
    lease = "flowstate.lease.flowstate.consumer.orders"
    async with Consumer(engine, "orders", print, since=1):
        async with engine.watch(id=lease, status=Status.ENDED, since_rev=await engine.head()) as w:
            await anext(w)
        if error is not None:
            raise error


async def test_a_gap_is_raised_where_the_consumer_is_left(engine: Engine) -> None:
    await commit_orders(engine, *range(5))
    await engine.compact(4)
    with pytest.raises(CompactedError):
        await behind_a_gap(engine)
    with pytest.raises(ZeroDivisionError):  # Not instead of what the block raises.
        await behind_a_gap(engine, ZeroDivisionError())


async def until(engine: Engine, reached: Callable[[], bool]) -> None:
    while not reached():
        await engine.clock.sleep(TICK)


async def test_it_ends_with_its_engine(clock: FakeClock) -> None:
    engine = await Engine(MemoryDriver(clock), FlowRegistry(), clock=clock).__aenter__()
    consumer = await Consumer(engine, "orders", print).__aenter__()
    await until(engine, lambda: consumer.is_consuming)
    await engine.__aexit__(None, None, None)
    await consumer.__aexit__(None, None, None)
    assert not consumer.is_consuming
    with pytest.raises(EngineStoppedError):
        await consumer.__aenter__()


async def test_it_can_be_entered_again(engine: Engine) -> None:
    handled: list[str] = []
    consumer = Consumer(engine, "orders", lambda state: handled.append(state.id))
    for number in range(3):
        await commit_orders(engine, number)
        async with consumer:
            await caught_up(engine, consumer)
    assert handled == ["order 0", "order 1", "order 2"]
