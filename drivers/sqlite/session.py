"""What a driver has from its opening to its closing: threads, and the file that they work on."""

import os
import threading
from collections.abc import Callable

from flowstate.drivers.sqlite.file import File
from flowstate.drivers.sqlite.worker import Worker

__all__ = ["Session"]

Look = Callable[[File, int | None], int | None]
"""Given the version that was seen last, returns the one that is seen now."""


class Session:
    """One opening of a file. Every opening gets a new one, so that a late end hurts no successor.

    Attributes:
        file: ``None`` until it is open.
        process: the only one that may use it.
        writing: a single thread, which also opens and closes the file.
        reading: as many threads as the file has readers.
    """

    def __init__(self, open_file: Callable[[], File], readers: int) -> None:
        self._open_file = open_file
        self._poller: threading.Thread | None = None
        self._stop = threading.Event()
        self.file: File | None = None
        self.process = os.getpid()
        self.writing = Worker(1, "flowstate-sqlite-writer")
        self.reading = Worker(readers, "flowstate-sqlite-reader")

    def open(self) -> str:
        """Open the file, unless an earlier user has; return its id. For the writing thread."""
        if self.file is None:
            self.file = self._open_file()
        return self.file.store_id

    async def close(self) -> None:
        """Let the threads finish what they were given, and close the file.

        They do so also when the caller is cancelled.
        """
        self._stop.set()
        closed = self.writing.do(self._close)
        self.writing.finish()
        await closed
        self.writing.join()

    def _close(self) -> None:
        if self._poller is not None:
            self._poller.join()
        self.reading.finish()
        self.reading.join()
        if self.file is not None:
            self.file.close()

    def poll(self, interval: float, look: Look) -> None:
        """Look for commits of other connections from now on."""
        if self._poller is None and self.file is not None:
            self._poller = threading.Thread(
                target=self._poll,
                args=(self.file, interval, look),
                name="flowstate-sqlite-poller",
                daemon=True,
            )
            self._poller.start()

    def _poll(self, file: File, interval: float, look: Look) -> None:
        version = look(file, None)
        while not self._stop.wait(interval):
            version = look(file, version)
