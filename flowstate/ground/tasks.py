"""Starts, shields, cancels and supervises tasks, and threads."""

import asyncio
import contextlib
import contextvars
import logging
import math
import queue
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

__all__ = [
    "BlockingThreads",
    "Watchdog",
    "cancel_and_wait",
    "finished",
    "first",
    "note_outcome",
    "preserve_cancellation",
    "shielded",
    "spawn",
    "supervised",
]

logger = logging.getLogger("flowstate")
engine_logger = logging.getLogger("flowstate.engine")

T = TypeVar("T")
F = TypeVar("F", bound=asyncio.Future[Any])
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0
FRAMES = 3
CLOSE_SECONDS = 1.0


def spawn(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Return a task that begins with the next turn of the loop.

    A loop's own task factory may be eager, which would run the first part of ``work`` here, in
    the middle of its caller.
    """
    return asyncio.Task(work, loop=asyncio.get_running_loop(), name=name)


def note_outcome(task: asyncio.Future[Any]) -> None:
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

    Raises:
        RuntimeError: something else than the caller has cancelled the work.
    """
    task = spawn(work, "flowstate shielded")
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            task.add_done_callback(note_outcome)
            await asyncio.wait([task])
        current = asyncio.current_task()
        if task.cancelled() and current is not None and not current.cancelling():
            # Else the caller, which was not cancelled, would end unseen.
            raise RuntimeError("the work was cancelled, but not by its caller") from None
        raise


async def finished(work: Coroutine[Any, Any, T]) -> T:
    """Finish ``work`` however often the caller is cancelled; raise the cancellation afterwards."""
    task = spawn(work, "flowstate finished")
    interruption: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            interruption = error
    if interruption is not None:
        note_outcome(task)
        raise interruption
    return task.result()


async def cancel_and_wait(*tasks: F, seconds: float | None = None) -> list[F]:
    """Cancel tasks and wait for their ends, also when this is itself cancelled meanwhile.

    What the tasks raise is not raised here.

    Args:
        tasks: to be cancelled.
        seconds: to wait at most; those that swallow their cancellation are left behind then.

    Returns:
        The tasks that are left behind.
    """
    time = asyncio.get_running_loop().time
    ends_at = math.inf if seconds is None else time() + seconds
    for task in tasks:
        task.cancel()
        task.add_done_callback(note_outcome)
    interruption: asyncio.CancelledError | None = None
    while (running := [task for task in tasks if not task.done()]) and time() < ends_at:
        try:
            await asyncio.wait(running, timeout=None if seconds is None else ends_at - time())
        except asyncio.CancelledError as error:
            interruption = error
    if interruption is not None:
        raise interruption
    return running


async def first(work: Coroutine[Any, Any, T], limit: Coroutine[Any, Any, Any]) -> T | None:
    """Return what ``work`` returns, or ``None`` if ``limit`` is over before; cancel the other.

    What either raises is raised; one that was cancelled by others counts as over.
    """
    working, waiting = spawn(work, "flowstate work"), spawn(limit, "flowstate limit")
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        if waiting.done() and not waiting.cancelled():
            waiting.result()
        return working.result() if working.done() and not working.cancelled() else None
    finally:
        await cancel_and_wait(working, waiting)


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


Job = tuple[Future[Any], Callable[[], Any]]


class BlockingThreads:
    """At most so many threads for flows that block.

    They are daemons: the process ends although one still runs, as those of
    ``concurrent.futures`` would not let it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._open: dict[Future[Any], str] = {}  # Waiting or running, with their flows.
        self._abandoned: dict[Future[Any], str] = {}  # Of those, what nothing waits for.
        self._threads = 0

    def __del__(self) -> None:
        for _ in range(self._threads):
            self._jobs.put(None)

    def submit(self, flow: str, call: Callable[..., Any], *args: Any) -> Future[Any]:
        """Let a thread call a function; a call that has begun cannot be cancelled."""
        outcome: Future[Any] = Future()
        self._open[outcome] = flow
        outcome.add_done_callback(self._open.pop)
        if len(self._open) > self._threads < self._limit:
            self._threads += 1
            name = f"flowstate blocking {self._threads}"
            threading.Thread(target=_work, args=(self._jobs,), name=name, daemon=True).start()
        self._jobs.put((outcome, partial(contextvars.copy_context().run, call, *args)))
        return outcome

    def abandon(self, flow: str, outcome: Future[Any]) -> None:
        """Wait no more for a call that goes on; name the flows that leave no thread to others."""
        self._abandoned[outcome] = flow
        outcome.add_done_callback(partial(self._ended, flow))
        if len(self._abandoned) == self._limit:
            message = "all %d threads for blocking flows are taken by calls that were given up: %s"
            flows = Counter(self._abandoned.values())
            named = ", ".join(f"{count} of flow {flow!r}" for flow, count in flows.items())
            engine_logger.error(message, self._limit, named)

    def _ended(self, flow: str, outcome: Future[Any]) -> None:
        self._abandoned.pop(outcome, None)
        message = "a call of blocking flow %r that was given up has ended"
        engine_logger.info(message, flow, extra={"flow": flow})

    async def close(self, seconds: float) -> None:
        """Wait so long for what runs; a thread cannot be stopped, so name the flows left."""
        for outcome in list(self._open):
            outcome.cancel()
        for _ in range(self._threads):
            self._jobs.put(None)
        running = dict(self._open)
        awaited = [outcome for outcome in running if outcome not in self._abandoned]
        waiting = [asyncio.wrap_future(outcome) for outcome in awaited]
        if waiting and seconds > 0:
            await asyncio.wait(waiting, timeout=seconds)
        for each in waiting:
            each.cancel()
            note_outcome(each)
        for outcome, flow in running.items():
            if not outcome.done():
                engine_logger.warning("blocking flow %r still runs", flow, extra={"flow": flow})


def _work(jobs: queue.SimpleQueue[Job | None]) -> None:
    while job := jobs.get():
        outcome, call = job
        if outcome.set_running_or_notify_cancel():
            try:
                outcome.set_result(call())
            except StopIteration:  # No future of asyncio takes it.
                outcome.set_exception(RuntimeError("a flow raised StopIteration"))
            except BaseException as error:  # noqa: BLE001 - it goes to the caller
                outcome.set_exception(error)
        del job, outcome, call  # Else they stay until the next one comes.


Task = asyncio.Task[object] | None
Named = tuple[str, dict[str, str]]


class Watchdog:
    """A thread that names the flow that blocks the event loop: no heartbeat can be sent then.

    It uses real time, because that is what a blocked loop loses.

    Args:
        named: returns what a task is called, and more for a log; called in the thread.
        limit: seconds after which a loop counts as blocked; ``None`` watches nothing.

    Attributes:
        is_started: whether it watches a loop, or has.
    """

    def __init__(self, named: Callable[[Task], Named], limit: float | None) -> None:
        self.is_started = limit is None
        self._named = named
        self._limit = limit or 0.0
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._handle: asyncio.TimerHandle | None = None
        self._turned_at = 0.0

    def start(self) -> None:
        """Watch the loop that runs now."""
        self.is_started = True
        if self._thread is None and not self._closed.is_set():
            loop = asyncio.get_running_loop()
            self._turn(loop)
            args = loop, threading.get_ident()
            name = "flowstate watchdog"
            self._thread = threading.Thread(target=self._watch, args=args, name=name, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop, and wait for the thread, which is about to end."""
        self._closed.set()
        if self._handle is not None:
            self._handle.cancel()
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turned_at = time.monotonic()
        self._handle = loop.call_later(self._limit / 4, self._turn, loop)

    def _watch(self, loop: asyncio.AbstractEventLoop, loop_thread: int) -> None:
        warned_at = 0.0
        while not self._closed.wait(self._limit / 4) and not loop.is_closed():
            turned_at = self._turned_at
            if time.monotonic() - turned_at >= self._limit and turned_at != warned_at:
                warned_at = turned_at
                try:
                    self._warn(asyncio.current_task(loop), loop_thread)
                except Exception:
                    engine_logger.exception("cannot name what blocks the event loop")

    def _warn(self, task: Task, loop_thread: int) -> None:
        who, extra = self._named(task)
        frame = sys._current_frames().get(loop_thread)
        lines = "".join(traceback.format_stack(frame)[-FRAMES:]) if frame else ""
        message = (
            "%s blocks the event loop for more than %s s, and no heartbeat can be sent; "
            "register it with blocking=True\n%s"
        )
        engine_logger.warning(message, who, self._limit, lines, extra=extra)
