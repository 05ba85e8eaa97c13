"""A thread for what blocks: it does one thing after the other, and callers wait so long at most."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from flowstate.clock import Clock
from flowstate.errors import StoreUnavailableError

__all__ = ["Worker"]

T = TypeVar("T")


class Worker:
    """One thread.

    Args:
        name: of the thread.
        clock: does not jump while the thread works.
        timeout: seconds that an action may take, waiting for its turn included.
    """

    def __init__(self, name: str, clock: Clock, timeout: float = 30.0) -> None:
        self._name, self._clock, self._timeout = name, clock, timeout
        self._executor = ThreadPoolExecutor(1, name)

    async def do(self, action: Callable[[], T]) -> T:
        """Run ``action`` in the thread, to its end, also when no task waits for it any more.

        Raises:
            StoreUnavailableError: it takes too long, and may still end.
        """
        work = asyncio.get_running_loop().run_in_executor(self._executor, action)
        with self._clock.working():
            await asyncio.wait({work}, timeout=self._timeout)
        if not work.done():
            raise StoreUnavailableError(f"{self._name}: the disk does not answer")
        return work.result()

    def stop(self) -> None:
        """Take nothing more; the thread ends after what it has been given."""
        self._executor.shutdown(wait=False)
