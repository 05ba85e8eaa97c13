"""The open file: one writing connection, several reading ones, and one that looks for changes.

Everything here blocks, and runs in threads of the driver.
"""

import queue
import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

from flowstate.driver import Verdict, Writes
from flowstate.drivers.sqlite import reader
from flowstate.drivers.sqlite.connection import connect, migrate
from flowstate.drivers.sqlite.errors import translated, translation
from flowstate.drivers.sqlite.lock import WriterLock
from flowstate.drivers.sqlite.writer import Batch
from flowstate.errors import (
    CodecError,
    CommitUnknownError,
    DriverError,
    StoreBusyError,
    StoreFullError,
)

__all__ = ["File"]

T = TypeVar("T")


class File:
    """A store in a file.

    Attributes:
        store_id: the same for whoever opens the file.
    """

    def __init__(self, path: str, *, readers: int, timeout: float, synchronous: str) -> None:
        self._path = path
        self._timeout = timeout
        self._synchronous = synchronous
        self._lock = WriterLock(path, timeout)
        self._connections: list[sqlite3.Connection] = []  # The writer comes first.
        self._idle_readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        try:
            self._lock.open()
            with translated(path):
                with self._lock:
                    self._writer = self._connect(writer=True)
                    self.store_id = migrate(self._writer, path)
                self._watcher = self._connect(writer=False)
                for _ in range(readers):
                    self._idle_readers.put(self._connect(writer=False))
        except BaseException:
            self.close()
            raise

    def _connect(self, *, writer: bool) -> sqlite3.Connection:
        connection = connect(
            self._path, timeout=self._timeout, writer=writer, synchronous=self._synchronous
        )
        self._connections.append(connection)
        return connection

    def close(self) -> None:
        """Close all connections; the last one to the file checkpoints it."""
        for connection in reversed(self._connections):
            connection.close()
        self._connections.clear()
        self._lock.close()

    def version(self) -> int:
        """Return a number that changes when another connection has committed."""
        with translated(self._path):
            (version,) = self._watcher.execute("PRAGMA data_version").fetchone()
        return int(version)

    def outlook(self) -> tuple[int, tuple[int, bytes] | None]:
        """Return the highest revision, and the earliest delay: when it is due, and its id."""
        with translated(self._path):
            return reader.get_head(self._watcher), reader.get_next_delay(self._watcher)

    def read(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Do something with a reading connection."""
        connection = self._idle_readers.get()
        try:
            with translated(self._path):
                return action(connection)
        finally:
            self._idle_readers.put(connection)

    def write(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Do something in a transaction of the writing connection, whole or not at all."""
        with translated(self._path), self._lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                result = action(self._writer)
                self._writer.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            return result

    def _roll_back(self) -> None:
        """Roll back, and never hide why."""
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            pass

    def commit(self, batch: Sequence[Writes], now: Callable[[], datetime]) -> list[Verdict]:
        """Judge and store a batch; one that fails is tried again commit by commit.

        A commit that makes the whole batch fail, say by being too large for the disk, must not
        take the others with it.
        """
        try:
            return self._commit(batch, now)
        except StoreBusyError as error:
            return [error for _ in batch]
        except (DriverError, CodecError) as error:
            if len(batch) == 1:
                return [error]
        return [self.commit([writes], now)[0] for writes in batch]

    def _commit(self, batch: Sequence[Writes], now: Callable[[], datetime]) -> list[Verdict]:
        with self._lock:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                pending = Batch(self._writer, batch, now())
                verdicts = [pending.judge(writes) for writes in batch]
                pending.flush()
            except BaseException as error:
                self._roll_back()
                if isinstance(error, sqlite3.Error):
                    raise translation(error, self._path) from error
                raise
            try:
                self._writer.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                failure = translation(error, self._path)
                try:
                    happened = self._happened(pending, failure)
                except sqlite3.Error:
                    return [CommitUnknownError(writes.token) for writes in batch]
                if not happened:
                    raise failure from error
            return verdicts

    def _happened(self, pending: Batch, failure: DriverError) -> bool:
        """Return whether a transaction became durable although COMMIT failed."""
        fresh = self._connect(writer=True)
        self._connections.pop()
        self._connections[0].close()
        self._connections[0] = self._writer = fresh
        if pending.is_stored(fresh):
            return True
        if not isinstance(failure, StoreFullError):
            self._cover()
        return False

    def _cover(self) -> None:
        """Write over what a failed COMMIT left in the write-ahead log.

        When only the last sync failed, the log may hold a transaction that nobody sees, but that
        SQLite would find there after a crash of all processes.
        """
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            self._writer.execute(  # A real change: SQLite writes no page that stays as it is.
                "INSERT INTO meta VALUES ('failed_commits', 1)"
                " ON CONFLICT (key) DO UPDATE SET value = value + 1"
            )
            self._writer.execute("COMMIT")
        finally:
            self._roll_back()
