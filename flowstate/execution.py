"""One execution of an engine, and what other processes are told about it."""

import asyncio
import math
from collections.abc import Callable

import msgspec
from msgspec import Struct

from flowstate.context import StateContext
from flowstate.limits import MAX_NOTE_BYTES
from flowstate.stalling import stalls_after
from flowstate.state import State

__all__ = ["Execution", "Note", "read_note"]

NEVER = -math.inf
BEAT_AT = 1 / 3  # Parts of the time that a state may stand still.
STOP_AT = 9 / 10
MAX_ERROR = MAX_NOTE_BYTES // 8  # Characters; each may take six bytes in JSON.


class Note(Struct, frozen=True, omit_defaults=True):
    """What a heartbeat says.

    Attributes:
        engine: the name of the engine that sent it.
        seconds: for how long it had executed the state by then; ``None`` when it no longer does.
        error: what the flow raised.
    """

    engine: str = ""
    seconds: float | None = None
    error: str = ""

    def encode(self) -> str:
        """Return the text for a heartbeat."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def of_failure(cls, engine: str, error: BaseException) -> "Note":
        """Return what is noted when a flow has raised."""
        text = f"{type(error).__name__}: {error}"[:MAX_ERROR]
        return cls(engine, None, text.encode(errors="replace").decode())


def read_note(text: str) -> Note:
    """Return what a heartbeat said; an empty note if that was something else."""
    try:
        return msgspec.json.decode(text, type=Note)
    except (ValueError, RecursionError):
        return Note()


class Execution:
    """A context that an engine executes, or has promised to.

    Attributes:
        ctx: the one that is executed just now.
        began: when, in seconds of the engine's monotonic clock.
        alive_at: the latest such time at which the store surely heard of the state;
            minus infinity when that is not known.
        seconds: how long from then on the state may stand still; ``None``: for ever, or it is
            no longer ours to keep.
        state: the revision that is kept alive.
        task: what runs it; ``None`` while it has to wait.
        finished: set, to what went wrong or ``None``, when a background execution is over.
        is_lost: whether it was stopped because others may have taken it over.
    """

    __slots__ = (
        "_on_change",
        "alive_at",
        "began",
        "ctx",
        "finished",
        "is_lost",
        "seconds",
        "state",
        "task",
        "try_again_at",
    )

    def __init__(
        self, ctx: StateContext, now: float, on_change: "Callable[[Execution], None] | None" = None
    ) -> None:
        self.began = now
        self._on_change = on_change
        self.task: asyncio.Task[object] | None = None
        self.is_lost = False
        self.finished: asyncio.Future[BaseException | None] | None = None
        self.try_again_at = 0.0
        self.state: State | None = None
        self.follow(ctx, now)

    def follow(self, ctx: StateContext, now: float) -> None:
        """Go on with what a step has left."""
        if ctx.committed is self.state:
            return
        self.ctx, self.state = ctx, ctx.committed
        ctx._execution = self
        sent_at = ctx._sent_at
        self.alive_at = NEVER if sent_at is None else min(sent_at, now)
        after = stalls_after(_known(ctx)) if ctx.committed.rev else None
        self.seconds = None if after is None else after.total_seconds()

    def committed(self, now: float) -> None:
        """Go on with what a commit within the flow has left, which may have other rules."""
        self.follow(self.ctx, now)
        if self._on_change is not None:
            self._on_change(self)

    def finish(self, error: BaseException | None) -> None:
        """Tell who waits that it is over."""
        if self.finished is not None and not self.finished.done():
            self.finished.set_result(error)

    @property
    def fresh_until(self) -> float:
        """Until when nobody has to hear of it."""
        return math.inf if self.seconds is None else self.alive_at + self.seconds * BEAT_AT

    @property
    def beat_at(self) -> float:
        """When to send a heartbeat, or to try again."""
        return max(self.fresh_until, self.try_again_at)

    @property
    def stop_at(self) -> float:
        """When it has to stop, because others may take it over soon."""
        if self.seconds is None or self.alive_at == NEVER:
            return math.inf
        return self.alive_at + self.seconds * STOP_AT


def _known(ctx: StateContext) -> State:
    """Return what is known of the stored revision; when a delay is fired, only its number is."""
    return ctx.committed if ctx.committed.transition.to else ctx.current
