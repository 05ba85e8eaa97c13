"""Keeps cancellations that libraries lose."""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

__all__ = ["all_cancelled", "losing_no_cancellation", "to_the_end"]

T = TypeVar("T")


@contextlib.contextmanager
def losing_no_cancellation() -> Iterator[None]:
    """Raise the cancellation of a task also if something inside has swallowed it.

    Python 3.11's ``asyncio.wait_for`` does, when what it waits for comes at the same moment, and
    clients of servers wait with it (github.com/python/cpython/issues/86296).
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        if task and task.cancelling() > before:
            raise asyncio.CancelledError


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Do something that a cancellation must not leave half done; raise that afterwards.

    A second cancellation does not wait.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait([task])
        if task.done() and not task.cancelled():
            task.exception()
        raise


async def all_cancelled(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait for their ends, also when this is itself cancelled meanwhile.

    What they raise is not raised here.
    """
    for task in tasks:
        task.cancel()
    interruption: asyncio.CancelledError | None = None
    while running := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(running)
        except asyncio.CancelledError as error:
            interruption = error
    for task in tasks:
        if not task.cancelled():
            task.exception()  # Else asyncio says that nobody has asked for it.
    if interruption is not None:
        raise interruption
