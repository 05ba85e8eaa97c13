"""Whether the files of a store are still where they were when they were opened."""

import os
import time

from flowstate.errors import StoreUnavailableError

__all__ = ["Place", "Stamp"]

A_MOMENT = 0.001  # Seconds.
LOOK_EVERY = 0.05
TICK_NS = 100_000_000  # Longer than the ticks of any file system's clock.
Stamp = tuple[int, ...]
_Identity = tuple[int, int] | None

_open: "set[Place]" = set()  # Those of this process.
_inherited: set[_Identity] = set()  # Files that its parent had open.


class Place:
    """The names of a database and of SQLite's files next to it.

    Attributes:
        is_here: what tells the file, its -wal and its -shm from others.
        log_size: of the write-ahead log, in bytes, as of a moment ago.
        good_until: when the last look is too old, in seconds of ``time.monotonic``.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._folder = os.path.dirname(path)  # noqa: PTH120
        self._stamp: Stamp = ()  # As of the last complete look.
        self._look_at = 0.0
        self.is_here: tuple[_Identity, ...] = (None, None, None)
        self.log_size = 0
        self.good_until = 0.0

    def check_neighbours(self) -> None:
        """Refuse what SQLite mixes up: all connections of a process to a file share their locks.

        Raises:
            StoreUnavailableError: another driver has it open and lost its -wal or -shm, or this
                process is the fork of one that had it open.
        """
        found = self._find()[0]
        if found in _inherited:
            raise StoreUnavailableError(
                f"{self._path}: the parent of this process had it open at the fork, and SQLite "
                "cannot open it again; fork before it is opened, or start processes by 'spawn'"
            )
        for other in tuple(_open):
            if other.is_here[0] == found:
                other.check()

    def enter(self) -> None:
        """Note what is here, when it has been opened."""
        self.is_here = self._find()
        _open.add(self)

    def leave(self) -> bool:
        """Return whether SQLite may close what was opened.

        With another -shm it would write what it knows from the old -wal over what others have
        committed. Without a -wal, but with the old -shm, they cannot commit.
        """
        is_file, _, is_index = self._find()
        may_close = not self.is_here[0] == is_file is not None or is_index == self.is_here[2]
        if may_close:
            _open.discard(self)
        return may_close

    def look(self) -> Stamp:
        """Return a stamp of the folder, which changes with each name in it; ``()``: look closer."""
        now = time.monotonic()
        is_known = self._find_stamp() == self._stamp and now < self._look_at
        self.good_until = now + A_MOMENT if is_known else 0.0
        return self._stamp if is_known else ()

    def check(self) -> None:
        """Refuse to go on with files that other programs do not find under their names any more.

        Raises:
            StoreUnavailableError: one of them was moved, removed or replaced.
        """
        if self.look():
            return
        began, stamp = time.time_ns(), self._find_stamp()
        if self._find() != self.is_here:
            raise StoreUnavailableError(
                f"{self._path}: it, its -wal or its -shm was moved, removed or replaced while it "
                "was open"
            )
        # A change within the same tick as the last one would leave the folder's time as it is.
        is_settled = bool(stamp) and began - max(stamp[:2]) > TICK_NS
        self._stamp = stamp if is_settled else ()
        self._look_at = time.monotonic() + LOOK_EVERY

    def _find_stamp(self) -> Stamp:
        try:
            found = os.stat(self._folder)  # noqa: PTH116 - for each commit, and much faster
        except OSError:
            return ()
        return found.st_ctime_ns, found.st_mtime_ns, found.st_dev, found.st_ino

    def _find(self) -> tuple[_Identity, ...]:
        is_log, self.log_size = _identity(self._path + "-wal")
        return _identity(self._path)[0], is_log, _identity(self._path + "-shm")[0]


def _identity(path: str) -> tuple[_Identity, int]:
    """Return what tells a file from others, and its size."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None, 0
    return (found.st_dev, found.st_ino), found.st_size


def _forked() -> None:
    _inherited.update(place.is_here[0] for place in _open)
    _inherited.discard(None)


if hasattr(os, "register_at_fork"):  # Not on Windows.
    os.register_at_fork(after_in_child=_forked)
