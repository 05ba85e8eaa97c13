"""What a driver has from its opening to its closing: threads, and the file that they work on."""

import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from flowstate.clock import Clock
from flowstate.drivers.kit.base import News, Session
from flowstate.drivers.sqlite.file import File
from flowstate.drivers.sqlite.worker import Worker
from flowstate.errors import DriverClosedError, DriverError

__all__ = ["FileSession"]

T = TypeVar("T")
SLOWER = 10  # Times the poll interval, after a look that failed.


class FileSession(Session):
    """One opening of a file."""

    def __init__(self, open_file: Callable[[], File], readers: int, clock: Clock) -> None:
        self._open_file = open_file
        self._clock = clock
        self._file: File | None = None
        self._poller: threading.Thread | None = None
        self._polling = threading.Lock()
        self._stop = threading.Event()
        self._writing = Worker(1, "flowstate-sqlite-writer")  # Also opens and closes the file.
        self._reading = Worker(readers, "flowstate-sqlite-reader")

    async def open(self) -> str:
        return await self._in_thread(self._writing, self._opened)

    def _opened(self) -> str:
        if self._file is None:
            self._file = self._open_file()
        return self._file.store_id

    async def close(self) -> None:
        """Let the threads finish what they were given, and close the file."""
        self._stop.set()
        closed = self._writing.do(self._close)
        self._writing.finish()
        await closed
        self._writing.join()

    def _close(self) -> None:
        if self._poller is not None:
            self._poller.join()
        self._reading.finish()
        self._reading.join()
        if self._file is not None:
            self._file.close()

    async def _in_thread(self, worker: Worker, action: Callable[[], T]) -> T:
        """Run ``action`` in a thread, to its end also when the caller is cancelled."""
        with self._clock.working():
            return await worker.do(action)

    async def read(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Do something with a reading connection, on one snapshot."""
        return await self._in_thread(self._reading, partial(self._opened_file().read, action))

    async def write(self, action: Callable[[sqlite3.Connection], T]) -> T:
        """Do something in a transaction, whole or not at all."""
        return await self.in_writer(lambda file: file.write(action))

    async def in_writer(self, action: Callable[[File], T]) -> T:
        """Do something in the writing thread."""
        return await self._in_thread(self._writing, partial(action, self._opened_file()))

    def _opened_file(self) -> File:
        if self._file is None:
            raise DriverClosedError("the file is not open yet")
        return self._file

    # Commits of other processes

    def poll(self, interval: float, news: News) -> None:
        """Look for commits of other connections from now on."""
        if self._poller is not None:
            return
        with self._polling:
            if self._poller is None and not self._stop.is_set():
                self._poller = threading.Thread(
                    target=self._poll,
                    args=(self._opened_file(), interval, news),
                    name="flowstate-sqlite-poller",
                    daemon=True,
                )
                self._poller.start()

    def _poll(self, file: File, interval: float, news: News) -> None:
        version: int | None = None
        pause = 0.0
        while not self._stop.wait(pause):
            try:
                version = _look(file, version, news)
                pause = interval
            except Exception as error:  # noqa: BLE001 - it goes to all that wait
                known = isinstance(error, DriverError)
                news.failed(error if known else DriverError(f"polling: {error!r}"))  # type: ignore[arg-type]
                version, pause = None, interval * SLOWER


def _look(file: File, version: int | None, news: News) -> int | None:
    """Tell the news; return the version that is seen now, from the one that was seen last."""
    before = news.head
    newest = file.version()
    if newest == version:
        return version
    head, delays = file.outlook()
    news.saw(head, delays, before)
    # If a commit of this process came meanwhile, it is open which of the two is older.
    return newest if head >= news.head else None
