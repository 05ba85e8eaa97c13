"""The memory driver: the whole contract, in plain Python structures under one lock."""

import asyncio
import os
import threading
import uuid
import weakref
from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

import attrs
from msgspec.structs import replace

from flowstate.clock import Clock, SystemClock
from flowstate.data import Data
from flowstate.driver import (
    Driver,
    DuePage,
    DueQuery,
    Heartbeat,
    Liveness,
    Seen,
    StateQuery,
    States,
    Verdict,
    Writes,
)
from flowstate.drivers.kit.event_count import EventCount
from flowstate.drivers.memory.due import Deadlines, Delays, Idle, due_of
from flowstate.drivers.memory.index import Index
from flowstate.drivers.memory.log import LONG_AGO, Log, read_page
from flowstate.drivers.memory.standing import Standing
from flowstate.errors import (
    ClaimLostError,
    DataNotFoundError,
    DriverClosedError,
    FlowstateError,
    RevisionMismatchError,
)
from flowstate.ground.options import has, optional
from flowstate.state import State

__all__ = ["MemoryDriver"]

INDEX_EVERY = 1_000
YIELD_MASK = 63
COMPACT_CHUNK = 10_000
_opened: "weakref.WeakSet[MemoryDriver]" = weakref.WeakSet()


def _forget_users() -> None:
    for driver in list(_opened):
        driver.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_users)


