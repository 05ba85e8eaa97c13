"""An event count: tasks wait until something has happened that they have not seen."""

import asyncio
import contextlib
import threading

__all__ = ["EventCount"]


class EventCount:
    """Counts events; tasks of any event loop wait for the next. ``notify`` works in any thread.

    Attributes:
        count: how many events there were.
        waiters: one future for each task that waits.
    """

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self.waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Count one more event, and wake the tasks that wait."""
        self.count += 1
        if self.waiters:
            self.wake()

    def wake(self) -> None:
        """Let the tasks that wait look at the count."""
        with self._lock:
            waiters, self.waiters = self.waiters, set()
        for waiter in waiters:
            with contextlib.suppress(RuntimeError):  # Its event loop is closed: no task waits.
                waiter.get_loop().call_soon_threadsafe(_finish, waiter)

    async def wait(self, seen: int) -> int:
        """Return the count as soon as it differs from ``seen``."""
        while self.count == seen:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            with self._lock:
                self.waiters.add(waiter)
            try:
                # The event may have come before the registration.
                if self.count == seen:
                    await waiter
            finally:
                with self._lock:
                    self.waiters.discard(waiter)
        return self.count


def _finish(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
