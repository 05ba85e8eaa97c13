"""Starts, shields, cancels and supervises tasks."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

__all__ = [
    "cancel_and_wait",
    "note_outcome",
    "preserve_cancellation",
    "shielded",
    "spawn",
    "supervised",
]

logger = logging.getLogger("flowstate")

T = TypeVar("T")
F = TypeVar("F", bound="asyncio.Future[Any]")
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0


def spawn(work: Coroutine[Any, Any, T], name: str) -> "asyncio.Task[T]":
    """Return a task that begins with the next turn of the loop.

    A loop's own task factory may be eager, which would run the first part of ``work`` here, in
    the middle of its caller.
    """
    return asyncio.Task(work, loop=asyncio.get_running_loop(), name=name)


def note_outcome(task: "asyncio.Future[Any]") -> None:
    """Take note of what a task raised, else asyncio logs that nothing did."""
    if not task.cancelled():
        task.exception()


@contextlib.contextmanager
def preserve_cancellation() -> Iterator[None]:
    """Raise the cancellation of a task also if code inside has swallowed it.

    Python 3.11's ``asyncio.wait_for`` does, when its result comes at the same moment, and the
    clients of servers use it (github.com/python/cpython/issues/86296).
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


async def shielded(work: Coroutine[Any, Any, T]) -> T:
    """Finish ``work`` although the caller is cancelled; raise the cancellation afterwards.

    A second cancellation does not wait.
    """
    task = spawn(work, "flowstate shielded")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            task.add_done_callback(note_outcome)
            await asyncio.wait([task])
        raise


async def cancel_and_wait(*tasks: F, seconds: float | None = None) -> list[F]:
    """Cancel tasks and wait for their ends, also when this is itself cancelled meanwhile.

    What the tasks raise is not raised here.

    Args:
        tasks: to be cancelled.
        seconds: to wait at most; those that swallow their cancellation are left behind then.

    Returns:
        The tasks that are left behind.
    """
    ends_at = None if seconds is None else asyncio.get_running_loop().time() + seconds
    for task in tasks:
        task.cancel()
    interruption: asyncio.CancelledError | None = None
    while running := [task for task in tasks if not task.done()]:
        left = None if ends_at is None else ends_at - asyncio.get_running_loop().time()
        if left is not None and left <= 0:
            break
        try:
            await asyncio.wait(running, timeout=left)
        except asyncio.CancelledError as error:
            interruption = error
    for task in tasks:
        task.add_done_callback(note_outcome)
    if interruption is not None:
        raise interruption
    return running


async def supervised(
    what: str,
    work: Callable[[], Awaitable[None]],
    sleep: Callable[[float], Awaitable[None]],
    *,
    on_failure: Callable[[Exception], None] | None = None,
) -> None:
    """Do ``work`` until it returns; do it again, after a growing pause, when it fails.

    A failure is logged with its traceback, but not again while the same one repeats.

    Args:
        what: names the work in the log.
        work: the loop of a background task.
        sleep: waits so many seconds.
        on_failure: is given each failure before the pause, for those who wait for the work.
    """
    pause, last = FIRST_PAUSE, ""
    while True:
        try:
            return await work()
        except Exception as error:
            if last != (last := repr(error)):
                logger.exception("%s failed and is started again", what)
            if on_failure is not None:
                on_failure(error)
        await sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
