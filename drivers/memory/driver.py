"""The memory driver: the whole contract, in plain Python structures under one lock."""

import asyncio
import threading
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from flowstate.clock import Clock, SystemClock
from flowstate.data import Data
from flowstate.driver import (
    DelayedState,
    DelayedStates,
    DelayQuery,
    Driver,
    Durability,
    Heartbeat,
    Liveness,
    StalledQuery,
    StalledStates,
    StateQuery,
    States,
    Verdict,
    Writes,
)
from flowstate.drivers.memory.delays import Delays, delayed_puts, due_of
from flowstate.drivers.memory.index import Index
from flowstate.drivers.memory.postings import Postings
from flowstate.drivers.memory.stalling import Stalling
from flowstate.errors import (
    CompactedError,
    DataNotFoundError,
    DriverClosedError,
    FlowstateError,
    RevisionMismatchError,
)
from flowstate.query import matches
from flowstate.signal import Signal
from flowstate.state import State, Status

__all__ = ["MemoryDriver"]

SCAN_LIMIT = 10_000
INDEX_EVERY = 1_000
YIELD_MASK = 63
REMEMBERED_TOKENS = 1_000
COMPACT_CHUNK = 10_000
ACTIVE = StateQuery(status=Status.ACTIVE, latest_only=True)
LONG_AGO = datetime.min.replace(tzinfo=UTC)


