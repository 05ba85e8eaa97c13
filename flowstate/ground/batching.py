"""Coalesces concurrent requests into batched calls: commits, heartbeats, questions."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import attrs
from msgspec import Struct

from flowstate.errors import (
    CommitUnknownError,
    DriverError,
    StoreBusyError,
    StoreUnavailableError,
)
from flowstate.ground.tasks import note_outcome

__all__ = ["Batcher", "Pending", "WORTH_A_BATCH", "in_parts"]

logger = logging.getLogger("flowstate")

T = TypeVar("T")
R = TypeVar("R")
WORTH_A_BATCH = 64  # Items: two batches of fewer cost more than they save by overlapping.
CLOSE_SECONDS = 1.0
PARTS = 16
MAX_BUSY_PARTS = 2


# A Struct is made without a call of Python code, and one is made for every commit.
class Pending(Struct, eq=False):
    """An item on its way, and who waits for it."""

    item: Any
    settle: Callable[[Any], None] | None
    done: asyncio.Future[Any]
    is_given: bool = False


def _interrupted(_: object) -> Exception:
    return DriverError("the call was interrupted; its outcome is unknown")


@attrs.define(eq=False, repr=False)
class Batcher(Generic[T, R]):
    """Gives many items to one call; what arrives while a call is going on shares the next one.

    An item that finds no call going on is given at once. The calls run in tasks of their own, so
    a caller that is cancelled never interrupts the item of another one. What the call raises, and
    an answer of the wrong length, reaches all who wait for that call.

    It belongs to the event loop in which it is made.

    Args:
        call: takes items, and returns an answer for each, in order.
        limit: how many items a call takes.
        max_bytes: how many bytes the items of a call may have; a single item may have more.
        size: returns the bytes of an item.
        concurrency: how many calls may go on at a time; many items are then split among them.
        key: of an item; no call has two items with the same key.
        unknown: makes the error for an item whose call was interrupted.
        after: is given the answers of a call, when those who wait have theirs.
        name: of the tasks.
    """

    _call: Callable[[Sequence[T]], Awaitable[Sequence[R]]]
    _limit: int = attrs.field(kw_only=True)
    _max_bytes: int | None = attrs.field(default=None, kw_only=True)
    _size: Callable[[T], int] | None = attrs.field(default=None, kw_only=True)
    _concurrency: int = attrs.field(default=1, kw_only=True)
    _key: Callable[[T], Hashable] | None = attrs.field(default=None, kw_only=True)
    _unknown: Callable[[T], Exception] = attrs.field(default=_interrupted, kw_only=True)
    _after: Callable[[Sequence[R]], None] | None = attrs.field(default=None, kw_only=True)
    _name: str = attrs.field(default="flowstate batch", kw_only=True)
    _queue: deque[Pending] = attrs.field(init=False, factory=deque)
    _withdrawn: int = attrs.field(init=False, default=0)  # Still in the queue.
    _calls: int = attrs.field(init=False, default=0)  # Going on.
    _tasks: set[asyncio.Task[None]] = attrs.field(init=False, factory=set)  # Look at the queue.
    # To the calls that are going on.
    _given: dict[int, list[Pending]] = attrs.field(init=False, factory=dict)
    _reason: Exception | None = attrs.field(init=False, default=None)
    _loop: asyncio.AbstractEventLoop = attrs.field(init=False, factory=asyncio.get_running_loop)

    async def submit(self, item: T, settle: Callable[[R], None] | None = None) -> R:
        """Return the answer for ``item``, of a call that begins after this, or what settles it.

        Cancelled before the item was given to a call, it never will be. After that, and with
        ``settle``, the cancellation waits for the answer, which is given to ``settle`` in any
        case; a second one does not wait. What ``settle`` raises is raised here.
        """
        pending = self.put(item, settle)
        try:
            return await pending.done  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            await self.withdraw(pending)
            raise

    def put(self, item: T, settle: Callable[[R], None] | None = None) -> Pending:
        """Do the first half of :meth:`submit`, for callers to whom a coroutine less matters.

        They await ``done`` of what is returned; when that is cancelled, they do :meth:`withdraw`.
        """
        if self._reason is not None:
            raise self._reason
        pending = Pending(item, settle, self._loop.create_future())
        self._queue.append(pending)
        if not self._tasks:
            self._start()
        return pending

    async def withdraw(self, pending: Pending) -> None:
        """Take an item back whose caller was cancelled, or wait for its answer."""
        if not pending.done.cancelled():
            note_outcome(pending.done)  # The answer came at the same moment.
        elif not pending.is_given:
            self._withdrawn += 1
            if self._withdrawn * 2 > len(self._queue):
                self._queue = deque(each for each in self._queue if not each.done.done())
                self._withdrawn = 0
        elif pending.settle is not None:
            pending.done = self._loop.create_future()
            pending.done.add_done_callback(note_outcome)
            await asyncio.wait([pending.done])

    def on_their_way(self) -> Iterator[T]:
        """Iterate over the items that have no answer yet."""
        for given in (self._queue, *self._given.values()):
            yield from [pending.item for pending in given if not pending.done.done()]

    async def close(self, reason: Exception, seconds: float = 0.0) -> bool:
        """Take no more items, wait so long for the answers of the others, and end the rest.

        Those that were not given to a call get ``reason``, and those that were the error of
        ``unknown``. The end takes a second at most, also when a call ignores its cancellation.
        Returns whether every item had its answer in time.
        """
        self._reason = reason
        time = self._loop.time
        ends_at = time() + seconds
        while self._tasks and (left := ends_at - time()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left)
        is_done = not self._tasks
        self._fail_queue(reason)
        for given in self._given.values():
            self._interrupt(given)
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        return is_done

    def _start(self) -> None:
        # Not eager, which would run the first part here, in the middle of a caller.
        task = asyncio.Task(self._run(), loop=self._loop, name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)  # Also when it ends before it begins.

    async def _run(self) -> None:
        """Make calls for as long as there is something to be given."""
        given: list[Pending] = []
        self._given[id(given)] = given
        try:
            while self._queue:
                pending = self._queue[0]
                if len(self._queue) == 1 and not pending.done.done():  # As mostly.
                    self._queue.clear()
                    pending.is_given = True
                    given.append(pending)
                    items = [pending.item]
                elif not (items := self._take(given)):
                    continue
                self._calls += 1
                try:
                    answers = await self._call(items)
                except Exception as error:  # noqa: BLE001 - all who wait get it
                    _fail(given, error)
                    self._refuse_waiting([error])
                else:
                    self._deliver(given, answers)
                finally:
                    self._calls -= 1
                given.clear()
                # Those who have their answers may have their next item already.
                await asyncio.sleep(0)
        except BaseException as error:
            self._interrupt(given)
            failed = f"{self._name} was interrupted by {type(error).__name__}"
            self._fail_queue(self._reason or DriverError(failed))
            raise
        finally:
            del self._given[id(given)]
            self._tasks.discard(asyncio.current_task())

    def _take(self, given: list[Pending]) -> list[T]:
        """Move what the next call takes from the queue to ``given``; return the items."""
        queue, limit = self._queue, self._limit
        if len(queue) >= WORTH_A_BATCH * self._concurrency and not self._calls:
            limit = min(limit, len(queue) // self._concurrency)  # All calls get a like share.
        keys: set[Hashable] = set()
        bytes_left = self._max_bytes
        put_off: list[Pending] = []
        items: list[T] = []
        while queue and len(given) < limit:
            pending = queue.popleft()
            if pending.done.done():
                continue  # Withdrawn, or about to be.
            if self._key is not None:
                if (key := self._key(pending.item)) in keys:
                    put_off.append(pending)
                    continue
                keys.add(key)
            if bytes_left is not None and self._size is not None:
                bytes_left -= self._size(pending.item)
                if bytes_left < 0 and given:
                    put_off.append(pending)
                    break
            pending.is_given = True
            given.append(pending)
            items.append(pending.item)
        queue.extendleft(reversed(put_off))
        if len(queue) >= WORTH_A_BATCH and len(self._tasks) < self._concurrency:
            self._start()
        return items

    def _deliver(self, given: list[Pending], answers: Sequence[R]) -> None:
        count = len(answers) if hasattr(answers, "__len__") else "no list of"
        if count != len(given):
            _fail(given, DriverError(f"the driver gave {count} answers for {len(given)} items"))
            return
        errors: tuple[Exception, ...] = ()
        for pending, answer in zip(given, answers, strict=True):
            done, settle = pending.done, pending.settle
            pending.settle = None  # So a caller that was cancelled just now does not wait.
            try:
                result = answer if settle is None else settle(answer)
            except Exception as error:  # noqa: BLE001 - it goes to the caller
                _fail([pending], error)
                errors += (error,)
            else:
                if not done.done():
                    done.set_result(result)
        if errors and len(errors) == count:
            self._refuse_waiting(errors)
        if self._after is not None:
            try:
                self._after(answers)
            except Exception:
                logger.exception("%s: what follows a call has failed", self._name)

    def _refuse_waiting(self, errors: Sequence[Exception]) -> None:
        """End those that wait behind a call for which the store could not be reached.

        Such a call takes as long as an operation may take. Those that waited for it would take as
        long again. Nothing of them was sent, which is the better thing to know.
        """
        if self._queue and self._calls == 1 and all(map(_is_unreachable, errors)):
            reason = f"{self._name}: the store could not be reached, and this was not sent"
            self._fail_queue(StoreUnavailableError(reason))

    def _fail_queue(self, error: Exception) -> None:
        left, self._queue, self._withdrawn = self._queue, deque(), 0
        _fail(left, error)

    def _interrupt(self, given: list[Pending]) -> None:
        for pending in given:
            _fail([pending], self._unknown(pending.item))
        given.clear()


async def in_parts(
    call: Callable[[Sequence[T]], Awaitable[Sequence[R]]], items: Sequence[T]
) -> list[R | Exception]:
    """Return the answer for each item, or why there is none; a busy one does not fail the others.

    What the store keeps locked is looked for in parts, and in parts of the part that fails. When
    more than two parts fail, the store itself is busy.

    Raises:
        StoreBusyError: there is only one item.
        DriverError: the first call failed for another reason.
    """
    try:
        return list(await call(items))
    except StoreBusyError:
        if len(items) == 1:
            raise
    size = -(-len(items) // PARTS)
    parts = [items[start : start + size] for start in range(0, len(items), size)]
    outcomes = await asyncio.gather(*map(call, parts), return_exceptions=True)
    is_worth = sum(isinstance(each, StoreBusyError) for each in outcomes) <= MAX_BUSY_PARTS
    answers: list[R | Exception] = []
    for part, outcome in zip(parts, outcomes, strict=True):
        if isinstance(outcome, StoreBusyError) and len(part) > 1 and is_worth:
            answers += await in_parts(call, part)
        elif isinstance(outcome, Exception):
            answers += [outcome] * len(part)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            answers += outcome
    return answers


def _is_unreachable(error: Exception) -> bool:
    return isinstance(error, StoreUnavailableError) or (
        isinstance(error, CommitUnknownError) and isinstance(error.__cause__, StoreUnavailableError)
    )


def _fail(given: Sequence[Pending], error: Exception) -> None:
    for pending in given:
        pending.settle = None
        if not pending.done.done():
            pending.done.set_exception(error)
