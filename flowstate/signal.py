"""Tells waiting tasks, in any event loop of this process, that something happened."""

import asyncio
import contextlib
import threading

__all__ = ["Signal"]


class Signal:
    """A counter that can be waited for. ``notify`` may be called from any thread.

    Attributes:
        count: how often ``notify`` was called.
        waiters: who waits.
    """

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self.waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Count one more event, and wake whoever waits."""
        self.count += 1
        if self.waiters:
            self.wake()

    def wake(self) -> None:
        """Wake whoever waits, if the count is not what they have seen."""
        with self._lock:
            waiters, self.waiters = self.waiters, set()
        for waiter in waiters:
            with contextlib.suppress(RuntimeError):  # Its event loop is closed, so nobody waits.
                waiter.get_loop().call_soon_threadsafe(_finish, waiter)

    async def wait(self, seen: int) -> int:
        """Return the count as soon as it is not ``seen``."""
        while self.count == seen:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            with self._lock:
                self.waiters.add(waiter)
            try:
                # The event may have come between the look at the count and the registration.
                if self.count == seen:
                    await waiter
            finally:
                with self._lock:
                    self.waiters.discard(waiter)
        return self.count


def _finish(waiter: "asyncio.Future[None]") -> None:
    if not waiter.done():
        waiter.set_result(None)
