"""The lease on the memory driver, in time that is not real: how it is lost, and what it costs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from flowstate import (
    Commit,
    DriverError,
    Engine,
    EngineStoppedError,
    FakeClock,
    FlowRegistry,
    LeaseLostError,
    Pause,
    State,
    StateContext,
    Status,
)
from flowstate.driver import Heartbeat, Liveness, Seen, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery import Lease
from flowstate.testcases.support import DriverWrapper


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Moody(DriverWrapper):
    """Fails heartbeats or commits on request, and counts how often a standby looks at a lease."""

    def __init__(self, driver: MemoryDriver) -> None:
        super().__init__(driver)
        self.failing_commits: set[str] = set()
        self.on_commit: Callable[[], Awaitable[None]] | None = None
        self.on_beat: Callable[[], None] | None = None
        self.looks = 0
        self.turns_of_changed = 0

    async def changed(self, seen: Seen) -> Seen:
        for _ in range(self.turns_of_changed):
            await asyncio.sleep(0)  # reason: as if it asked a server
        return await super().changed(seen)

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        if self.on_beat is not None:
            self.on_beat()
        return await super().beat(heartbeats)

    async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        self.looks += 1
        return await super().get_liveness(ids)

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        if any(put.id in self.failing_commits for writes in batch for put in writes.puts):
            raise DriverError("moody")
        verdicts = await super().commit(batch)
        if self.on_commit is not None:
            await self.on_commit()
        return verdicts


async def test_a_lease_given_up_during_a_heartbeat_can_be_taken_again(clock: FakeClock) -> None:
    driver = Moody(MemoryDriver(clock))
    async with (
        Engine(driver, FlowRegistry(), clock=clock) as engine,
        Lease(engine, "job", seconds=1.0) as lease,
    ):
        await lease.wait_held()
        driver.on_beat = lease.give_up
        await clock.sleep(0.5)
        driver.on_beat = None
        await clock.sleep(5.0)
        assert lease.is_held


@contextlib.asynccontextmanager
async def lease_lost_to_time(
    driver: "Moody", clock: FakeClock
) -> AsyncIterator[tuple[Engine, Lease]]:
    """Return a lease that was renewed, and then lost because the store was away."""

    def fail() -> None:
        raise OSError("no route to host")

    async with (
        Engine(driver, FlowRegistry(), clock=clock) as engine,
        Lease(engine, "job", seconds=30.0, poll_interval=1.0) as lease,
    ):
        await lease.wait_held()
        await clock.sleep(15.0)
        driver.on_beat = fail
        driver.failing_commits.add(lease.id)
        await clock.sleep(26.0)
        assert not lease.is_held
        yield engine, lease


async def test_a_lease_that_was_lost_to_time_alone_is_taken_again(clock: FakeClock) -> None:
    driver = Moody(MemoryDriver(clock))
    async with lease_lost_to_time(driver, clock) as (_, lease):
        driver.on_beat = None
        driver.failing_commits.clear()
        await clock.sleep(2.0)  # A look or two, and not the time of a lease.
        assert lease.is_held


async def test_a_lease_that_was_lost_to_another_is_left_to_it(clock: FakeClock) -> None:
    driver = Moody(MemoryDriver(clock))
    async with lease_lost_to_time(driver, clock) as (engine, lease):
        driver.on_beat = None
        driver.failing_commits.clear()
        await engine.do(Commit(Pause(StateContext(await engine.get_state(lease.id)))))
        await clock.sleep(20.0)
        assert not lease.is_held


async def test_a_lease_that_is_lost_again_at_once_is_left_to_others(clock: FakeClock) -> None:
    driver = Moody(MemoryDriver(clock))
    async with lease_lost_to_time(driver, clock) as (engine, lease):
        driver.failing_commits.clear()  # Heartbeats still fail.
        await clock.sleep(2.0)
        assert lease.is_held
        head = await engine.head()
        await clock.sleep(30.0)  # It is lost after 20.
        assert not lease.is_held
        assert await engine.head() == head


async def test_a_lease_that_is_nearly_over_when_it_is_taken_is_renewed_at_once(
    clock: FakeClock,
) -> None:
    driver = Moody(MemoryDriver(clock))
    async with (
        Engine(driver, FlowRegistry(), clock=clock) as engine,
        Lease(engine, "job", seconds=30.0, poll_interval=1.0) as lease,
    ):
        driver.on_commit = lambda: clock.sleep(19.0)
        await lease.wait_held()
        assert clock.monotonic() == pytest.approx(19.0)
        await clock.sleep(2.0)
        assert lease.is_held


@pytest.mark.parametrize(("late", "seconds"), [(1, 0.0), (2, 0.0), (3, 30.0)])
async def test_a_lease_whose_first_commits_are_acknowledged_too_late_is_taken_again_twice(
    clock: FakeClock, late: int, seconds: float
) -> None:
    driver, latencies = Moody(MemoryDriver(clock)), [21.0] * late

    async def reply_late() -> None:
        await clock.sleep(latencies.pop() if latencies else 0.0)

    driver.on_commit = reply_late
    async with (
        Engine(driver, FlowRegistry(), clock=clock) as engine,
        Lease(engine, "job", seconds=30.0, poll_interval=1.0) as lease,
    ):
        while not lease.is_held:
            await clock.sleep(0.5)
        assert clock.monotonic() == pytest.approx(21.0 * late + seconds, abs=1.5)
        assert lease.term == late + 1 == await engine.head()


async def test_a_lease_survives_errors_of_any_kind(clock: FakeClock) -> None:
    driver = Moody(MemoryDriver(clock))

    def fail() -> None:
        raise OSError("no route to host")

    async with (
        Engine(driver, FlowRegistry(), clock=clock) as engine,
        Lease(engine, "job", seconds=1.0) as lease,
    ):
        await lease.wait_held()
        driver.on_beat = fail
        await clock.sleep(0.8)
        assert not lease.is_held
        driver.on_beat = None
        await clock.sleep(5.0)
        assert lease.is_held


@pytest.mark.parametrize("turns", [0, 10])
async def test_standbys_of_a_busy_store_look_no_more_often_than_they_poll(
    clock: FakeClock, turns: int
) -> None:
    store = MemoryDriver(clock)
    watched = Moody(store)
    watched.turns_of_changed = turns
    async with (
        Engine(store, FlowRegistry(), clock=clock) as engine,
        Engine(watched, FlowRegistry(), clock=clock) as other,
        contextlib.AsyncExitStack() as leaving,
    ):
        holder = await leaving.enter_async_context(Lease(engine, "job"))
        await holder.wait_held()
        async with Lease(other, "job", poll_interval=1.0) as standby:
            for number in range(3_000):
                await engine.do(Commit(Pause(StateContext(State(f"{number}")))))
                await clock.sleep(0.01)
            assert watched.looks <= 30 + 3  # It looks more often until it has seen how busy it is.
            await clock.sleep(2.0)
            await leaving.aclose()
            left = clock.monotonic()
            await standby.wait_held()
            assert clock.monotonic() - left < 0.5


class Cut(DriverWrapper):
    """Takes ten seconds to heed the cancellation of a heartbeat once it is cut off."""

    def __init__(self, driver: MemoryDriver, clock: FakeClock) -> None:
        super().__init__(driver)
        self._clock = clock
        self.is_cut = False

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        if not self.is_cut:
            return await super().beat(heartbeats)
        try:
            await self._clock.sleep(1_000.0)
        finally:
            await self._clock.sleep(10.0, background=True)
        raise DriverError("cut")


async def test_a_lease_is_lost_in_time_whatever_becomes_of_the_last_heartbeat(
    clock: FakeClock,
) -> None:
    store = MemoryDriver(clock)
    driver = Cut(store, clock)
    async with (
        Engine(driver, FlowRegistry(), clock=clock) as engine,
        Engine(store, FlowRegistry(), clock=clock) as other,
        Lease(engine, "job", seconds=15.0) as lease,
    ):
        await lease.wait_held()
        async with Lease(other, "job", seconds=15.0) as standby:
            driver.is_cut = True
            losing = asyncio.create_task(lease.wait_lost())
            await clock.sleep(10.1)
            assert losing.done()
            await clock.sleep(10.0)
            assert standby.is_held
            driver.is_cut = False


class SlowCommits(DriverWrapper):
    """Commits in batches that are never cancelled, and that take a while."""

    def __init__(self, driver: MemoryDriver, clock: FakeClock) -> None:
        super().__init__(driver)
        self.max_batch_size = 64
        self._clock = clock
        self.committing = asyncio.Event()

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        self.committing.set()
        await self._clock.sleep(0.05)
        return await super().commit(batch)


async def test_a_lease_that_is_left_while_it_is_taken_is_given_back(clock: FakeClock) -> None:
    driver = SlowCommits(MemoryDriver(clock), clock)
    async with Engine(driver, FlowRegistry(), clock=clock) as engine:
        async with Lease(engine, "job") as lease:
            await driver.committing.wait()
        assert (await engine.get_state(lease.id)).status is Status.ENDED


async def test_a_lease_is_given_back_although_leaving_is_cancelled(clock: FakeClock) -> None:
    async with Engine(MemoryDriver(clock), FlowRegistry(), clock=clock) as engine:
        lease = await Lease(engine, "job").__aenter__()
        await lease.wait_held()
        leaving = asyncio.create_task(lease.__aexit__(None, None, None))
        await asyncio.sleep(0)  # reason: it has begun
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert (await engine.get_state(lease.id)).status is Status.ENDED


async def test_those_who_wait_for_a_lease_are_told_when_it_cannot_come(clock: FakeClock) -> None:
    driver = MemoryDriver(clock)
    async with Engine(driver, FlowRegistry(), clock=clock) as other, Lease(other, "job") as held:
        await held.wait_held()
        with pytest.raises(LeaseLostError):
            await Lease(other, "job").wait_held()
        async with Engine(driver, FlowRegistry(), clock=clock) as engine:
            left = Lease(engine, "job")
            async with left:
                leaving = asyncio.create_task(left.wait_held())
                await clock.sleep(1.0)
            with pytest.raises(LeaseLostError):
                await leaving
            lease = await Lease(engine, "job").__aenter__()
            waiting = asyncio.create_task(lease.wait_held())
            await clock.sleep(1.0)
        with pytest.raises(EngineStoppedError):
            await waiting
        await lease.__aexit__()
