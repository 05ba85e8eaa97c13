"""Watches of one engine share a reader of the log; each is right wherever it starts."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from msgspec.structs import replace

from flowstate import (
    Clock,
    Commit,
    Engine,
    FlowRegistry,
    HistoryRewoundError,
    Pause,
    State,
    StateContext,
    Status,
    StoreCorruptError,
    feed,
)
from flowstate.driver import StateQuery, States, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver

WATCHERS = 5_000


class CountingDriver(MemoryDriver):
    """Counts the pages that are read, and can lose a revision."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.reads = 0
        self.lost = 0

    async def get_states(self, query: StateQuery) -> States:
        self.reads += 1
        found = await super().get_states(query)
        return replace(found, states=[state for state in found.states if state.rev != self.lost])


async def pause(engine: Engine, id: str, **labels: str) -> None:
    await engine.do(Commit(Pause(StateContext(State(id, labels=labels)))))


async def turns_until(reached: Callable[[], bool]) -> None:
    while not reached():  # noqa: ASYNC110 - what is waited for tells nobody
        await asyncio.sleep(0)  # reason: lets the others go on


async def consume(engine: Engine, seen: list[int], count: int, **labels: str) -> list[int]:
    async with engine.watch(labels=labels) as states:
        while len(seen) < count:
            seen.append((await anext(states)).rev)
    return seen


async def test_thousands_of_watchers_share_one_reader() -> None:
    driver = CountingDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        watchers = [asyncio.create_task(consume(engine, [], 20)) for _ in range(WATCHERS)]
        await turns_until(lambda: driver.reads >= WATCHERS)  # Each starts with a page of its own.
        await asyncio.sleep(0)  # reason: the last of them begins to wait
        driver.reads = 0
        for number in range(20):
            await pause(engine, str(number))
            await asyncio.sleep(0)  # reason: lets the reader read them one by one
        lists = await asyncio.gather(*watchers)

    assert driver.reads <= 30
    assert all(seen == list(range(1, 21)) for seen in lists)


async def test_a_watcher_is_not_woken_for_what_it_does_not_want() -> None:
    async with Engine(MemoryDriver(), FlowRegistry()) as engine:
        seen: list[int] = []
        wanted = asyncio.create_task(consume(engine, seen, 2, kind="wanted"))
        await pause(engine, "first", kind="wanted")
        await turns_until(lambda: seen == [1])
        steps = engine._feed._waiters
        await turns_until(lambda: bool(steps))
        ((waiter,),) = steps.values()
        for number in range(100):
            await pause(engine, str(number), kind="other")
        await turns_until(lambda: engine._feed.head == 101)
        assert not waiter.found.done()
        await pause(engine, "last", kind="wanted")

        assert await wanted == [1, 102]


async def test_a_slow_watcher_falls_back_on_pages_of_its_own() -> None:
    driver = CountingDriver()
    async with Engine(driver, FlowRegistry()) as engine, engine.watch() as slow:
        await pause(engine, "first")
        assert (await anext(slow)).rev == 1
        fast = asyncio.create_task(consume(engine, [], 10_000))
        for number in range(2, 10_001):
            await pause(engine, str(number))
        assert await fast == list(range(1, 10_001))
        assert len(engine._feed._recent) < 10_000

        assert [(await anext(slow)).rev for _ in range(9_999)] == list(range(2, 10_001))


async def test_a_hole_in_the_log_is_raised_in_every_watch() -> None:
    driver = CountingDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        watchers = [asyncio.create_task(consume(engine, [], 5)) for _ in range(3)]
        await turns_until(lambda: driver.reads >= 3)
        driver.lost = 2
        for number in range(5):
            await pause(engine, str(number))
        for watcher in watchers:
            with pytest.raises(StoreCorruptError, match="hole after revision"):
                await watcher


