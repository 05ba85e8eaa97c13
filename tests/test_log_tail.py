"""Watches of a driver share the tail of its log; each is right wherever it starts."""

import asyncio
import logging
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec import Raw

from flowstate import (
    Commit,
    DataRef,
    DriverError,
    Engine,
    EngineStoppedError,
    FlowRegistry,
    HistoryRewoundError,
    Pause,
    State,
    StateContext,
    Status,
    StoreCorruptError,
    Timer,
)
from flowstate.driver import Seen, StateQuery, States
from flowstate.drivers.memory import MemoryDriver
from flowstate.log import log_tail, reading, watch
from flowstate.testcases.support import DriverWrapper
from tests.scripted import Scripted, consume, consuming, pause, settled, turns_until

WATCHERS = 2_000
MIB = 1024 * 1024
END = 1_000  # Of a log that is too long to be held.


@pytest.fixture
def driver() -> Scripted:
    return Scripted()


@pytest.fixture
async def engine(driver: Scripted) -> AsyncIterator[Engine]:
    async with Engine(driver, FlowRegistry()) as engine:
        yield engine


async def test_thousands_of_watches_share_one_reader(driver: Scripted, engine: Engine) -> None:
    other = Engine(Scripted(driver._driver), FlowRegistry())
    async with other:
        watches = [asyncio.create_task(consume(engine, [], 20)) for _ in range(WATCHERS)]
        await turns_until(lambda: driver.pages >= WATCHERS)  # Each starts with a page of its own.
        await settled()
        driver.pages = 0
        for number in range(20):
            await pause(other, str(number))
            await settled()
        assert all(seen == list(range(1, 21)) for seen in await asyncio.gather(*watches))
    assert driver.pages <= 20


@pytest.mark.parametrize("labels", [{"kind": "wanted"}, {"kind": "wanted", "size": "any"}])
async def test_a_filter_is_evaluated_at_most_once_and_only_where_a_label_fits(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, labels: dict[str, str]
) -> None:
    evaluated: list[int] = []

    def counting(query: StateQuery, state: State) -> bool:
        evaluated.append(state.rev)
        return matches(query, state)

    matches = reading.matches
    async with consuming(engine, 2, **labels) as wanted:
        monkeypatch.setattr(watch, "matches", counting)
        await pause(engine, "first", kind="wanted", size="any")
        for number in range(100):
            await pause(engine, str(number), kind="other", size="any")
        await pause(engine, "last", kind="wanted", size="any")
        assert await wanted == [1, 102]
    assert evaluated == ([] if len(labels) == 1 else [1, 102])


async def test_engines_of_a_driver_share_its_tail(driver: Scripted, engine: Engine) -> None:
    async with (
        Engine(driver, FlowRegistry()) as other,
        consuming(engine, 10) as first,
        consuming(other, 10) as second,
    ):
        driver.pages = 0
        for number in range(10):
            await pause((engine, other)[number % 2], str(number))
        assert await first == await second == list(range(1, 11))
    assert driver.pages == 0


async def test_an_engine_that_stops_ends_its_own_watches_only(driver: Scripted) -> None:
    async with (
        Engine(driver, FlowRegistry()) as engine,
        Engine(driver, FlowRegistry()) as other,
    ):
        ending = asyncio.create_task(consume(other, [], 1))
        idle = other.watch()
        await idle.__aenter__()
        await settled()
        async with consuming(engine, 1) as going_on:
            await other.__aexit__(None, None, None)
            with pytest.raises(EngineStoppedError):
                await ending
            with pytest.raises(EngineStoppedError):
                await anext(idle)
            await pause(engine, "a")
            assert await going_on == [1]


async def test_a_slow_watch_falls_back_on_pages_of_its_own(
    driver: Scripted, engine: Engine
) -> None:
    async with engine.watch() as slow:
        await pause(engine, "first")
        assert (await anext(slow)).rev == 1
        async with consuming(engine, 10_000) as fast:
            for number in range(2, 10_001):
                await pause(engine, str(number))
            assert await fast == list(range(1, 10_001))
        driver.pages = 0
        assert [(await anext(slow)).rev for _ in range(9_999)] == list(range(2, 10_001))
    assert 0 < driver.pages < 150


