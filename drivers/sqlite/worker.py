"""Threads that do blocking work for event loops."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["Worker"]

T = TypeVar("T")
Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class Worker:
    """A few threads that take jobs from one queue.

    It does half of what ``concurrent.futures`` does, and hands a job over and back in half of
    the time, which is what a commit by a lone task mostly waits for.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def do(self, action: Callable[[], T]) -> "asyncio.Future[T]":
        """Run ``action`` in a thread, to its end also when nobody waits for it any more."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._jobs.put((action, done))
        return done

    def finish(self) -> None:
        """Let the threads end after the jobs that were given so far."""
        for _ in self._threads:
            self._jobs.put(None)

    def join(self) -> None:
        """Wait for the end of the threads."""
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            action, done = job
            try:
                result = action()
            except BaseException as error:  # noqa: BLE001 - it goes to whoever waits
                self._hand_over(done, error, failed=True)
            else:
                self._hand_over(done, result, failed=False)
            del job, action, done

    def _hand_over(self, done: "asyncio.Future[Any]", outcome: Any, *, failed: bool) -> None:
        with contextlib.suppress(RuntimeError):  # The event loop is closed, so nobody waits.
            done.get_loop().call_soon_threadsafe(_finish, done, outcome, failed)


def _finish(done: "asyncio.Future[Any]", outcome: Any, failed: bool) -> None:
    if done.done():
        return
    if failed:
        done.set_exception(outcome)
    else:
        done.set_result(outcome)
