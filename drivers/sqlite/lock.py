"""One writer at a time among all processes that have the file open."""

import contextlib
import errno
import os
import time
import weakref
from pathlib import Path

from flowstate.drivers.sqlite.place import Place, Stamp
from flowstate.errors import StoreBusyError, StoreReadOnlyError, StoreUnavailableError

try:
    import fcntl
except ImportError:  # Not a POSIX system: SQLite's own lock has to do.
    fcntl = None  # type: ignore[assignment]

__all__ = ["WriterLock"]

FIRST_PAUSE = 0.0002
LAST_PAUSE = 0.005
DEFAULT_MODE = 0o644  # SQLite's, too.


_locks: "weakref.WeakSet[WriterLock]" = weakref.WeakSet()


class WriterLock:
    """An advisory lock on a file next to the database, held around each write and checkpoint.

    SQLite before 3.51.3 can corrupt a database when one connection resets the write-ahead log
    while another one checkpoints (sqlite.org/wal.html, "The WAL-Reset Bug"). With this lock only
    one connection does either at a time. It also wakes up sooner than SQLite's own waiting,
    whose pauses grow to 100 ms.

    Two locks make it fair: a process that waits for the second holds the first, so one that has
    just written cannot take its next turn before it.

    Attributes:
        place: of the database.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self.place = Place(path)
        self._timeout = timeout
        self._path = path
        self._turn = self._write = -1
        self._stamp: Stamp = ()  # Of the place, when the file that is locked was there.
        _locks.add(self)

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
            return _opened(path, self._path)
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
        if fcntl is None:
            return
        deadline = time.monotonic() + self._timeout
        self._acquire(self._turn, deadline)
        try:
            self._acquire(self._write, deadline)
            while not self._is_in_place():  # It was removed by hand.
                os.close(self._write)
                self._write = self._open(self._path + "-lock")
                self._acquire(self._write, deadline)
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)

    def _is_in_place(self) -> bool:
        stamp = self.place.look()
        if stamp and stamp == self._stamp:
            return True
        try:
            found = Path(self._path + "-lock").stat()
        except FileNotFoundError:
            return False
        is_here = os.path.samestat(os.fstat(self._write), found)
        self._stamp = stamp if is_here else ()
        return is_here

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


def _forget_in_child() -> None:
    """Close what a forked child has inherited: it would keep the lock of a parent that dies."""
    for lock in list(_locks):
        with contextlib.suppress(OSError):
            lock.close()


if fcntl is not None:
    os.register_at_fork(after_in_child=_forget_in_child)


def _opened(path: str, database: str) -> int:
    """Open a lock file; the users of the database can use a new one, too."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, DEFAULT_MODE)
    found = os.fstat(file)
    with contextlib.suppress(FileNotFoundError):
        mode = Path(database).stat().st_mode & 0o666
        if found.st_mode & 0o666 != mode and found.st_uid == os.geteuid():
            os.fchmod(file, mode)
    return file
