"""Keeps cancellations that libraries lose."""

import asyncio
import contextlib
from collections.abc import Iterator

__all__ = ["losing_no_cancellation"]


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
