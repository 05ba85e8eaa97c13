"""The open file: one writing connection, several reading ones, and one that looks for changes.

Everything here blocks, and runs in threads of the driver.
"""

import os
import queue
import sqlite3
import time
from collections.abc import Callable
from typing import TypeVar

from flowstate.drivers.sqlite import reader
from flowstate.drivers.sqlite.connection import MAX_LOG_BYTES, connect, migrate
from flowstate.drivers.sqlite.errors import translated
from flowstate.drivers.sqlite.lock import WriterLock
from flowstate.errors import StoreUnavailableError

__all__ = ["File", "OutcomeUnknownError"]

T = TypeVar("T")
Action = Callable[[sqlite3.Connection], T]
CHECKPOINT_WAIT_MS = 100
FIRST_PAUSE = 1.0
LAST_PAUSE = 60.0


class OutcomeUnknownError(StoreUnavailableError):
    """COMMIT failed, and the file cannot tell whether the transaction happened."""


class File:
    """A store in a file.

    Attributes:
        store_id: the same for all that open the file.
    """

    def __init__(self, path: str, *, readers: int, timeout: float, synchronous: str) -> None:
        self._path = path
        self._log_path = path + "-wal"
        self._log_size = 0
        self._timeout = timeout
        self._synchronous = synchronous
        self._lock = WriterLock(path, timeout)
        self._connections: list[sqlite3.Connection] = []  # The writer comes first.
        self._idle_readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        self._checkpoint_at = 0.0
        self._checkpoint_pause = 0.0
        try:
            self._lock.open()
            with translated(path):
                with self._lock:
                    self._writer = self._connect(writer=True)
                    self.store_id = migrate(self._writer, path)
                    self._is_here = (_identity(path)[0], _identity(self._log_path)[0])
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

    def check(self) -> None:
        """Refuse to go on with a file that other programs do not find under its name any more.

        Raises:
            StoreUnavailableError: it, or its write-ahead log, was moved, removed or replaced.
        """
        is_file, _ = _identity(self._path)
        is_log, self._log_size = _identity(self._log_path)
        if (is_file, is_log) != self._is_here:
            raise StoreUnavailableError(
                f"{self._path}: it, or its -wal, was moved, removed or replaced while it was open"
            )

    def version(self) -> int:
        """Return a number that changes when another connection has committed."""
        self.check()
        with translated(self._path):
            (version,) = self._watcher.execute("PRAGMA data_version").fetchone()
        return int(version)

    def outlook(self) -> tuple[int, object]:
        """Return the highest revision, and what differs once delays have been stored."""
        with translated(self._path):
            return reader.get_outlook(self._watcher)

    def read(self, action: Action[T]) -> T:
        """Do something with a reading connection."""
        self.check()
        connection = self._idle_readers.get()
        try:
            with translated(self._path):
                return _leniently(connection, action)
        finally:
            self._idle_readers.put(connection)

    def write(
        self, action: Action[T], is_stored: Callable[[T, sqlite3.Connection], bool] | None = None
    ) -> T:
        """Do something in a transaction of the writing connection, whole or not at all.

        Args:
            action: returns what this returns.
            is_stored: given that and a connection, finds out whether the transaction happened
                although COMMIT failed.

        Raises:
            OutcomeUnknownError: it cannot be found out.
        """
        with translated(self._path), self._lock:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                result = action(self._writer)
                self.check()
            except BaseException:
                self._roll_back()
                raise
            self._commit(lambda fresh: is_stored is not None and is_stored(result, fresh))
            self._shorten_log()
            return result

    def _commit(self, is_stored: Callable[[sqlite3.Connection], bool]) -> None:
        try:
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            try:
                happened = self._happened(is_stored, error)
            except sqlite3.Error as again:
                raise OutcomeUnknownError(f"{self._path}: {again}") from again
            if not happened:
                raise

    def _roll_back(self) -> None:
        """Roll back, and never hide why."""
        try:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        except sqlite3.Error:
            pass

    def _happened(
        self, is_stored: Callable[[sqlite3.Connection], bool], failure: sqlite3.Error
    ) -> bool:
        """Return whether a transaction became durable although COMMIT failed."""
        fresh = self._connect(writer=True)
        self._connections.pop()
        self._connections[0].close()
        self._connections[0] = self._writer = fresh
        if is_stored(fresh):
            return True
        if getattr(failure, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_FULL:
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

    def _shorten_log(self) -> None:
        """Begin the write-ahead log from its start when it has grown far over its usual size.

        SQLite does so by itself only at a moment without readers. This waits a little for them;
        a reader that stays, in whichever program, is asked again less and less often.
        """
        if self._log_size <= 2 * MAX_LOG_BYTES or time.monotonic() < self._checkpoint_at:
            return
        try:
            self._writer.execute(f"PRAGMA busy_timeout = {CHECKPOINT_WAIT_MS}")
            (busy, *_) = self._writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            self._writer.execute(f"PRAGMA busy_timeout = {round(self._timeout * 1000)}")
        except sqlite3.Error:  # The next commit will tell.
            busy = True
        self._checkpoint_pause = _longer(self._checkpoint_pause) if busy else 0.0
        self._checkpoint_at = time.monotonic() + self._checkpoint_pause


def _identity(path: str) -> tuple[tuple[int, int] | None, int]:
    """Return what tells a file from others, and its size."""
    try:
        found = os.stat(path)  # noqa: PTH116 - for each commit and read, and three times as fast
    except OSError:
        return None, 0
    return (found.st_dev, found.st_ino), found.st_size


def _leniently(connection: sqlite3.Connection, action: Action[T]) -> T:
    """Read; if a text is no UTF-8, read again, so that it fails nothing but its own row."""
    try:
        return action(connection)
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
    connection.text_factory = _decode
    try:
        return action(connection)
    finally:
        connection.text_factory = str


def _decode(stored: bytes) -> str:
    return stored.decode(errors="surrogateescape")


def _longer(pause: float) -> float:
    return min(2 * pause, LAST_PAUSE) or FIRST_PAUSE
