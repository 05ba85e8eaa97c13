"""What a step that runs can ask and tell: its key, its attempt, and how far it has come."""

import asyncio
import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import attrs
import msgspec
from msgspec import Raw

from flowstate import Engine, InvalidInputError
from flowstate.engines.kernel.values import kept

__all__ = ["CurrentStep", "current_step", "running_here"]

MOST_BYTES = 4_096  # Of progress, as JSON.
EVERY = 5.0  # Seconds between two commits of progress.


@attrs.define(eq=False)
class CurrentStep:
    """The step that runs here; a step in a worker thread uses it from that thread.

    Attributes:
        key: names the effects of the step: the same over attempts, crashes and edits.
        instance: the id of the instance whose step it is.
        thread: the name of the thread whose step it is.
        engine: runs it.
        attempt: from 1; a crash or a stop of the process is no new attempt.
        is_told: nothing waits for the step any more: it was cancelled, or has taken too long.
    """

    key: str
    instance: str
    thread: str
    engine: Engine
    attempt: int
    is_told: bool = attrs.field(default=False, init=False)
    _progress: Raw
    _wake: Callable[[], object]
    _loop: asyncio.AbstractEventLoop = attrs.field(init=False, factory=asyncio.get_running_loop)
    _is_new: bool = attrs.field(init=False, default=False)
    _beat_at: float = attrs.field(init=False)
    _stored_at: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._beat_at = self._stored_at = self.engine.clock.monotonic()

    @property
    def progress(self) -> Any:
        """What was reported last, by this attempt or one before, as JSON has it; or ``None``."""
        return msgspec.json.decode(self._progress)

    def heartbeat(self, progress: Any = None) -> None:
        """Tell that the step is alive, and how far it has come.

        The next attempt finds what was reported last. It is stored at most every 5 seconds, and
        when the attempt fails; so after a crash it may be some seconds old.

        Args:
            progress: JSON of at most 4 KiB; ``None`` leaves it as it is.

        Raises:
            InvalidInputError: the progress cannot be stored.
        """
        raw = None if progress is None else kept("progress", progress)
        if raw is not None and len(bytes(raw)) > MOST_BYTES:
            raise InvalidInputError("progress", f"must be at most {MOST_BYTES} bytes as JSON")
        if self.is_told:
            return
        self._beat_at = self.engine.clock.monotonic()
        if raw is not None:
            self._progress, was_new, self._is_new = raw, self._is_new, True
            if not was_new:
                with contextlib.suppress(RuntimeError):  # The process has closed the loop.
                    self._loop.call_soon_threadsafe(self._wake)

    def silent_at(self, timeout: float) -> float:
        """Return when it has given no heartbeat for so long, by the monotonic clock."""
        return self._beat_at + timeout

    def store_at(self) -> float | None:
        """Return when its progress is to be stored, by the monotonic clock."""
        return self._stored_at + EVERY if self._is_new else None

    def take_progress(self) -> Raw:
        """Return its progress, to be stored now."""
        self._is_new, self._stored_at = False, self.engine.clock.monotonic()
        return self._progress


running_here: ContextVar[CurrentStep | None] = ContextVar("flowstate_step", default=None)


def current_step() -> CurrentStep:
    """Return the step that runs here.

    Raises:
        LookupError: no step runs here.
    """
    step = running_here.get()
    if step is None:
        raise LookupError("no step runs here")
    return step