# Validators that run on each assignment would nearly double the time of a commit.
@attrs.define(eq=False, slots=False, on_setattr=attrs.setters.NO_OP)
class MemoryDriver(Driver):
    """Keeps every revision in memory, for as long as the object lives.

    Safe to use from several threads and event loops at once. Reads return the very objects
    that were committed, which are frozen. A process that was forked has a copy of the store, and
    has to open it again.

    Args:
        clock: stamps ``committed_at``, and judges what is due.
    """

    clock: Clock | None = attrs.field(
        default=None, repr=False, validator=optional(has("a Clock", "now", "monotonic", "sleep"))
    )

    durability = "none"
    max_batch_size = 1
    stores_objects = True
    shared = False

    def __attrs_post_init__(self) -> None:
        self.store_id = ""
        self._now: Callable[[], datetime] = (self.clock or SystemClock()).now
        self._users = 0
        self._lock = threading.Lock()
        self._events = EventCount()
        self._head = 0
        self._due_count = 0
        self._log = Log()
        self._states = self._log.states
        self._latest: dict[str, int] = {}
        self._last_time = LONG_AGO
        self._standing = Standing()
        self._index = Index()
        self._replaced: list[int] = []  # By the revisions that the index does not know yet.
        self._forgotten: list[int] = []  # Since the index was brought up to date.
        self._index_at = INDEX_EVERY
        self._delays = Delays()
        self._deadlines = Deadlines()
        self._idle = Idle()
        self._data: dict[str, tuple[Data, int]] = {}  # With the head when it was stored.

    async def __aenter__(self) -> Self:
        with self._lock:
            self._users += 1
            self.store_id = self.store_id or f"memory-{uuid.uuid4().hex}"
        _opened.add(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._users = max(0, self._users - 1)
        self._events.notify()

    def after_fork(self) -> None:
        """Close the copy of the driver that a forked process has: it is another store by now."""
        self._users, self.store_id = 0, ""
        self._lock, self._events = threading.Lock(), EventCount()

    def _check_open(self) -> None:
        if not self._users:
            raise DriverClosedError("the memory driver is not open")

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
        events = self._events
        events.count += 1
        if events.waiters:
            events.wake()
        return verdicts

    def _judge(self, writes: Writes) -> Verdict:
        latest = self._latest
        for state in writes.puts:
            if latest.get(state.id, 0) != state.rev:
                return self._mismatch(writes)
        if writes.checks or writes.delays or writes.data or writes.needs:
            return self._judge_rest(writes)
        if writes.claims or writes.drops or writes.timers or writes.forgets:
            return self._judge_rest(writes)
        puts = writes.puts
        return self._append_kept(puts, writes.keeps) if writes.keeps else self._append(puts)

    def _append(
        self, puts: tuple[State, ...], moved: Sequence[State] | None = None
    ) -> tuple[State, ...]:
        """Append revisions; ``moved`` are those that drop their delays, ``None`` means all."""
        now = self._now()
        if now < self._last_time:
            # The stamp never goes back; deadlines count from now.
            self._standing.came(range(self._head + 1, self._head + len(puts) + 1), now)
            now = self._last_time
        self._last_time = now
        latest, rev, committed = self._latest, self._head, []
        for draft in puts:
            rev += 1
            committed.append(replace(draft, rev=rev, committed_at=now))
            self._replaced.append(draft.rev)
            latest[draft.id] = rev
        self._states.extend(committed)
        self._head = rev
        if self._delays.count:
            self._delays.remove_of(puts if moved is None else moved)
        if self._deadlines.beats:
            for draft in puts:
                self._deadlines.beats.pop(draft.id, None)
        if rev >= self._index_at:
            self._bring_up_to_date()
        return tuple(committed)

    def _bring_up_to_date(self) -> None:
        """Index what was committed since. Called every so many commits, and by questions."""
        if self._replaced:
            self._index.add(self._states[-len(self._replaced) :], self._replaced)
            self._replaced.clear()
        if self._forgotten:
            self._index.live.difference_update(self._forgotten)
            self._forgotten.clear()
        self._index_at = self._head + INDEX_EVERY

    def _mismatch(self, writes: Writes) -> FlowstateError:
        expected = [(state.id, state.rev) for state in writes.puts]
        ids = [id for id, rev in (*expected, *writes.checks) if self._latest.get(id, 0) != rev]
        return RevisionMismatchError(ids)

    def _judge_rest(self, writes: Writes) -> Verdict:
        """Judge and apply writes that have more than puts."""
        now = self._now()
        refusal = self._refusal(writes, now)
        if refusal is not None:
            return refusal
        for data in writes.data:
            self._data[data.checksum] = (replace(data, rev=0), self._head)
        dues = [due_of(delay, now) for delay in writes.delays]
        self._due_count += bool(writes.delays or writes.timers)
        self._due_count += sum([self._delays.claim(claim, now) for claim in writes.claims])
        for drop in writes.drops:
            self._delays.drop(drop)
        puts = _delayed(writes, dues) if dues else writes.puts
        states = self._append_kept(puts, writes.keeps) if writes.keeps else self._append(puts)
        for index, (delay, due) in enumerate(zip(writes.delays, dues, strict=True)):
            state = delay.state if delay.put is None else states[delay.put]
            self._delays.add(writes.delay_id(index), delay, state, due)
            if delay.put is None:
                self._postpone(state, due)
        for timer in writes.timers:
            self._delays.set_timer(timer, writes.puts[timer.put].id, due_of(timer, now))
        for place in writes.forgets:
            self._forget(states[place])
        return states

    def _refusal(self, writes: Writes, now: datetime) -> FlowstateError | None:
        if any(self._latest.get(id, 0) != rev for id, rev in writes.checks):
            return self._mismatch(writes)
        own = {data.checksum for data in writes.data}
        missing = [need for need in writes.needs if need not in self._data and need not in own]
        if missing:
            return DataNotFoundError(f"data {', '.join(missing)} is no longer stored")
        lost = [claim.id for claim in writes.claims if not self._delays.can_claim(claim, now)]
        return ClaimLostError(lost) if lost else None

    def _append_kept(self, puts: tuple[State, ...], keeps: Sequence[int]) -> tuple[State, ...]:
        """Append revisions of which some keep their delays, and when they stall."""
        ends = [self._stalls_at(self._latest_state(puts[place].id)) for place in keeps]
        states = self._append(puts, [s for n, s in enumerate(puts) if n not in keeps])
        for place, at in zip(keeps, ends, strict=True):
            self._delays.move(states[place])
            self._standing.keep(states[place].rev, at)
        return states

    def _stalls_at(self, state: State) -> datetime | None:
        is_seen = state.rev <= self._deadlines.seen
        return self._deadlines.at(state.id) if is_seen else self._standing.stalls_at(state)

    def _forget(self, state: State) -> None:
        """Let a state have no latest revision, although this one stays in the log."""
        del self._latest[state.id]
        self._forgotten.append(state.rev)
        self._deadlines.forget(state.id)
        self._idle.forget(state.id)

    def _postpone(self, delayed: State, due: datetime) -> None:
        """Let a state that gets a delay without a new revision stall after that delay."""
        state = self._log.at(delayed.rev)
        if state is not None and self._latest.get(state.id) == state.rev:
            self._catch_up(self._deadlines)
            self._deadlines.postpone(state, due)

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        self._check_open()
        with self._lock:
            state = self._log.at(self._latest.get(id, 0) if rev is None else rev)
            return state if state is not None and state.id == id else None

    async def get_states(self, query: StateQuery) -> States:
        self._check_open()
        with self._lock:
            self._bring_up_to_date()
            if query.id is not None:
                self._index.follow_ids(self._states)
            return read_page(query, self._log, self._index, self._head)

    async def count(self, query: StateQuery) -> int:
        self._check_open()
        with self._lock:
            self._bring_up_to_date()
            return self._index.count(replace(query, latest_only=True))

    async def get_data(self, checksum: str) -> Data | None:
        self._check_open()
        found = self._data.get(checksum)
        return None if found is None else found[0]

    def _catch_up(self, table: Deadlines | Idle) -> None:
        """Let a table look at what has become the latest since."""
        self._bring_up_to_date()
        live = self._index.live
        latest = StateQuery(latest_only=True)
        for rev in self._index.rising(latest, table.seen, self._head):
            state = self._log.at(rev)
            if rev in live and state is not None:
                table.add(state, self._standing.since(state), self._standing.limit(rev))
        table.seen = self._head
        if table is self._deadlines:
            self._standing.clear()

    async def get_due(self, query: DueQuery) -> DuePage:
        self._check_open()
        with self._lock:
            now = self._now()
            if query.kind == "delay":
                return self._delays.page(query, now, self._latest_state)
            table = self._deadlines if query.kind == "stall" else self._idle
            self._catch_up(table)
            return table.page(query, now, self._latest_state)

    def _latest_state(self, id: str) -> State:
        state = self._log.at(self._latest.get(id, 0))
        return State(id) if state is None else state

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        self._check_open()
        with self._lock:
            self._catch_up(self._deadlines)
            now = self._now()
            found = [self._latest.get(beat.id) == beat.rev for beat in heartbeats]
            for heartbeat, is_latest in zip(heartbeats, found, strict=True):
                if is_latest:
                    self._deadlines.beat(self._latest_state(heartbeat.id), heartbeat, now)
            return found

    async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        self._check_open()
        with self._lock:
            self._catch_up(self._deadlines)
            return [self._liveness(id) for id in ids]

    def _liveness(self, id: str) -> Liveness | None:
        rev = self._latest.get(id)
        if rev is None:
            return None
        at, note = self._deadlines.beats.get(id, (None, ""))
        due = self._delays.earliest(id, rev)
        return Liveness(rev, self._deadlines.at(id), at, note, self._now(), due)

    async def changed(self, seen: Seen) -> Seen:
        while True:
            self._check_open()
            count = self._events.count
            found = Seen(self._head, self._due_count)
            if found != seen:
                return found
            await self._events.wait(count)

    async def compact(self, before_rev: int) -> int:
        self._check_open()
        log, live, target = self._log, self._index.live, min(before_rev, self._head)
        with self._lock:
            self._bring_up_to_date()
            removed = self._removed(log.drop_kept(target, live))
        while log.floor < target:
            with self._lock:
                self._bring_up_to_date()
                floor = min(target, log.floor + COMPACT_CHUNK)
                removed += self._removed(log.move_floor(floor, live))
            await asyncio.sleep(0)
        checksums = list(self._data)
        for start in range(0, len(checksums), COMPACT_CHUNK):
            with self._lock:
                self._drop_unreferenced(checksums[start : start + COMPACT_CHUNK], target)
            await asyncio.sleep(0)
        return removed

    def _removed(self, gone: Sequence[State]) -> int:
        if gone:
            self._index.remove(gone, lambda rev: self._log.at(rev) is not None)
        return len(gone)

    def _drop_unreferenced(self, checksums: Sequence[str], floor: int) -> None:
        self._bring_up_to_date()
        counts = (self._index.references, self._delays.references)
        for checksum in checksums:
            _, stored_at = self._data.get(checksum, (None, floor))
            if stored_at < floor and not any(count[checksum] for count in counts):
                del self._data[checksum]
                for count in counts:
                    del count[checksum]


def _delayed(writes: Writes, dues: Sequence[datetime]) -> tuple[State, ...]:
    """Return the puts, each with the time of its earliest delay."""
    earliest: dict[int | None, datetime] = {}
    for delay, due in zip(writes.delays, dues, strict=True):
        earliest[delay.put] = min(due, earliest.get(delay.put, due))
    return tuple(
        replace(state, delayed_until=earliest[place]) if place in earliest else state
        for place, state in enumerate(writes.puts)
    )
