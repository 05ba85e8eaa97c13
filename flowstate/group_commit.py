"""Commits that happen at the same time share a batch; each gets its own verdict."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from flowstate.driver import Driver, Verdict, Writes

__all__ = ["GroupCommit"]

WORTH_A_BATCH = 64  # Commits: two batches of fewer cost more than they save by overlapping.


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
    """Gives the driver batches; what arrives while one is on its way is part of the next.

    A commit that finds the driver idle goes at once. Where the driver can make use of several
    batches at a time, many commits are split: the next batch is made, and the verdicts of the one
    before are handed over, while the store is busy. The batches run in tasks of their own, so
    cancelling a caller never interrupts a commit of somebody else.

    Args:
        driver: commits them.
        tell: is given the verdicts of every batch, when those who wait have theirs.
    """

    def __init__(self, driver: Driver, tell: Callable[[Sequence[Verdict]], None]) -> None:
        self._driver = driver
        self._tell = tell
        self._queue: deque[Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flushers = 0  # Tasks that still look at the queue.
        self._on_their_way = 0

    async def commit(self, writes: Writes, settle: Callable[[Verdict], None]) -> None:
        """Commit ``writes``, and call ``settle`` as soon as the verdict is known.

        Returns, or raises what ``settle`` raises. Cancelled before the commit was given to the
        driver, nothing was written; after that, the cancellation waits for the verdict, so that
        the caller's contexts tell the truth. A second cancellation does not wait.
        """
        waiting = Waiting(writes, settle)
        self._queue.append(waiting)
        if not self._flushers:
            self._start()
        try:
            await waiting.done
        except asyncio.CancelledError:
            if waiting in self._queue:
                self._queue.remove(waiting)
            elif not waiting.finished:
                waiting.done = asyncio.get_running_loop().create_future()
                waiting.done.add_done_callback(_note)
                await asyncio.wait([waiting.done])
            raise

    async def drain(self) -> None:
        """Wait until everything that was given to the driver has its verdict."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self) -> None:
        self._flushers += 1
        self._tasks.add(task := asyncio.create_task(self._flush(), name="flowstate group commit"))
        task.add_done_callback(self._tasks.discard)

    async def _flush(self) -> None:
        try:
            while self._queue:
                batch = [self._queue.popleft() for _ in range(self._size())]
                more = len(self._queue) >= WORTH_A_BATCH
                if more and self._flushers < self._driver.batches_at_once:
                    self._start()
                await self._commit(batch)
                # Whoever was woken may have its next commit for us already.
                await asyncio.sleep(0)
        finally:
            self._flushers -= 1

    def _size(self) -> int:
        """Return how many of those that wait go into the next batch."""
        waiting, at_once = len(self._queue), self._driver.batches_at_once
        if not self._on_their_way and waiting >= at_once * WORTH_A_BATCH:
            waiting //= at_once
        return min(waiting, self._driver.batch_limit)

    async def _commit(self, batch: list[Waiting]) -> None:
        self._on_their_way += 1
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
            self._tell(verdicts)
        finally:
            self._on_their_way -= 1


def _note(done: asyncio.Future[None]) -> None:
    """Take note of an error that is told to nobody: the caller was cancelled."""
    if not done.cancelled():
        done.exception()
