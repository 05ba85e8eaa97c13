"""What drivers share: failing batches, lost replies, news, opening and closing."""

import asyncio
import threading
from collections.abc import Awaitable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
from msgspec.structs import replace

from flowstate import (
    CommitUnknownError,
    DriverClosedError,
    DriverError,
    FakeClock,
    InvalidInputError,
    RevisionMismatchError,
    State,
    StoreFullError,
    StoreUnavailableError,
    Transition,
)
from flowstate.driver import NewDelay, NewTimer, Seen, Verdict, Writes
from flowstate.drivers.kit.base import News
from flowstate.drivers.kit.event_count import EventCount
from flowstate.drivers.kit.resolving import Backoff, Failed, Resolver, is_same, resolved, retried
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.ground.frozen import EMPTY
from flowstate.testcases.support import encoded

NOW = datetime(2024, 1, 1, tzinfo=UTC)
LOST = Failed(StoreUnavailableError("lost"), lost=True)
PASSING = Failed(StoreUnavailableError("later"), passing=True)
FULL = Failed(StoreFullError("full"))


def put(token: str, id: str = "", rev: int = 0) -> Writes:
    return encoded(Writes(token, (State(id or token, rev, transition=Transition("a")),)))


def delay(token: str, due: datetime | None = None, after: timedelta | None = None) -> Writes:
    new = NewDelay(State(token), "a", EMPTY, due, after, commit=True, body="")
    return encoded(Writes(token, delays=(new,)))


@attrs.define
class Store(Resolver):
    """A store that fails as it is told, and that applies every batch to a dictionary.

    Attributes:
        faults: for each call what it raises; of a lost reply the batch was applied.
        big: tokens of commits that no batch may have.
        forgets_delays: as if each had fired and been dropped.
        forgets_states: others forget each one before its reply is lost.
        cannot_look: for delays.
    """

    clock: FakeClock
    faults: list[Failed | DriverError | None] = attrs.field(factory=list)
    big: tuple[str, ...] = ()
    forgets_delays: bool = False
    forgets_states: bool = False
    cannot_look: bool = False
    states: dict[str, tuple[str, State]] = attrs.field(factory=dict)
    applied: dict[str, State] = attrs.field(factory=dict)
    delays: set[str] = attrs.field(factory=set)
    calls: list[int] = attrs.field(factory=list)

    async def call(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        self.calls.append(len(batch))
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, DriverError) or (fault is not None and not fault.lost):
            raise fault
        if any(writes.token in self.big for writes in batch):
            raise FULL
        verdicts = [self.apply(writes) for writes in batch]
        if fault is not None:
            if self.forgets_states:
                self.states.clear()
            raise fault
        return verdicts

    def apply(self, writes: Writes) -> Verdict:
        found: list[State] = []
        for state in writes.puts:
            token_and_state = self.states.get(state.id)
            if state.rev != (token_and_state[1].rev if token_and_state else 0):
                return RevisionMismatchError([state.id])
            found.append(State(state.id, len(self.applied) + 1))
            self.states[state.id] = writes.token, found[-1]
            self.applied[writes.token] = found[-1]
        if not self.forgets_delays:
            self.delays.update(map(writes.delay_id, range(len(writes.delays))))
        return tuple(found)

    async def find_replays(self, commits: Sequence[Writes]) -> Sequence[Verdict | None]:
        if self.faults and self.faults[0] is PASSING:
            raise PASSING
        found = [self.applied.get(writes.token) for writes in commits]
        return [None if state is None else (state,) for state in found]

    async def find_delays(self, ids: Sequence[str]) -> tuple[datetime, set[str]]:
        if self.cannot_look:
            raise StoreFullError("no memory to look")
        return self.clock.now(), self.delays & set(ids)

    def backoff(self) -> Backoff:
        return Backoff(self.clock, 5.0)

    async def commit(self, *batch: Writes) -> list[Verdict]:
        try:
            return list(await self.call(batch))
        except Failed as failed:
            return await resolved(self, batch, failed, self.clock)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(NOW)


@pytest.fixture
def store(clock: FakeClock) -> Store:
    return Store(clock)


def kinds(verdicts: Sequence[Verdict]) -> list[type]:
    return [type(verdict) for verdict in verdicts]