class MemoryDriver(Driver):
    """Keeps every revision in memory, until the object is gone.

    Safe to use from several threads and event loops at once. Reads return the very objects
    that were committed, which are frozen.

    Args:
        clock: stamps ``committed_at`` and judges delays.
    """

    durability: Durability = "none"
    batch_limit = 1
    shared = False

    def __init__(self, clock: Clock | None = None) -> None:
        self.store_id = f"memory-{uuid.uuid4().hex}"
        self._now: Callable[[], datetime] = (clock or SystemClock()).now
        self._users = 0
        self._lock = threading.Lock()
        self._changed = Signal()
        self._delay_written = Signal()
        self._head = 0
        self._floor = 1
        self._log: list[State] = []  # From the floor to the head.
        self._kept: dict[int, State] = {}  # Below the floor.
        self._latest: dict[str, int] = {}
        self._last_time = LONG_AGO
        self._index = Index()
        self._replaced: list[int] = []  # By the revisions that the index does not know yet.
        self._index_at = INDEX_EVERY
        self._delays = Delays()
        self._stalling = Stalling()
        self._data: dict[str, tuple[Data, int]] = {}  # With the head when it was stored.
        self._verdicts: dict[str, tuple[State, ...]] = {}  # Of the newest tokens.

    async def __aenter__(self) -> Self:
        self._users += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._users -= 1

    def _check_open(self) -> None:
        if not self._users:
            raise DriverClosedError("the memory driver is not open")

    # Writing

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        if not self._users:
            self._check_open()
        if not self._head & YIELD_MASK:
            # Nothing here ever waits, so a busy task would keep the event loop for itself.
            await asyncio.sleep(0)
        verdicts = []
        self._lock.acquire()  # A with statement and map would add a tenth to a commit.
        try:
            for writes in batch:
                verdicts.append(self._judge(writes))  # noqa: PERF401
        finally:
            self._lock.release()
        changed = self._changed
        changed.count += 1
        if changed.waiters:
            changed.wake()
        return verdicts

    def _judge(self, writes: Writes) -> Verdict:
        if writes.token in self._verdicts:
            return self._verdicts[writes.token]
        latest = self._latest
        for state in writes.puts:
            if latest.get(state.id, 0) != state.rev:
                return self._mismatch(writes)
        if writes.checks or writes.delays or writes.data or writes.needs:
            return self._judge_rest(writes)
        return self._append(writes.token, writes.puts)

    def _append(self, token: str, puts: tuple[State, ...]) -> tuple[State, ...]:
        now = self._now()
        if now < self._last_time:  # noqa: PLR1730 - max() costs as much as all the rest
            now = self._last_time
        self._last_time = now
        log, latest, replaced = self._log, self._latest, self._replaced
        rev = self._head
        committed = []
        for draft in puts:
            rev += 1
            state = replace(draft, rev=rev, committed_at=now)
            log.append(state)
            replaced.append(draft.rev)
            latest[state.id] = rev
            committed.append(state)
        self._head = rev
        if self._delays.count:
            self._delays.remove_of(puts)
        if self._stalling.beats:
            self._stalling.forget(puts)
        self._verdicts[token] = states = tuple(committed)
        if rev >= self._index_at:
            self._bring_up_to_date()
        return states

    def _bring_up_to_date(self) -> None:
        """Index what was committed since, and forget old tokens. Called every so many commits."""
        if self._replaced:
            self._index.add(self._log[-len(self._replaced) :], self._replaced)
            self._replaced = []
        self._index_at = self._head + INDEX_EVERY
        if len(self._verdicts) > 2 * REMEMBERED_TOKENS:
            for token in list(islice(self._verdicts, REMEMBERED_TOKENS)):
                del self._verdicts[token]

    def _mismatch(self, writes: Writes) -> FlowstateError:
        expected = [(state.id, state.rev) for state in writes.puts]
        ids = [id for id, rev in (*expected, *writes.checks) if self._latest.get(id, 0) != rev]
        return RevisionMismatchError(ids)

    def _judge_rest(self, writes: Writes) -> Verdict:
        """Judge and apply writes that have more than puts."""
        if any(self._latest.get(id, 0) != rev for id, rev in writes.checks):
            return self._mismatch(writes)
        stored = self._data.keys() | {data.checksum for data in writes.data}
        missing = [checksum for checksum in writes.needs if checksum not in stored]
        if missing:
            return DataNotFoundError(f"data {', '.join(missing)} is no longer stored")
        for data in writes.data:
            self._data[data.checksum] = (replace(data, rev=0), self._head)
        now = self._now()
        dues = [due_of(delay, now) for delay in writes.delays]
        puts = delayed_puts(writes, dues)
        states = self._append(writes.token, puts)
        for index, (new, due) in enumerate(zip(writes.delays, dues, strict=True)):
            state = new.state if new.put is None else states[new.put]
            id = f"{writes.token}.{index}"
            self._delays.add(DelayedState(id, state, new.to, new.annotations, due, new.commit))
            if new.put is None:
                self._postpone(state, due)
        if dues:
            self._delay_written.notify()
        return states

    def _postpone(self, delayed: State, due: datetime) -> None:
        """Let a state that gets a delay without a new revision stall after that delay."""
        state = self._at(delayed.rev)
        if state is not None and state.id == delayed.id:
            self._catch_up()
            self._stalling.delay(state, due)

    # Reading

    def _at(self, rev: int) -> State | None:
        if rev >= self._floor:
            place = rev - self._floor
            return self._log[place] if place < len(self._log) else None
        return self._kept.get(rev)

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        self._check_open()
        with self._lock:
            if rev is None:
                rev = self._latest.get(id, 0)
            state = self._at(rev) if rev else None
            return state if state is not None and state.id == id else None

    async def get_states(self, query: StateQuery) -> States:
        self._check_open()
        with self._lock:
            return self._page(query)

    def _page(self, query: StateQuery) -> States:
        self._bring_up_to_date()
        if query.gaps_below is not None and self._floor > max(query.after + 1, query.gaps_below):
            raise CompactedError(self._floor)
        after, upto = self._bounds(query)
        found: list[State] = []
        for scanned, rev in enumerate(self._candidates(query, after, upto), 1):
            state = self._at(rev)
            if state is not None and self._answers(query, state):
                if len(found) == query.limit:
                    return States(found, found[-1].rev, True, self._head, self._floor)
                found.append(state)
            if scanned == SCAN_LIMIT:
                return States(found, rev, True, self._head, self._floor)
        return States(found, max(self._head, query.after), False, self._head, self._floor)

    def _answers(self, query: StateQuery, state: State) -> bool:
        if query.latest_only and state.rev not in self._index.live:
            return False
        return matches(query, state)

    def _bounds(self, query: StateQuery) -> tuple[int, int]:
        """Return after and up to which revision a query has to look."""
        after, upto = query.after, self._head
        if query.since_time is not None:
            after = max(after, self._last_before(query.since_time))
        if query.committed_before is not None:
            upto = max(self._last_before(query.committed_before), self._floor - 1)
        if query.since_latest:
            after = self._newest(query, upto) - 1
        return after, upto

    def _last_before(self, time: datetime) -> int:
        """Return the last revision that was committed before ``time``, 0 if it is compacted."""
        place = bisect_left(self._log, time, key=lambda state: state.committed_at or LONG_AGO)
        return self._floor + place - 1 if place else 0

    def _newest(self, query: StateQuery, upto: int) -> int:
        for rev in self._index.newest_first(query, upto):
            state = self._at(rev)
            if state is not None and self._answers(query, state):
                return rev
        return self._head + 1

    def _candidates(self, query: StateQuery, after: int, upto: int) -> Iterable[int]:
        found = self._index.candidates(query, after, upto)
        if found is not None:
            return found
        below = [rev for rev in self._kept if after < rev <= upto] if after < self._floor else []
        return chain(sorted(below), range(max(after + 1, self._floor), upto + 1))

    async def get_data(self, checksum: str) -> Data | None:
        self._check_open()
        found = self._data.get(checksum)
        return None if found is None else found[0]

    async def get_delayed(self, query: DelayQuery) -> DelayedStates:
        self._check_open()
        with self._lock:
            return self._delays.page(query, self._now())

    async def claim_delay(self, id: str, due: datetime, seconds: float) -> datetime | None:
        self._check_open()
        with self._lock:
            until = self._now() + timedelta(seconds=seconds)
            return until if self._delays.claim(id, due, until) else None

    async def drop_delay(self, id: str) -> None:
        self._check_open()
        with self._lock:
            self._delays.remove(id)

    # Stalling

    def _catch_up(self) -> None:
        """Look at what has become the latest since."""
        self._bring_up_to_date()
        stalling = self._stalling
        for rev in self._index.candidates(ACTIVE, stalling.seen, self._head) or ():
            state = self._at(rev)
            if state is not None and rev in self._index.live:
                stalling.add(state)
        stalling.seen = self._head

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        self._check_open()
        with self._lock:
            self._catch_up()
            now = self._now()
            found = [self._latest.get(beat.id) == beat.rev for beat in heartbeats]
            for heartbeat, is_latest in zip(heartbeats, found, strict=True):
                if is_latest:
                    self._stalling.beat(heartbeat, now)
            return found

    async def get_liveness(self, id: str) -> Liveness | None:
        self._check_open()
        with self._lock:
            self._catch_up()
            rev = self._latest.get(id)
            if rev is None:
                return None
            beat = self._stalling.beats.get(id)
            at, note = (beat.at, beat.note) if beat else (None, "")
            due = self._delays.due_of(id, rev)
            return Liveness(rev, self._stalling.at(id, rev), at, note, self._now(), due)

    async def get_stalled(self, query: StalledQuery) -> StalledStates:
        self._check_open()
        with self._lock:
            self._catch_up()
            now = self._now()
            found, following = self._stalling.page(
                query.after, now, query.limit, lambda id, rev: self._latest.get(id) == rev
            )
            states = [state for _, rev in found if (state := self._at(rev)) is not None]
            more = following is not None and following[0] <= now
            next_at = following[0] if following else None
            return StalledStates(states, more, now, next_at, found[-1][0] if found else None)

    async def head(self) -> int:
        self._check_open()
        return self._head

    async def wait(self, rev: int) -> None:
        while self._head <= rev:
            self._check_open()
            seen = self._changed.count
            if self._head > rev:
                return
            await self._changed.wait(seen)

    async def wait_delay(self, seen: int) -> int:
        return await self._delay_written.wait(seen)

    # Retention

    async def compact(self, before_rev: int) -> int:
        self._check_open()
        target = min(before_rev, self._head)
        removed = 0
        touched: dict[Postings, None] = {}
        with self._lock:
            self._bring_up_to_date()
            removed += self._forget(self._outdated_kept(before_rev), touched)
        while self._floor < target:
            with self._lock:
                self._bring_up_to_date()
                cut = self._cut(min(target, self._floor + COMPACT_CHUNK))
                removed += self._forget(cut, touched)
            await asyncio.sleep(0)
        for postings in touched:
            with self._lock:
                postings.clean(lambda rev: self._at(rev) is not None)
            await asyncio.sleep(0)
        with self._lock:
            self._drop_unreferenced(target)
        return removed

    def _outdated_kept(self, before_rev: int) -> list[State]:
        """Take out what was the latest of its state at an earlier compaction, but no longer is."""
        below = [state for rev, state in self._kept.items() if rev < before_rev]
        gone = [state for state in below if state.rev not in self._index.live]
        for state in gone:
            del self._kept[state.rev]
        return gone

    def _cut(self, floor: int) -> list[State]:
        """Move the floor; return the revisions that nobody keeps."""
        cut = self._log[: floor - self._floor]
        del self._log[: floor - self._floor]
        self._floor = floor
        gone = []
        for state in cut:
            if state.rev in self._index.live:
                self._kept[state.rev] = state
            else:
                gone.append(state)
        return gone

    def _forget(self, states: list[State], touched: dict[Postings, None]) -> int:
        touched.update(dict.fromkeys(self._index.remove(states)))
        return len(states)

    def _drop_unreferenced(self, floor: int) -> None:
        self._bring_up_to_date()
        references = self._index.references
        for checksum, (_, stored_at) in list(self._data.items()):
            if not references.get(checksum) and stored_at < floor:
                del self._data[checksum]
                references.pop(checksum, None)
