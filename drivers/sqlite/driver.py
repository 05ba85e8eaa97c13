"""The SQLite driver: keeps blocking work in threads of its own."""

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar

from flowstate.clock import Clock, SystemClock
from flowstate.data import Data
from flowstate.driver import (
    DelayedStates,
    DelayQuery,
    Driver,
    Durability,
    StateQuery,
    States,
    Verdict,
    Writes,
)
from flowstate.drivers.sqlite import compaction, reader
from flowstate.drivers.sqlite.file import File
from flowstate.drivers.sqlite.times import to_micros
from flowstate.drivers.sqlite.worker import Worker
from flowstate.errors import DriverClosedError, DriverError, InvalidInputError
from flowstate.signal import Signal
from flowstate.state import State

__all__ = ["SQLiteDriver"]

T = TypeVar("T")


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
        if os.fspath(path) in ("", ":memory:"):
            raise InvalidInputError("path", "must name a file; use MemoryDriver for memory")
        if synchronous not in ("FULL", "NORMAL"):
            raise InvalidInputError("synchronous", f"must be FULL or NORMAL, not {synchronous!r}")
        self.store_id = ""
        self.durability: Durability = "power" if synchronous == "FULL" else "process"
        self._path = str(Path(path).absolute())
        self._clock = clock or SystemClock()
        self._poll_interval = poll_interval
        self._readers = readers
        self._open_file = partial(
            File, self._path, readers=readers, timeout=timeout, synchronous=synchronous
        )
        self._users = 0
        self._users_lock = threading.Lock()
        self._file: File | None = None
        self._process = 0
        self._writing: Worker | None = None
        self._reading: Worker | None = None
        self._poller: threading.Thread | None = None
        self._stop_polling = threading.Event()
        self._head = 0  # Of this process's commits, and of others' since somebody waits.
        self._next_due: int | None = None  # As the poller saw it last.
        self._changed = Signal()
        self._delay_written = Signal()

    async def __aenter__(self) -> Self:
        with self._users_lock:
            self._users += 1
            if self._writing is None:
                self._process = os.getpid()
                self._writing = Worker(1, "flowstate-sqlite-writer")
                self._reading = Worker(self._readers, "flowstate-sqlite-reader")
        try:
            await self._in_thread(self._writing, self._open)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    def _open(self) -> None:
        """Open the file, unless an earlier user has. Only the writing thread calls this."""
        if self._file is None:
            self._file = self._open_file()
            self.store_id = self._file.store_id

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._users_lock:
            self._users -= 1
            if self._users:
                return
            reading, writing = self._reading, self._writing
            file, self._file = self._file, None
            poller, self._poller = self._poller, None
            self._reading = self._writing = None
            stop, self._stop_polling = self._stop_polling, threading.Event()
        stop.set()
        self._changed.notify()

        def close() -> None:
            if poller is not None:
                poller.join()
            if reading is not None:
                reading.stop()
            if file is not None:
                file.close()

        if writing is not None:
            await writing.do(close)
            writing.stop()

    # Threads

    async def _in_thread(self, worker: Worker | None, action: Callable[[], T]) -> T:
        """Run ``action`` in a thread, to its end also when the caller is cancelled."""
        if worker is None:
            raise DriverClosedError(f"{self._path} is not open")
        if self._process != os.getpid():
            raise DriverClosedError(f"{self._path} was opened before a fork")
        with self._clock.working():
            return await worker.do(action)

    def _opened(self) -> File:
        if self._file is None:
            raise DriverClosedError(f"{self._path} is not open")
        return self._file

    async def _read(self, action: Callable[[sqlite3.Connection], T]) -> T:
        return await self._in_thread(self._reading, partial(self._opened().read, action))

    async def _write(self, action: Callable[[sqlite3.Connection], T]) -> T:
        return await self._in_thread(self._writing, partial(self._opened().write, action))

    # The contract

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        action = partial(self._opened().commit, batch, self._clock.now)
        verdicts = await self._in_thread(self._writing, action)
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
        self._opened()
        self._start_poller()
        if self._head <= rev:
            await self._changed.wait(seen)
            self._opened()

    async def wait_delay(self, seen: int) -> int:
        self._opened()
        self._start_poller()
        return await self._delay_written.wait(seen)

    # Commits of other processes

    def _start_poller(self) -> None:
        with self._users_lock:
            if self._poller is None and self._file is not None:
                arguments = (self._file, self._stop_polling)
                self._poller = threading.Thread(
                    target=self._poll, args=arguments, name="flowstate-sqlite-poller", daemon=True
                )
                self._poller.start()

    def _poll(self, file: File, stop: threading.Event) -> None:
        """Look for commits of other connections, and note the head before waking anybody."""
        version: int | None = None
        while True:
            try:
                newest = file.version()
                if newest != version:
                    version = newest
                    self._note(*file.outlook())
            except DriverError:
                self._changed.notify()  # Whoever waits reads the store, and meets the error.
            if stop.wait(self._poll_interval):
                return

    def _note(self, head: int, next_due: int | None) -> None:
        if head != self._head:
            self._head = max(head, self._head)
            self._changed.notify()
        if next_due != self._next_due:
            self._next_due = next_due
            self._delay_written.notify()