class Endless(DriverWrapper):
    """A log of large revisions that are made when they are read."""

    def __init__(self, make: Callable[[str], dict[str, Any]]) -> None:
        super().__init__(MemoryDriver())
        self.make = make
        self.end = 0
        self.grown = asyncio.Event()

    async def get_states(self, query: StateQuery) -> States:
        if not self.end:
            return await super().get_states(query)
        revs = range(query.after + 1, min(query.after + 100, self.end) + 1)
        states = [State(f"{rev}", rev, **self.make("x" * (94 * 1024))) for rev in revs]
        last = states[-1].rev if states else query.after
        return States(states, last, last < self.end, self.end, 1)

    async def changed(self, seen: Seen) -> Seen:
        while seen.head == self.end:
            self.grown.clear()
            await self.grown.wait()
        return Seen(self.end, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda text: {"annotations": {"text": text}},
        lambda text: {"annotations": {text: ""}},
        lambda text: {"unknown": {"new": text.encode()}},
        lambda text: {"data": {text[:90] + str(n): DataRef(n, f"{n:063}") for n in range(100)}},
        lambda text: {"values": {"value": Raw(text.encode())}},
        lambda text: {"timers": {text[:90] + str(n): Timer(text[:90] + str(n)) for n in range(64)}},
    ],
    ids=["annotations", "keys", "unknown", "data", "values", "timers"],
)
async def test_what_watches_hold_is_bounded_in_bytes_and_given_back(
    make: Callable[[str], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tail, "MAX_TAIL_BYTES", 8 * MIB)
    driver = Endless(make)
    async with Engine(driver, FlowRegistry()) as engine:
        tracemalloc.start()
        try:
            async with engine.watch() as idle:
                waiting = asyncio.create_task(anext(idle))
                await settled()
                driver.end = END
                driver.grown.set()
                assert (await waiting).rev == 1
                for _ in range(100):
                    await settled()
                assert 1 * MIB < tracemalloc.get_traced_memory()[0] < 16 * MIB  # Of 21, or more.
                assert [(await anext(idle)).rev for _ in range(1, END)] == list(range(2, END + 1))
            del waiting, idle
            await settled()
            assert tracemalloc.get_traced_memory()[0] < MIB
        finally:
            tracemalloc.stop()


async def test_a_hole_in_the_log_is_raised_in_every_watch(driver: Scripted) -> None:
    other = Scripted(driver._driver)
    async with Engine(driver, FlowRegistry()) as engine, Engine(other, FlowRegistry()) as writer:
        watches = [asyncio.create_task(consume(engine, [], 5)) for _ in range(3)]
        await settled()
        driver.lost = {2}
        for number in range(5):
            await pause(writer, str(number))
        for watch in watches:
            with pytest.raises(StoreCorruptError, match="hole after revision"):
                await watch


async def test_the_reader_stops_with_the_last_watch_and_starts_again(
    driver: Scripted, engine: Engine
) -> None:
    for turn in range(1, 4):
        async with consuming(engine, turn) as seen:
            assert driver.waits == 1
            await pause(engine, str(turn))
            assert await seen == list(range(1, turn + 1))
        await settled()
        assert driver.waits == 0


async def test_a_watch_that_is_ahead_of_the_tail_waits_for_what_is_new(
    driver: Scripted, engine: Engine
) -> None:
    writer = Engine(Scripted(driver._driver), FlowRegistry())
    async with writer, consuming(engine, 3) as first:
        await pause(writer, "1")
        await settled()
        driver.before = held = asyncio.Event()
        await pause(writer, "2")
        await driver.reached.wait()  # The tail reads, and has no answer.
        driver.before = None
        async with engine.watch(since_rev=1) as second:
            assert (await anext(second)).rev == 2
            third = asyncio.create_task(anext(second))
            await settled()
            held.set()
            await pause(writer, "3")
            assert (await third).rev == 3
        assert await first == [1, 2, 3]


async def test_what_the_process_has_committed_is_not_read_again(
    driver: Scripted, engine: Engine
) -> None:
    async with consuming(engine, 50) as first, consuming(engine, 50) as second:
        driver.pages = 0
        for number in range(10):
            await asyncio.gather(*(pause(engine, f"{number}-{each}") for each in range(5)))
        assert await first == await second == list(range(1, 51))
    assert driver.pages == 0


async def test_commits_of_others_among_ones_own_are_read(driver: Scripted, engine: Engine) -> None:
    async with (
        Engine(Scripted(driver._driver), FlowRegistry()) as other,
        consuming(engine, 200) as first,
        consuming(other, 200) as second,
    ):
        await asyncio.gather(
            *(pause((engine, other)[number % 3 == 0], str(number)) for number in range(200))
        )
        assert await first == await second == list(range(1, 201))


async def test_a_page_that_is_older_than_what_was_taken_meanwhile(
    driver: Scripted, engine: Engine
) -> None:
    async with (
        Engine(Scripted(driver._driver), FlowRegistry()) as other,
        consuming(engine, 3) as seen,
    ):
        driver.after = held = asyncio.Event()
        await pause(other, "1")
        await driver.reached.wait()  # A page of one revision is on its way.
        held.set()
        await asyncio.gather(pause(engine, "2"), pause(engine, "3"))
        assert await seen == [1, 2, 3]


async def test_a_page_with_what_was_taken_meanwhile_brings_nothing_twice(
    driver: Scripted, engine: Engine
) -> None:
    async with consuming(engine, 2) as seen:
        driver.after, driver.verdicts = (held := asyncio.Event()), (late := asyncio.Event())
        committing = asyncio.create_task(pause(engine, "1"))
        await driver.reached.wait()  # It is stored, and was read, and the engine has no verdict.
        await settled()
        late.set()
        await committing
        held.set()
        await settled()
        await pause(engine, "2")
        assert await seen == [1, 2]


async def test_what_was_taken_may_be_compacted_before_it_is_read(
    driver: Scripted, engine: Engine
) -> None:
    async with consuming(engine, 4) as seen:
        driver.before, driver.verdicts = (held := asyncio.Event()), (late := asyncio.Event())
        ctx = StateContext(State("a"))
        first = asyncio.create_task(engine.do(Commit(Pause(ctx))))
        await settled()  # The tail wants to read it.
        late.set()
        await first
        for _ in range(2):
            await engine.do(Commit(Pause(ctx)))
        assert await engine.compact(3) == 2
        held.set()
        await settled()
        await engine.do(Commit(Pause(ctx)))
        assert await seen == [1, 2, 3, 4]


@pytest.mark.parametrize("again", [1, 2])
async def test_a_commit_that_is_known_late_hides_none_of_others(
    driver: Scripted, engine: Engine, again: int
) -> None:
    first, second = (State(id, rev, status=Status.PAUSED) for id, rev in (("1", 1), ("3", 3)))
    async with (
        Engine(Scripted(driver._driver), FlowRegistry()) as other,
        consuming(engine, 3) as seen,
    ):
        # The first one's reply was lost. It is given again, once or twice, with a later one.
        log_tail.tail_of(driver).take([first] * again + [second])
        await settled()
        assert not seen.done()
        for number in range(1, 4):
            await pause(other, str(number))
        assert await seen == [1, 2, 3]


async def test_a_store_that_was_rewound_while_it_was_watched_is_noticed(
    driver: Scripted, engine: Engine
) -> None:
    async with consuming(engine, 2) as seen:
        await pause(engine, "1")
        await settled()
        driver.head = 0
        driver.nudge()
        with pytest.raises(HistoryRewoundError):
            await seen


async def test_a_watch_that_did_not_wait_when_the_store_was_rewound_hears_of_it(
    driver: Scripted, engine: Engine
) -> None:
    async with engine.watch() as slow:
        for number in range(3):
            await pause(engine, str(number))
        assert [(await anext(slow)).rev for _ in range(3)] == [1, 2, 3]
        driver.head = 1
        driver.nudge()
        async with consuming(engine, 1):  # One that starts over on the store as it is now.
            with pytest.raises(HistoryRewoundError):
                await anext(slow)


@pytest.mark.parametrize("error", [DriverError("of the store"), ValueError("a bug")])
async def test_an_error_of_the_driver_is_raised_in_every_watch_and_the_next_one_works(
    driver: Scripted, engine: Engine, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    async with engine.watch() as first, engine.watch() as second:
        waiting = [asyncio.create_task(anext(watch)) for watch in (first, second)]
        await settled()
        driver.error = error
        driver.nudge()
        for task in waiting:
            with pytest.raises(type(error), match=str(error)):
                await task
        driver.error = None
        waiting = [asyncio.create_task(anext(watch)) for watch in (first, second)]
        await settled()
        await pause(engine, "a")
        assert [(await task).rev for task in waiting] == [1, 1]
    logged = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(logged) == isinstance(error, ValueError)


async def test_a_reader_that_is_cancelled_leaves_no_watch_waiting(engine: Engine) -> None:
    async with consuming(engine, 1) as seen:
        for task in asyncio.all_tasks():
            if task.get_name() == "flowstate log tail":
                task.cancel()
        with pytest.raises(DriverError, match="cancelled"):
            await seen