async def test_the_reader_stops_with_the_last_watcher_and_starts_again() -> None:
    async with Engine(MemoryDriver(), FlowRegistry()) as engine:
        for turn in range(1, 4):
            await pause(engine, str(turn))
            assert await consume(engine, [], turn) == list(range(1, turn + 1))
            assert engine._feed._reader is None


async def test_a_watch_that_is_ahead_of_the_shared_reader_waits_for_what_is_new() -> None:
    async with Engine(MemoryDriver(), FlowRegistry()) as engine, engine.watch() as first:
        await engine.do(Commit(Pause(StateContext(State("1")))))
        assert (await anext(first)).rev == 1  # From here on the reader exists.
        # Neither this commit nor this read of the store gives the reader a turn of its own.
        await engine.do(Commit(Pause(StateContext(State("2")))))
        async with engine.watch(since_rev=1) as second:
            assert (await anext(second)).rev == 2
            third = asyncio.create_task(engine.do(Commit(Pause(StateContext(State("3"))))))
            assert (await anext(second)).rev == 3
            await third
            assert [(await anext(first)).rev for _ in range(2)] == [2, 3]


class BatchingDriver(CountingDriver):
    """Takes batches, wakes at every change, and holds a page or verdicts back when told to."""

    batch_limit = 16

    def __init__(self) -> None:
        super().__init__()
        self.held: asyncio.Event | None = None
        self.slow: asyncio.Event | None = None
        self.late: asyncio.Event | None = None
        self.reading = asyncio.Event()
        self.idle = asyncio.Event()
        self.is_rewound = False

    async def wait(self, rev: int) -> None:
        if self.reading.is_set():
            self.idle.set()
        seen = self._changed.count
        if self._head <= rev:
            await self._changed.wait(seen)

    async def get_states(self, query: StateQuery) -> States:
        slow, self.slow = self.slow, None
        if slow is not None:
            self.reading.set()
            await slow.wait()
        found = await super().get_states(query)
        if self.is_rewound:
            return replace(found, states=[], head=0)
        held, self.held = self.held, None
        if held is not None:
            self.reading.set()
            await held.wait()
        return found

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        verdicts = await super().commit(batch)
        late, self.late = self.late, None
        if late is not None:
            await late.wait()
        return verdicts


async def test_what_the_engine_has_committed_is_not_read_again() -> None:
    driver = BatchingDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        watchers = [asyncio.create_task(consume(engine, [], 50)) for _ in range(3)]
        await turns_until(lambda: len(engine._feed._waiters.get(None, ())) == 3)
        driver.reads = 0
        for number in range(10):
            await asyncio.gather(*(pause(engine, f"{number}-{each}") for each in range(5)))
        assert [await watcher for watcher in watchers] == [list(range(1, 51))] * 3

    assert driver.reads == 0


async def test_commits_of_others_among_ones_own_are_read() -> None:
    driver = BatchingDriver()
    async with Engine(driver, FlowRegistry()) as engine, Engine(driver, FlowRegistry()) as other:
        watchers = [asyncio.create_task(consume(each, [], 200)) for each in (engine, other)]
        await turns_until(lambda: all(each._feed._waiters for each in (engine, other)))
        await asyncio.gather(
            *(pause((engine, other)[number % 3 == 0], str(number)) for number in range(200))
        )
        assert [await watcher for watcher in watchers] == [list(range(1, 201))] * 2


async def test_a_page_that_is_older_than_what_was_given_meanwhile() -> None:
    driver = BatchingDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        seen = asyncio.create_task(consume(engine, [], 2))
        await turns_until(lambda: bool(engine._feed._waiters))
        reader = engine._feed._reader
        driver.held = held = asyncio.Event()
        await turns_until(lambda: bool(driver._changed.waiters))
        driver._changed.notify()  # A look for nothing.
        await driver.reading.wait()
        await pause(engine, "1")  # Given, while an empty page is on its way whose head is lower.
        held.set()
        await turns_until(driver.idle.is_set)
        assert (engine._feed.head, engine._feed._reader) == (1, reader)
        await pause(engine, "2")
        assert await seen == [1, 2]


