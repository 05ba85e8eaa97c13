"""Watches of a driver share the tail of its log; each is right wherever it starts."""

import asyncio
import contextlib
import logging
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from msgspec.structs import replace

from flowstate import (
    Commit,
    DriverError,
    Engine,
    EngineStoppedError,
    FlowRegistry,
    HistoryRewoundError,
    InvalidCommandError,
    InvalidInputError,
    Pause,
    State,
    StateContext,
    Status,
    StoreCorruptError,
    log_tail,
    reading,
)
from flowstate.driver import DamagedRevision, Driver, Seen, StateQuery, States, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.errors import DamagedRevisionError
from flowstate.testcases.support import DriverWrapper

WATCHERS = 2_000
MIB = 1024 * 1024


class Scripted(DriverWrapper):
    """Counts pages; loses, damages and rewinds when told to; holds answers back.

    Attributes:
        pages: how many were read.
        waits: how many calls wait for a change.
        lost: revisions that pages leave out.
        damaged: revisions that cannot be read; those in ``labelled`` are found by labels.
        error: what the next wait for a change raises.
        before: is awaited before the next page is read; ``after`` before it is returned.
        verdicts: is awaited before the verdicts of the next batch are returned.
        reached: set when one of these is awaited.
        head: replaces that of the store, if it is not ``None``.
    """

    def __init__(self, driver: Driver | None = None) -> None:
        super().__init__(driver or MemoryDriver())
        self.max_batch_size = 16
        self.pages = self.waits = 0
        self.lost: set[int] = set()
        self.damaged: set[int] = set()
        self.labelled: set[int] = set()
        self.error: Exception | None = None
        self.before: asyncio.Event | None = None
        self.after: asyncio.Event | None = None
        self.verdicts: asyncio.Event | None = None
        self.reached = asyncio.Event()
        self.head: int | None = None
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Let each wait for a change return, as a hint that may be wrong."""
        self._nudged.set()

    async def get_states(self, query: StateQuery) -> States:
        self.pages += 1
        await self._hold("before")
        page = await super().get_states(query)
        await self._hold("after")
        if self.head is not None:
            page = replace(page, head=self.head, states=[])
        missing = self.lost | self.damaged
        named = self.labelled if query.labels else self.damaged
        last = page.states[-1].rev if page.more and page.states else page.head
        bad = [
            DamagedRevision(rev, f"of {rev}", "on purpose")
            for rev in sorted(named)
            if query.after < rev <= last
        ]
        states = [state for state in page.states if state.rev not in missing]
        return replace(page, states=states, damaged=bad)

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        verdicts = await super().commit(batch)
        await self._hold("verdicts")
        return verdicts

    async def changed(self, seen: Seen) -> Seen:
        if self.error is not None:
            raise self.error
        if self.head is not None and seen.head != self.head:
            return Seen(self.head, seen.due)
        self.waits += 1
        nudged = asyncio.ensure_future(self._nudged.wait())
        changed = asyncio.ensure_future(super().changed(seen))
        try:
            await asyncio.wait([nudged, changed], return_when=asyncio.FIRST_COMPLETED)
            self._nudged.clear()
            return changed.result() if changed.done() else seen
        finally:
            self.waits -= 1
            nudged.cancel()
            changed.cancel()

    async def _hold(self, name: str) -> None:
        event: asyncio.Event | None = getattr(self, name)
        if event is not None:
            self.reached.set()
            await event.wait()
            setattr(self, name, None)


@pytest.fixture
def driver() -> Scripted:
    return Scripted()


@pytest.fixture
async def engine(driver: Scripted) -> AsyncIterator[Engine]:
    async with Engine(driver, FlowRegistry()) as engine:
        yield engine


async def pause(engine: Engine, id: str, **labels: str) -> None:
    await engine.do(Commit(Pause(StateContext(State(id, labels=labels)))))


async def settled() -> None:
    """Return when all that can run without an event from outside has run."""
    for _ in range(30):
        await asyncio.sleep(0)  # reason: lets the others go on


async def turns_until(reached: Callable[[], bool]) -> None:
    while not reached():  # noqa: ASYNC110 - what is waited for sends no event
        await asyncio.sleep(0)  # reason: lets the others go on


async def consume(engine: Engine, seen: list[int], count: int, **labels: str) -> list[int]:
    async with engine.watch(labels=labels) as states:
        while len(seen) < count:
            seen.append((await anext(states)).rev)
    return seen


@contextlib.asynccontextmanager
async def consuming(
    engine: Engine, count: int, **labels: str
) -> AsyncIterator["asyncio.Task[list[int]]"]:
    """Have a watch that waits for so many revisions."""
    task = asyncio.create_task(consume(engine, [], count, **labels))
    await settled()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


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
        monkeypatch.setattr(log_tail, "matches", counting)
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

    def __init__(self) -> None:
        super().__init__(MemoryDriver())
        self.end = 0
        self.grown = asyncio.Event()

    async def get_states(self, query: StateQuery) -> States:
        if not self.end:
            return await super().get_states(query)
        revs = range(query.after + 1, min(query.after + 100, self.end) + 1)
        states = [State(f"{rev}", rev, annotations={"text": "x" * (94 * 1024)}) for rev in revs]
        last = states[-1].rev if states else query.after
        return States(states, last, last < self.end, self.end, 1)

    async def changed(self, seen: Seen) -> Seen:
        while seen.head == self.end:
            self.grown.clear()
            await self.grown.wait()
        return Seen(self.end, 0)


async def test_what_watches_hold_is_bounded_in_bytes_and_given_back() -> None:
    driver = Endless()
    async with Engine(driver, FlowRegistry()) as engine:
        async with engine.watch() as idle:
            waiting = asyncio.create_task(anext(idle))
            await settled()
            tracemalloc.start()
            try:
                driver.end = 3_000
                driver.grown.set()
                assert (await waiting).rev == 1
                for _ in range(100):
                    await settled()
                held, _ = tracemalloc.get_traced_memory()
                assert 1 * MIB < held < 90 * MIB  # Of 275.
                assert [(await anext(idle)).rev for _ in range(2_999)] == list(range(2, 3_001))
            finally:
                tracemalloc.stop()
            tracemalloc.start()
        assert tracemalloc.get_traced_memory()[0] < MIB
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


# Damage


@pytest.mark.parametrize("how", ["from the log", "live", "live from others"])
async def test_a_damaged_revision_is_raised_in_its_place_and_hides_nothing(
    driver: Scripted, engine: Engine, how: str
) -> None:
    driver.damaged = {3}
    async with Engine(Scripted(driver._driver), FlowRegistry()) as other, engine.watch() as states:
        writer = other if how != "live" else engine
        waiting = asyncio.create_task(anext(states)) if how != "from the log" else None
        await settled()
        for number in range(1, 6):
            await pause(writer, str(number))
        if waiting is not None and how == "live":
            # What this process has committed is whole.
            assert [(await waiting).rev] == [1]
            assert [(await anext(states)).rev for _ in range(4)] == [2, 3, 4, 5]
            return
        got = [(await waiting).rev if waiting else (await anext(states)).rev]
        got.append((await anext(states)).rev)
        with pytest.raises(DamagedRevisionError, match="on purpose") as raised:
            await anext(states)
        assert (raised.value.rev, raised.value.id, got) == (3, "of 3", [1, 2])
        assert states.cursor in {3, 5}
        assert [(await anext(states)).rev for _ in range(2)] == [4, 5]
        await pause(writer, "6")
        assert (await anext(states)).rev == 6
        async with engine.watch(since_rev=raised.value.rev) as again:
            assert (await anext(again)).rev == 4


@pytest.mark.parametrize("is_named", [False, True])
async def test_a_watch_by_labels_hears_of_damage_that_the_store_finds_by_them(
    driver: Scripted, engine: Engine, is_named: bool
) -> None:
    driver.damaged = {2}
    driver.labelled = {2} if is_named else set()
    async with (
        Engine(Scripted(driver._driver), FlowRegistry()) as other,
        engine.watch(labels={"kind": "a"}) as states,
    ):
        waiting = asyncio.create_task(anext(states))
        await settled()
        for number in range(1, 5):
            await pause(other, str(number), kind="a" if number in {1, 4} else "b")
            await settled()
        assert (await waiting).rev == 1
        if is_named:
            with pytest.raises(DamagedRevisionError, match="on purpose"):
                await anext(states)
        assert (await anext(states)).rev == 4
        await pause(other, "5", kind="a")
        assert (await anext(states)).rev == 5


async def test_an_iteration_over_pages_raises_what_is_damaged_in_its_place(
    driver: Scripted, engine: Engine
) -> None:
    for number in range(1, 6):
        await pause(engine, str(number))
    driver.damaged = {3}
    states = engine.states()
    assert [(await anext(states)).rev for _ in range(2)] == [1, 2]
    with pytest.raises(DamagedRevisionError) as raised:
        await anext(states)
    assert [s.rev async for s in engine.states(since_rev=raised.value.rev)] == [4, 5]


# Whose a watch is


async def test_a_watch_is_refused_to_a_second_task(engine: Engine) -> None:
    async with engine.watch() as states:
        first = asyncio.create_task(anext(states))
        await settled()
        with pytest.raises(InvalidCommandError, match="another task"):
            await anext(states)
        await pause(engine, "a")
        assert (await first).rev == 1


async def test_tasks_that_take_turns_get_each_revision_once(engine: Engine) -> None:
    for number in range(300):
        await pause(engine, str(number))
    got: list[int] = []
    async with engine.watch() as states:

        async def take() -> None:
            with contextlib.suppress(InvalidCommandError):
                async for state in states:
                    got.append(state.rev)
                    await asyncio.sleep(0)  # reason: lets the others take some

        tasks = [asyncio.create_task(take()) for _ in range(3)]
        await turns_until(lambda: len(got) == 300)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert sorted(got) == list(range(1, 301))


async def test_a_watch_belongs_to_the_event_loop_of_its_engine(engine: Engine) -> None:
    states = engine.watch()
    caught: list[BaseException] = []

    def elsewhere() -> None:
        try:
            asyncio.run(states.__aenter__())
        except InvalidInputError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert [str(error) for error in caught] == ["engine: belongs to another event loop"]


async def test_the_cursor_passes_what_does_not_match(engine: Engine) -> None:
    async with engine.watch(labels={"kind": "a"}) as states:
        waiting = asyncio.create_task(anext(states))
        await settled()
        for number in range(1, 4):
            await pause(engine, str(number), kind="b")
        await settled()
        assert states.cursor == 3
        await pause(engine, "4", kind="a")
        await pause(engine, "5", kind="a")
        assert (await waiting).rev == 4
        assert states.cursor == 4
        assert (await anext(states)).rev == 5
        await pause(engine, "6", kind="b")
    assert states.cursor == 6


async def test_a_watch_that_was_left_raises_in_a_task_that_still_waits(engine: Engine) -> None:
    async with engine.watch() as states:
        waiting = asyncio.create_task(anext(states))
        await settled()
    with pytest.raises(EngineStoppedError):
        await waiting
