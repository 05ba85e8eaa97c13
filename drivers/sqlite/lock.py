"""One writer at a time among all processes that have the file open."""

import errno
import os
import time

from flowstate.errors import StoreBusyError, StoreReadOnlyError, StoreUnavailableError

try:
    import fcntl
except ImportError:  # Not a POSIX system: SQLite's own lock has to do.
    fcntl = None  # type: ignore[assignment]

__all__ = ["WriterLock"]

FIRST_PAUSE = 0.0002
LAST_PAUSE = 0.005


class WriterLock:
    """An advisory lock on a file beside the database, held around each write and checkpoint.

    SQLite before 3.51.3 can corrupt a database when one connection resets the write-ahead log
    while another one checkpoints (sqlite.org/wal.html, "The WAL-Reset Bug"). With this lock only
    one connection does either at a time. It also wakes up sooner than SQLite's own waiting,
    whose pauses grow to 100 ms.

    Two locks make it fair: who waits for the second holds the first, so the process that has
    just written cannot take its next turn before the one that waits.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._timeout = timeout
        self._path = path
        self._turn = -1
        self._write = -1

    def open(self) -> None:
        """Open the lock files.

        Raises:
            StoreReadOnlyError: they cannot be made.
        """
        if fcntl is not None:
            self._turn = self._open(self._path + "-turn")
            self._write = self._open(self._path + "-lock")

    def _open(self, path: str) -> int:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            refused = error.errno in (errno.EACCES, errno.EROFS, errno.EPERM)
            kind = StoreReadOnlyError if refused else StoreUnavailableError
            raise kind(f"{path}: {error.strerror}") from error

    def close(self) -> None:
        """Close the lock files; that gives up the lock."""
        for file in (self._turn, self._write):
            if file >= 0:
                os.close(file)
        self._turn = self._write = -1

    def __enter__(self) -> None:
        if fcntl is not None:
            deadline = time.monotonic() + self._timeout
            self._acquire(self._turn, deadline)
            try:
                self._acquire(self._write, deadline)
            finally:
                fcntl.flock(self._turn, fcntl.LOCK_UN)

    def __exit__(self, *_exc_info: object) -> None:
        if fcntl is not None:
            fcntl.flock(self._write, fcntl.LOCK_UN)

    def _acquire(self, file: int, deadline: float) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreBusyError(
                        f"{self._path}: another process has written for {self._timeout} s"
                    ) from None
            else:
                return
            time.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)