async def test_a_page_with_what_was_given_meanwhile_brings_nothing_twice() -> None:
    driver = BatchingDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        seen = asyncio.create_task(consume(engine, [], 2))
        await turns_until(lambda: bool(engine._feed._waiters))
        reader = engine._feed._reader
        driver.held, driver.late = (held := asyncio.Event()), (late := asyncio.Event())
        committing = asyncio.create_task(pause(engine, "1"))
        await driver.reading.wait()  # It is stored, and was read, and the engine has no verdict.
        late.set()
        await committing
        held.set()
        await turns_until(driver.idle.is_set)
        assert (engine._feed.head, engine._feed._reader) == (1, reader)
        await pause(engine, "2")
        assert await seen == [1, 2]


async def test_what_was_given_may_be_compacted_before_it_is_read() -> None:
    driver = BatchingDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        seen = asyncio.create_task(consume(engine, [], 4))
        await turns_until(lambda: bool(engine._feed._waiters))
        driver.slow = slow = asyncio.Event()
        await turns_until(lambda: bool(driver._changed.waiters))
        driver._changed.notify()
        await driver.reading.wait()
        ctx = StateContext(State("a"))
        for _ in range(3):
            await engine.do(Commit(Pause(ctx)))
        assert await engine.compact(3) == 2
        slow.set()
        await turns_until(lambda: driver.idle.is_set() or seen.done())
        await engine.do(Commit(Pause(ctx)))
        assert await seen == [1, 2, 3, 4]


@pytest.mark.parametrize("again", [1, 2])
async def test_a_commit_that_is_known_late_hides_none_of_others(again: int) -> None:
    driver = BatchingDriver()
    first, second = (State(id, rev, status=Status.PAUSED) for id, rev in (("1", 1), ("3", 3)))
    async with Engine(driver, FlowRegistry()) as engine, Engine(driver, FlowRegistry()) as other:
        seen = asyncio.create_task(consume(engine, [], 3))
        await turns_until(lambda: bool(engine._feed._waiters))
        # The first one's reply was lost. It is given again, once or twice, with a later one.
        engine._feed.take([(first,)] * again + [(second,)])
        assert engine._feed.head == 0
        for number in range(1, 4):
            await pause(other, str(number))
        assert await seen == [1, 2, 3]


async def test_a_store_that_was_rewound_while_a_commit_was_given_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "LOOK_AFTER", 0.01)
    driver = BatchingDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        watcher = asyncio.create_task(consume(engine, [], 2))
        await turns_until(lambda: bool(engine._feed._waiters))
        await pause(engine, "1")
        driver.is_rewound = True  # One hint told of both.
        with pytest.raises(HistoryRewoundError):
            await watcher


async def test_a_timeout_of_the_driver_is_raised_in_every_watch() -> None:
    class Impatient(MemoryDriver):
        async def wait(self, rev: int) -> None:  # noqa: ARG002
            raise TimeoutError("of the driver")

    async with Engine(Impatient(), FlowRegistry()) as engine:
        watcher = asyncio.create_task(consume(engine, [], 1))
        with pytest.raises(TimeoutError, match="of the driver"):
            await watcher
        await turns_until(lambda: engine._feed._reader is None)


async def test_a_store_that_was_rewound_is_noticed_by_ones_own_commit() -> None:
    driver = BatchingDriver()
    async with Engine(driver, FlowRegistry()) as engine:
        watcher = asyncio.create_task(consume(engine, [], 100))
        await turns_until(lambda: bool(engine._feed._waiters))
        engine._feed.head = engine._feed._start = 10  # It had seen ten that are gone.
        await pause(engine, "1")
        with pytest.raises(HistoryRewoundError):
            await watcher
