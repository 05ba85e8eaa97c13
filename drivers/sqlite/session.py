"""What a driver has from its opening to its closing: threads, and the file that they work on."""

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from flowstate.clock import Clock
from flowstate.drivers.kit.base import News, Session
from flowstate.drivers.sqlite.file import File
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
        self._writing = _Worker(1, "flowstate-sqlite-writer")  # Also opens and closes the file.
        self._reading = _Worker(readers, "flowstate-sqlite-reader")

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

    async def _in_thread(self, worker: "_Worker", action: Callable[..., T], *args: Any) -> T:
        """Run ``action`` in a thread, to its end also when the caller is cancelled."""
        with self._clock.working():
            return await worker.do(action, *args)

    def read(self, action: Callable[[sqlite3.Connection], T]) -> Coroutine[Any, Any, T]:
        """Do something with a reading connection, on one snapshot."""
        return self._in_thread(self._reading, self._opened_file().read, action)

    def write(self, action: Callable[[sqlite3.Connection], T]) -> Coroutine[Any, Any, T]:
        """Do something in a transaction, whole or not at all."""
        return self._in_thread(self._writing, self._opened_file().write, action)

    def in_writer(self, action: Callable[..., T], *args: Any) -> Coroutine[Any, Any, T]:
        """Do something with the file, in the writing thread."""
        return self._in_thread(self._writing, action, self._opened_file(), *args)

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
                version = file.look(version, news)
                pause = interval
            except Exception as error:  # noqa: BLE001 - it goes to all that wait
                known = isinstance(error, DriverError)
                news.failed(error if known else DriverError(f"polling: {error!r}"))  # type: ignore[arg-type]
                version, pause = None, interval * SLOWER


class _Worker:
    """A few threads that take jobs from one queue.

    It does half of what ``concurrent.futures`` does, and hands a job over and back in half of
    the time, which is what a commit by a lone task mostly waits for.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def do(self, action: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        """Run ``action`` in a thread, to its end also when no task waits for it any more."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((done, action, args))
        return done

    def finish(self) -> None:
        """Let the threads end after the jobs that were given so far."""
        for _ in self._threads:
            self._jobs.put(None)

    def join(self) -> None:
        """Wait for the end of the threads."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            done, action, args = job
            settle, outcome = done.set_result, None
            try:
                outcome = action(*args)
            except BaseException as error:  # noqa: BLE001 - it goes to the task that waits
                settle, outcome = done.set_exception, error
            with suppress(RuntimeError):  # The event loop is closed: no task waits.
                done.get_loop().call_soon_threadsafe(_finish, done, settle, outcome)
            del job, done, action, args, settle, outcome


def _finish(done: "asyncio.Future[Any]", settle: Callable[[Any], None], outcome: Any) -> None:
    if not done.done():
        settle(outcome)
