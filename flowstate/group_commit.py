"""Commits that happen at the same time share a batch; each gets its own verdict."""

import asyncio
from collections import deque
from collections.abc import Callable

from flowstate.driver import Driver, Verdict, Writes

__all__ = ["GroupCommit"]


class Waiting:
    """A commit on its way to the driver."""

    __slots__ = ("done", "finished", "settle", "writes")

    def __init__(self, writes: Writes, settle: Callable[[Verdict], None]) -> None:
        self.writes = writes
        self.settle = settle
        self.finished = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def finish(self, verdict: Verdict | BaseException) -> None:
        """Hand over the verdict, also to a caller who no longer waits for it."""
        self.finished = True
        try:
            if isinstance(verdict, BaseException):
                raise verdict
            self.settle(verdict)
        except BaseException as error:  # noqa: BLE001 - it goes to whoever waits
            if not self.done.done():
                self.done.set_exception(error)
        else:
            if not self.done.done():
                self.done.set_result(None)


class GroupCommit:
    """Gives the driver one batch at a time; what arrives meanwhile is the next batch.

    A commit that finds the driver idle goes at once. The batches run in a task of their own, so
    cancelling a caller never interrupts a commit of somebody else.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._queue: deque[Waiting] = deque()
        self._flusher: asyncio.Task[None] | None = None

    async def commit(self, writes: Writes, settle: Callable[[Verdict], None]) -> None:
        """Commit ``writes``, and call ``settle`` as soon as the verdict is known.

        Returns, or raises what ``settle`` raises. Cancelled before the commit was given to the
        driver, nothing was written; after that, the cancellation waits for the verdict, so that
        the caller's contexts tell the truth. A second cancellation does not wait.
        """
        waiting = Waiting(writes, settle)
        self._queue.append(waiting)
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush(), name="flowstate group commit")
        try:
            await waiting.done
        except asyncio.CancelledError:
            if waiting in self._queue:
                self._queue.remove(waiting)
            elif not waiting.finished:
                waiting.done = asyncio.get_running_loop().create_future()
                await asyncio.wait([waiting.done])
                waiting.done.exception()
            raise

    async def drain(self) -> None:
        """Wait until everything that was given to the driver has its verdict."""
        while self._flusher is not None:
            await asyncio.wait([self._flusher])

    async def _flush(self) -> None:
        try:
            while self._queue:
                size = min(len(self._queue), self._driver.batch_limit)
                await self._commit([self._queue.popleft() for _ in range(size)])
        finally:
            self._flusher = None

    async def _commit(self, batch: list[Waiting]) -> None:
        try:
            verdicts = await self._driver.commit([waiting.writes for waiting in batch])
        except BaseException as error:
            for waiting in batch:
                waiting.finish(error)
            if not isinstance(error, Exception):
                raise
        else:
            for waiting, verdict in zip(batch, verdicts, strict=True):
                waiting.finish(verdict)
