"""Names the flow that blocks the event loop: no heartbeat can be sent while it does."""

import asyncio
import logging
import sys
import threading
import time
import traceback

from flowstate.execution import Execution
from flowstate.heartbeats import Heartbeats

__all__ = ["Watchdog"]

logger = logging.getLogger("flowstate.engine")

FRAMES = 3
CLOSE_SECONDS = 1.0


class Watchdog:
    """A thread that looks whether the event loop still turns while there are executions.

    It uses real time, because that is what a blocked loop loses.

    Args:
        heartbeats: knows the executions.
        limit: seconds after which a loop counts as blocked; ``None`` watches nothing.

    Attributes:
        is_started: whether it watches a loop, or has.
    """

    def __init__(self, heartbeats: Heartbeats, limit: float | None) -> None:
        self.is_started = limit is None
        self._heartbeats = heartbeats
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
            self._thread = threading.Thread(
                target=self._watch,
                args=(loop, threading.get_ident()),
                name="flowstate watchdog",
                daemon=True,
            )
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
        while not self._closed.wait(self._limit / 4):
            turned_at = self._turned_at
            if time.monotonic() - turned_at >= self._limit and turned_at != warned_at:
                warned_at = turned_at
                try:
                    self._warn(asyncio.current_task(loop), loop_thread)
                except Exception:
                    logger.exception("cannot name what blocks the event loop")

    def _warn(self, task: "asyncio.Task[object] | None", loop_thread: int) -> None:
        running = [each for each in self._heartbeats.executions if each.task is task]
        who, extra = _named(running[-1]) if running else (f"{task}", {})
        frame = sys._current_frames().get(loop_thread)
        lines = "".join(traceback.format_stack(frame)[-FRAMES:]) if frame else ""
        logger.warning(
            "%s blocks the event loop for more than %s s, and no heartbeat can be sent; "
            "register it with blocking=True\n%s",
            who,
            self._limit,
            lines,
            extra=extra,
        )


def _named(execution: Execution) -> tuple[str, dict[str, str]]:
    state = execution.ctx.current
    flow = state.transition.to
    return f"flow {flow!r} of {state.id!r}", {"flow": flow, "state_id": state.id}
