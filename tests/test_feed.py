"""Watches of one engine share a reader of the log; each is right wherever it starts."""

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from flowstate import (
    Clock,
    Commit,
    Engine,
    FlowRegistry,
    Pause,
    State,
    StateContext,
    StoreCorruptError,
)
from flowstate.driver import StateQuery, States
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
