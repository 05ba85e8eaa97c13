"""The SQLite driver: keeps blocking work in threads of its own."""

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Literal, Self, TypeVar

from flowstate.clock import Clock, SystemClock
from flowstate.data import Data
from flowstate.driver import (
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
from flowstate.drivers.sqlite import compaction, reader, stalling
from flowstate.drivers.sqlite.file import File
from flowstate.drivers.sqlite.session import Session
from flowstate.drivers.sqlite.times import to_micros
from flowstate.drivers.sqlite.worker import Worker
from flowstate.errors import DriverClosedError, DriverError, InvalidInputError
from flowstate.signal import Signal
from flowstate.state import State

__all__ = ["SQLiteDriver"]

T = TypeVar("T")
MAX_READERS = 100


class SQLiteDriver(Driver):
    """Keeps every revision in one file, which several processes may have open at once.

    All processes must run on one machine, and the file must be on a local disk. Do not use a
    driver that was opened before a ``fork``.

    Args:
        path: the file; made if there is none. Beside it appear ``-wal`` and ``-shm`` files of
            SQLite, and ``-lock`` and ``-turn`` files by which writers take turns.
        synchronous: ``"FULL"`` makes an acknowledged commit survive a power cut; ``"NORMAL"`` is
            several times faster, and a power cut may take the newest commits.
        timeout: seconds to wait for other writers.
        readers: how many reads run at the same time.
        poll_interval: seconds between two looks for commits of other processes, while somebody
            watches.
        clock: stamps ``committed_at`` and judges delays.
    """

    batch_limit = 128
    shared = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        timeout: float = 5.0,
        readers: int = 2,
        poll_interval: float = 0.02,
        clock: Clock | None = None,
    ) -> None:
        name = os.fspath(path)
        if not isinstance(name, str) or name in ("", ":memory:") or "\0" in name:
            raise InvalidInputError("path", "must name a file; use MemoryDriver for memory")
        if synchronous not in ("FULL", "NORMAL"):
            raise InvalidInputError("synchronous", f"must be FULL or NORMAL, not {synchronous!r}")
        _check_number("timeout", timeout, 0, 1_000_000)
        _check_number("poll_interval", poll_interval, 0.001, 1_000_000)
        if not isinstance(readers, int) or not 1 <= readers <= MAX_READERS:
            raise InvalidInputError("readers", f"must be from 1 to {MAX_READERS}, not {readers!r}")
        self.store_id = ""
        self.durability: Durability = "power" if synchronous == "FULL" else "process"
        # Not absolute(): whoever comes through a symbolic link must meet the same lock files.
        self._path = os.path.realpath(name)
        self._clock = clock or SystemClock()
        self._poll_interval = poll_interval
        self._readers = readers
        self._open_file = partial(
            File, self._path, readers=readers, timeout=timeout, synchronous=synchronous
        )
        self._users = 0
        self._users_lock = threading.Lock()
        self._session: Session | None = None
        self._head = 0  # Of this process's commits, and of others' since somebody waits.
        self._next_delay: tuple[int, bytes] | None = None  # As the poller saw it last.
        self._changed = Signal()
        self._delay_written = Signal()

    async def __aenter__(self) -> Self:
        with self._users_lock:
            self._users += 1
            if self._session is None:
                self._session = Session(self._open_file, self._readers)
                self._head, self._next_delay = 0, None
            session = self._session
        try:
            self._check_process(session)
            self.store_id = await self._in_thread(session.writing, session.open)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._users_lock:
            self._users -= 1
            session = self._session
            if self._users or session is None or session.process != os.getpid():
                return  # After a fork only the parent may close the file.
            self._session = None
        self._changed.notify()
        self._delay_written.notify()
        await session.close()

    # Threads

    async def _in_thread(self, worker: Worker, action: Callable[[], T]) -> T:
        """Run ``action`` in a thread, to its end also when the caller is cancelled."""
        with self._clock.working():
            return await worker.do(action)

    def _opened(self) -> tuple[Session, File]:
        session = self._session
        if session is None or session.file is None:
            raise DriverClosedError(f"{self._path} is not open")
        self._check_process(session)
        return session, session.file

    def _check_process(self, session: Session) -> None:
        if session.process != os.getpid():
            raise DriverClosedError(f"{self._path} was opened before a fork")

    async def _read(self, action: Callable[[sqlite3.Connection], T]) -> T:
        session, file = self._opened()
        return await self._in_thread(session.reading, partial(file.read, action))

    async def _write(self, action: Callable[[sqlite3.Connection], T]) -> T:
        session, file = self._opened()
        return await self._in_thread(session.writing, partial(file.write, action))

    # The contract

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        session, file = self._opened()
        action = partial(file.commit, batch, self._clock.now)
        verdicts = await self._in_thread(session.writing, action)
        committed = [states[-1].rev for states in verdicts if isinstance(states, tuple) and states]
        if committed:
            self._head = max(self._head, *committed)
            self._changed.notify()
        if any(writes.delays for writes in batch):
            self._delay_written.notify()
        return verdicts

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        return await self._read(lambda connection: reader.get_state(connection, id, rev))

    async def get_states(self, query: StateQuery) -> States:
        return await self._read(lambda connection: reader.get_states(connection, query))

    async def get_data(self, checksum: str) -> Data | None:
        return await self._read(lambda connection: reader.get_data(connection, checksum))

    async def get_delayed(self, query: DelayQuery) -> DelayedStates:
        now = self._clock.now()
        return await self._read(lambda connection: reader.get_delayed(connection, query, now))

    async def claim_delay(self, id: str, due: datetime, seconds: float) -> datetime | None:
        until = self._clock.now() + timedelta(seconds=seconds)

        def claim(connection: sqlite3.Connection) -> bool:
            change = "UPDATE delay SET due = ? WHERE id = ? AND due = ?"
            return bool(connection.execute(change, (to_micros(until), id, to_micros(due))).rowcount)

        return until if await self._write(claim) else None

    async def drop_delay(self, id: str) -> None:
        await self._write(lambda c: c.execute("DELETE FROM delay WHERE id = ?", (id,)))

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        return await self._write(lambda c: stalling.beat(c, heartbeats, self._clock.now()))

    async def get_liveness(self, id: str) -> Liveness | None:
        (found,) = await self.get_liveness_of([id])
        return found

    async def get_liveness_of(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        now = self._clock.now
        return await self._read(lambda c: [stalling.get_liveness(c, id, now) for id in ids])

    async def get_stalled(self, query: StalledQuery) -> StalledStates:
        now = self._clock.now()
        return await self._read(lambda c: stalling.get_stalled(c, query, now))

    async def compact(self, before_rev: int) -> int:
        removed = 0
        after: int | None = 0
        while after is not None:
            some = partial(compaction.compact_some, after=after, before_rev=before_rev)
            count, after = await self._write(some)
            removed += count
        await self._write(partial(compaction.drop_unreferenced, before_rev=before_rev))
        return removed

    async def head(self) -> int:
        return await self._read(reader.get_head)

    async def wait(self, rev: int) -> None:
        seen = self._changed.count
        self._poll()
        if self._head <= rev:
            await self._changed.wait(seen)
            self._opened()

    async def wait_delay(self, seen: int) -> int:
        self._poll()
        count = await self._delay_written.wait(seen)
        self._opened()
        return count

    # Commits of other processes

    def _poll(self) -> None:
        session, _ = self._opened()
        with self._users_lock:
            session.poll(self._poll_interval, self._look)

    def _look(self, file: File, version: int | None) -> int | None:
        """Note the head, and then wake whoever waits. For the polling thread."""
        before = self._head
        try:
            newest = file.version()
            if newest == version:
                return version
            head, next_delay = file.outlook()
        except DriverError:
            self._changed.notify()  # Whoever waits reads the store, and meets the error.
            return None
        if head > self._head or head < self._head == before:  # The latter: it was rewound.
            self._head = head
            self._changed.notify()
        if next_delay != self._next_delay:
            self._next_delay = next_delay
            self._delay_written.notify()
        # If a verdict of ours came meanwhile, nobody can tell yet which of them is older.
        return newest if head >= self._head else None


def _check_number(field: str, value: object, least: float, most: float) -> None:
    # Not a number compares as false.
    if not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidInputError(field, f"must be from {least} to {most}, not {value!r}")
