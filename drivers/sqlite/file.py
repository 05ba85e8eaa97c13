"""The open file: one writing connection, several reading ones, and one that looks for changes.

Everything here blocks, and runs in threads of the driver.
"""

import queue
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from flowstate.drivers.kit.base import News
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
GROWTH = 1.25


class OutcomeUnknownError(StoreUnavailableError):
    """COMMIT failed, and the file cannot tell whether the transaction happened."""


class File:
    """A store in a file.

    Attributes:
        store_id: the same for all that open the file.
    """

    def __init__(self, path: str, *, readers: int, timeout: float, synchronous: str) -> None:
        self._path = path
        self._timeout = timeout
        self._synchronous = synchronous
        self._lock = WriterLock(path, timeout)
        self._place = self._lock.place
        self._translated = translated(path)
        self._connections: list[sqlite3.Connection] = []  # The writer comes first.
        self._idle_readers: queue.SimpleQueue[sqlite3.Connection] = queue.SimpleQueue()
        # When, or from which size on, the log is to be shortened; and how long after another try.
        self._shorten_at = self._shorten_from = self._shorten_pause = 0.0
        try:
            self._place.check_neighbours()
            self._lock.open()
            with self._translated:
                with self._lock:
                    self._writer = self._add(writer=True)
                    self.store_id = migrate(self._writer, path)
                    self._place.enter()
                self._watcher = self._add(writer=False)
                for _ in range(readers):
                    self._idle_readers.put(self._add(writer=False))
        except BaseException:
            self.close()
            raise

    def _connect(self, *, writer: bool) -> sqlite3.Connection:
        return connect(
            self._path, timeout=self._timeout, writer=writer, synchronous=self._synchronous
        )

    def _add(self, *, writer: bool) -> sqlite3.Connection:
        self._connections.append(self._connect(writer=writer))
        return self._connections[-1]

    def close(self) -> None:
        """Close all connections; the last one to the file checkpoints it."""
        if self._place.leave():
            for connection in reversed(self._connections):
                connection.close()
            self._connections.clear()
        else:
            _keep_open(self._connections)
        self._lock.close()

    def look(self, version: int | None, news: News) -> int | None:
        """Tell what other connections have committed, unless this version of the file is known.

        Returns the version that is known now.
        """
        before = news.head
        self._place.check()
        with self._translated:
            (newest,) = self._watcher.execute("PRAGMA data_version").fetchone()
            if newest == version:
                return version
            head, delays = reader.get_outlook(self._watcher)
        news.saw(head, delays, before)
        # If a commit of this process came meanwhile, it is open which of the two is older.
        return int(newest) if head >= news.head else None

    def read(self, action: Action[T]) -> T:
        """Do something with a reading connection."""
        self._place.check()
        connection = self._idle_readers.get()
        try:
            with self._translated:
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
        with self._translated, self._lock:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                result = action(self._writer)
                if time.monotonic() > self._place.good_until:
                    self._place.check()
            except BaseException:
                self._roll_back()
                raise
            try:
                self._writer.execute("COMMIT")
            except sqlite3.Error as error:
                self._roll_back()
                if not self._happened(lambda c: bool(is_stored and is_stored(result, c)), error):
                    raise
            if self._place.log_size > 2 * MAX_LOG_BYTES:
                self._shorten_log()
            return result

    def _roll_back(self) -> None:
        """Roll back, and never hide why."""
        with suppress(sqlite3.Error):
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")

    def _happened(
        self, is_stored: Callable[[sqlite3.Connection], bool], failure: sqlite3.Error
    ) -> bool:
        """Return whether a transaction became durable although COMMIT failed."""
        try:
            fresh = self._connect(writer=True)
            self._connections[0].close()
            self._connections[0] = self._writer = fresh
            if is_stored(fresh):
                return True
            if getattr(failure, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_FULL:
                self._cover()
        except sqlite3.Error as error:
            raise OutcomeUnknownError(f"{self._path}: {error}") from error
        return False

    def _cover(self) -> None:
        """Write over what a failed COMMIT left in the write-ahead log.

        When only the last sync failed, the log may hold a transaction that no reader sees, but that
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
        a reader that stays, in whichever program, is asked again less and less often, but no later
        than when the log has grown by a quarter.
        """
        size = self._place.log_size
        if time.monotonic() < self._shorten_at and size < self._shorten_from:
            return
        try:
            self._writer.execute(f"PRAGMA busy_timeout = {CHECKPOINT_WAIT_MS}")
            (busy, *_) = self._writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            self._writer.execute(f"PRAGMA busy_timeout = {round(self._timeout * 1000)}")
        except sqlite3.Error:  # The next commit will tell.
            busy = True
        longer = min(2 * self._shorten_pause, LAST_PAUSE) or FIRST_PAUSE
        self._shorten_pause = longer if busy else 0.0
        self._shorten_at = time.monotonic() + self._shorten_pause
        self._shorten_from = GROWTH * size if busy else 0.0


def _keep_open(connections: list[sqlite3.Connection]) -> None:
    """Leave connections to the end of the process: also to be deleted means to be closed."""
    with suppress(ImportError):
        import ctypes  # noqa: PLC0415 - hardly ever

        for connection in connections:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def _leniently(connection: sqlite3.Connection, action: Action[T]) -> T:
    """Read; if a text is no UTF-8, read again, so that it fails nothing but its own row."""
    try:
        return action(connection)
    except sqlite3.OperationalError as error:
        if "decode" not in str(error):
            raise
    connection.text_factory = partial(bytes.decode, errors="surrogateescape")
    try:
        return action(connection)
    finally:
        connection.text_factory = str
