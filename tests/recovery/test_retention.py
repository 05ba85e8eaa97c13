"""A retention on memory and SQLite: a store that gets and loses states does not grow."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from flowstate import Commit, DriverError, End, Engine, FakeClock, FlowRegistry, State, StateContext
from flowstate.driver import Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.recovery import Retention
from flowstate.testcases.support import DriverWrapper

SECOND = timedelta(seconds=1)
NOTHING = timedelta(0)
MANY = 1_500


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def engine(clock: FakeClock) -> AsyncIterator[Engine]:
    async with Engine(MemoryDriver(clock), FlowRegistry(), clock=clock) as engine:
        yield engine


async def come_and_go(engine: Engine, start: int, count: int) -> None:
    """Let so many states begin and end."""
    for first in range(start, start + count, 100):
        ids = [f"state {number}" for number in range(first, first + 100)]
        await engine.do(Commit(*[End(StateContext(State(id, labels={"k": id}))) for id in ids]))


async def one_generation(engine: Engine, start: int, count: int) -> None:
    await come_and_go(engine, start, count)
    await engine.clock.sleep(2.0)
    done = await Retention(engine, SECOND, history=NOTHING).run_once()
    assert done.forgotten == count


# How much a store holds


def size_of(found: object, seen: set[int]) -> int:
    """Return about how many objects hang on one, by count."""
    if id(found) in seen or isinstance(found, type | str | bytes | int | float):
        return 0
    seen.add(id(found))
    if isinstance(found, dict):
        inner: Sequence[object] = [*found.keys(), *found.values()]
    elif isinstance(found, list | tuple | set | frozenset):
        inner = [*found]
    else:
        inner = [getattr(found, name) for name in slots_of(found) if hasattr(found, name)]
        inner += [*getattr(found, "__dict__", {}).values()]
    own = len(found) if hasattr(found, "__len__") else 1
    return own + sum(size_of(each, seen) for each in inner)


def slots_of(found: object) -> Sequence[str]:
    slots = [getattr(each, "__slots__", ()) for each in type(found).__mro__]
    return [name for each in slots for name in ([each] if isinstance(each, str) else each)]


async def test_memory_stays_as_small_as_it_was(engine: Engine) -> None:
    sizes = []
    for generation in range(10):
        await one_generation(engine, generation * MANY, MANY)
        if generation in (1, 9):
            sizes.append(size_of(engine.driver, set()))
    assert MANY < sizes[1] < 1.1 * sizes[0]  # What was forgotten just now is still in the log.


async def test_sqlite_stays_as_small_as_it_was(clock: FakeClock, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    sizes = []
    async with Engine(SQLiteDriver(path, clock=clock), FlowRegistry(), clock=clock) as engine:
        for generation in range(10):
            await one_generation(engine, generation * MANY, MANY)
            sizes.append(path.stat().st_size)
        assert await engine.count() == 0
    assert sizes[9] < 1.1 * sizes[4]


# Passes


class Moody(DriverWrapper):
    """Fails on request, and lets compaction take its time."""

    is_failing = False
    compactions = 0
    pause = 0.0

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryDriver(clock))
        self.clock = clock
        self.reached = asyncio.Event()

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        if self.is_failing and any(writes.forgets for writes in batch):
            raise DriverError("moody")
        return await super().commit(batch)

    async def compact(self, before_rev: int) -> int:
        self.compactions += 1
        self.reached.set()
        await self.clock.sleep(self.pause)
        return await super().compact(before_rev)


@pytest.fixture
def moody(clock: FakeClock) -> Moody:
    return Moody(clock)


async def test_a_pass_that_is_slower_than_its_turn_is_followed_at_once(
    moody: Moody, clock: FakeClock
) -> None:
    moody.pause = 30.0
    async with Engine(moody, FlowRegistry(), clock=clock) as engine:
        async with Retention(engine, SECOND, every=10.0) as retention:
            await clock.sleep(301.0)
            assert retention.stats().passes == 10
        moody.pause = 1.0
        async with Retention(engine, SECOND, every=10.0) as retention:
            await clock.sleep(105.0)
            assert retention.stats().passes in (10, 11)


async def test_a_failing_store_is_asked_later_and_later(moody: Moody, clock: FakeClock) -> None:
    async with Engine(moody, FlowRegistry(), clock=clock) as engine:
        await come_and_go(engine, 0, 100)
        await clock.sleep(2.0)
        moody.is_failing = True
        async with Retention(engine, SECOND, every=1.0) as retention:
            await clock.sleep(1_000.0)
            stats = retention.stats()
            assert (stats.passes, stats.forgotten) == (0, 0)
            assert 1_000 / 64 <= stats.failures <= 2 * 1_000 / 64 + 10
            moody.is_failing = False
            await clock.sleep(64.0)
            assert retention.stats().forgotten == 100


async def test_it_compacts_while_it_forgets(moody: Moody, clock: FakeClock) -> None:
    async with Engine(moody, FlowRegistry(), clock=clock) as engine:
        await come_and_go(engine, 0, 25_000)
        await clock.sleep(2.0)
        done = await Retention(engine, SECOND, history=NOTHING).run_once()
        assert (done.passes, done.forgotten, moody.compactions) == (1, 25_000, 3)
        assert done.compacted == 25_000  # The forgetting ones are not old yet.


async def test_it_is_left_in_the_middle_of_a_pass(moody: Moody, clock: FakeClock) -> None:
    moody.pause = 1e6
    async with Engine(moody, FlowRegistry(), clock=clock) as engine:
        async with Retention(engine, SECOND):
            await moody.reached.wait()
        assert clock.monotonic() < 1e6