# Batches


@pytest.mark.parametrize("size", [1, 2, 7, 128])
async def test_a_commit_that_the_store_cannot_take_fails_alone(store: Store, size: int) -> None:
    store.big = (f"{size // 2}",)
    verdicts = await store.commit(*(put(f"{n}") for n in range(size)))
    assert [n for n, kind in enumerate(kinds(verdicts)) if kind is StoreFullError] == [size // 2]
    assert kinds(verdicts).count(tuple) == size - 1
    assert len(store.calls) <= 2 * size.bit_length() + 1


async def test_what_concerns_the_store_is_raised_for_the_whole_batch(store: Store) -> None:
    store.faults = [Failed(StoreUnavailableError("gone"), common=True)]
    with pytest.raises(StoreUnavailableError):
        await store.commit(put("1"), put("2"))
    assert store.calls == [2]


async def test_what_passes_is_tried_again_until_time_is_up(store: Store) -> None:
    store.faults = [PASSING] * 3
    assert kinds(await store.commit(put("1"))) == [tuple]
    store.faults = [PASSING] * 1_000
    with pytest.raises(StoreUnavailableError, match="later"):
        await store.commit(put("2"))
    assert store.clock.now() - NOW < timedelta(seconds=15)


# Lost replies


async def test_a_lost_reply_is_resolved_by_token(store: Store) -> None:
    store.faults = [LOST]
    mine, stale = await store.commit(put("1", "a"), put("2", "b", 7))
    assert isinstance(mine, tuple)
    assert mine[0].id == "a"
    assert isinstance(stale, RevisionMismatchError)
    assert kinds(await store.commit(put("1", "a"))) == [RevisionMismatchError]


async def test_a_lost_commit_of_a_state_that_was_forgotten_is_not_applied_again(
    store: Store,
) -> None:
    store.faults, store.forgets_states = [LOST], True
    begun, other = await store.commit(put("1", "a"), put("2", "b", 7))
    assert begun == (State("a", 1),)
    assert isinstance(other, RevisionMismatchError)
    assert list(store.applied) == ["1"]
    assert store.calls == [2, 1]  # What is known to be applied is not given to the store again.


async def test_a_store_that_stays_away_leaves_the_outcome_unknown(store: Store) -> None:
    store.faults = [LOST, *[PASSING] * 1_000]
    verdicts = await store.commit(put("1"), put("2"))
    assert kinds(verdicts) == [CommitUnknownError] * 2
    tokens = [error.token for error in verdicts if isinstance(error, CommitUnknownError)]
    assert tokens == ["1", "2"]


async def test_a_lost_delay_that_is_there_is_not_stored_again(store: Store) -> None:
    store.faults = [LOST]
    assert await store.commit(delay("1", due=NOW)) == [()]
    assert store.calls == [1]


@pytest.mark.parametrize(
    ("fires", "known"),
    [
        (delay("1", due=NOW), False),
        (delay("1", after=timedelta(0)), False),
        (delay("1", after=timedelta(seconds=4)), False),
        (delay("1", due=NOW + timedelta(hours=1)), True),
        (delay("1", after=timedelta(hours=1)), True),
    ],
)
async def test_a_lost_delay_that_may_have_fired_is_unknown(
    store: Store, fires: Writes, known: bool
) -> None:
    store.faults = [LOST]
    store.forgets_delays = True
    (verdict,) = await store.commit(fires)
    assert verdict == () if known else isinstance(verdict, CommitUnknownError)


async def test_a_lost_delay_that_cannot_be_looked_for_is_unknown(store: Store) -> None:
    store.faults = [LOST]
    store.cannot_look = True
    assert kinds(await store.commit(delay("1", due=NOW), put("2"))) == [CommitUnknownError] * 2


async def test_half_a_batch_that_fails_takes_nothing_from_the_other(store: Store) -> None:
    store.faults = [FULL, None, StoreUnavailableError("gone")]
    assert kinds(await store.commit(put("1"), put("2"))) == [tuple, StoreUnavailableError]


def test_a_replay_is_recognised_by_its_content() -> None:
    writes = put("1", "a")
    assert is_same(writes, 0, "a", writes.bodies[0])
    assert is_same(writes, 0, "a", writes.bodies[0].encode())
    assert not is_same(writes, 0, "a", put("1", "b").bodies[0])
    assert not is_same(writes, 0, "b", writes.bodies[0])


async def test_reads_are_tried_again(clock: FakeClock) -> None:
    answers: list[Failed | int] = [PASSING, LOST, 7]

    async def ask() -> int:
        answer = answers.pop(0)
        if isinstance(answer, Failed):
            raise answer
        return answer

    assert await retried(ask, PASSING, Backoff(clock, 5.0)) == 7
    with pytest.raises(StoreFullError):
        await retried(ask, FULL, Backoff(clock, 5.0))


# News


async def soon(work: Awaitable[Seen]) -> Seen:
    async with asyncio.timeout(5):
        return await work


@pytest.mark.timeout(10)
async def test_news_behind_a_read_let_other_tasks_run() -> None:
    news = News()
    news.saw(1, 0, -1)

    async def commit() -> None:
        news.saw(2, 0, news.head)

    committing = asyncio.create_task(commit())
    while (await news.wait(Seen(2, -1))).head < 2:
        pass  # As a reader does whose reads never wait.
    await committing


async def test_news_begin_with_a_look() -> None:
    news = News()
    waiting = asyncio.ensure_future(news.wait(Seen()))
    await asyncio.sleep(0)
    news.note_commit([put("1")], [(State("1", 3),)])
    await asyncio.sleep(0)
    assert not waiting.done()
    news.saw(3, "mark", news.head)
    assert await soon(waiting) == Seen(3, 0)


async def test_a_look_that_a_commit_has_overtaken_rewinds_nothing() -> None:
    news = News()
    news.saw(3, None, news.head)
    before = news.head
    news.note_commit([put("1")], [(State("1", 4),)])
    news.saw(3, None, before)
    assert await soon(news.wait(Seen())) == Seen(4, 0)
    news.saw(3, None, news.head)
    assert await soon(news.wait(Seen(4, 0))) == Seen(3, 0)


async def test_delays_are_news_for_themselves() -> None:
    news = News()
    news.saw(1, 7, news.head)
    news.saw(1, 8, news.head)
    assert await soon(news.wait(Seen(1, 0))) == Seen(1, 1)
    news.note_commit([delay("1")], [()])
    assert await soon(news.wait(Seen(1, 1))) == Seen(1, 2)
    refused = RevisionMismatchError(["1"])
    news.note_commit([delay("1")], [refused])
    assert news.seen == Seen(1, 2)
    timer = NewTimer("t", "alarm", 0, "a", NOW, None, "")
    news.note_commit([replace(put("1"), timers=(timer,))], [(State("1", 2),)])
    assert news.seen == Seen(2, 3)


async def test_a_failed_look_is_raised_once_in_all_that_wait() -> None:
    news = News()
    news.saw(1, None, news.head)
    waiting = [asyncio.ensure_future(news.wait(Seen(1, 0))) for _ in range(3)]
    await asyncio.sleep(0)
    news.failed(StoreUnavailableError("away"))
    for task in waiting:
        with pytest.raises(StoreUnavailableError):
            await task
    again = asyncio.ensure_future(news.wait(Seen(1, 0)))
    news.saw(2, None, news.head)
    assert await soon(again) == Seen(2, 0)


async def test_an_event_from_any_thread_wakes_tasks() -> None:
    events = EventCount()
    waiting = asyncio.ensure_future(events.wait(0))
    await asyncio.sleep(0)
    threading.Thread(target=events.notify).start()
    async with asyncio.timeout(5):
        assert await waiting == 1
    assert not events.waiters


# Opening and closing: shown on the driver that needs no server


async def test_a_driver_that_is_not_open_says_so(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "store.db")
    with pytest.raises(DriverClosedError):
        await driver.changed(Seen())
    with pytest.raises(InvalidInputError):
        SQLiteDriver(driver)
    async with driver, driver:
        seen = await driver.changed(Seen())
        waiting = asyncio.ensure_future(driver.changed(seen))
        await asyncio.sleep(0)
    with pytest.raises(DriverError):
        await waiting
