"""One execution of an engine, and what other processes are told about it."""

import asyncio
import math
from collections.abc import Callable

import msgspec
from msgspec import Struct

from flowstate.context import StateContext
from flowstate.limits import MAX_NOTE_BYTES
from flowstate.stalling import DEFAULT_RETRY_AFTER, stalls_after
from flowstate.state import State

__all__ = ["Execution", "Note", "read_note"]

NEVER = -math.inf
DEFAULT_SECONDS = DEFAULT_RETRY_AFTER.total_seconds()
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
        task: what runs it; ``None`` until its first flow is called.
        fresh_until: when others have to hear of it again.
        finished: set, to what went wrong or ``None``, when a background execution is over.
        is_lost: whether it was stopped because others may have taken it over.
        is_doubtful: whether a heartbeat may have come after the state had stalled, when somebody
            else had looked at it already.
    """

    __slots__ = (
        "_on_change",
        "_outer",
        "alive_at",
        "began",
        "ctx",
        "finished",
        "fresh_until",
        "is_doubtful",
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
        self.is_doubtful = False
        self.finished: asyncio.Future[BaseException | None] | None = None
        self.try_again_at = 0.0
        self.state: State | None = None
        self.ctx = ctx
        self._outer: Execution | None = None
        self.follow(ctx, now)

    def follow(self, ctx: StateContext, now: float) -> None:
        """Go on with what a step or a commit has left. Runs for each: every call counts."""
        committed = ctx.committed
        if committed is self.state and ctx is self.ctx:
            return
        if ctx._execution is not self:
            self.leave()
            self._outer, ctx._execution = ctx._execution, self
        self.ctx, self.state = ctx, committed
        sent_at = ctx._sent_at
        if sent_at is None:
            self.alive_at = NEVER
        else:
            self.alive_at = min(now, sent_at)
        after = None
        if committed.rev:
            # Of a state whose delay fires without a commit only the revision is known.
            after = stalls_after(committed if committed.transition.to else ctx.current)
        if after is None:
            self.seconds, self.fresh_until = None, math.inf
        else:
            seconds = DEFAULT_SECONDS if after is DEFAULT_RETRY_AFTER else after.total_seconds()
            self.seconds = seconds
            self.fresh_until = self.alive_at + seconds * BEAT_AT

    def leave(self) -> None:
        """Give the context back to the execution that this one is nested in, if there is one."""
        ctx, outer = self.ctx, self._outer
        if ctx._execution is self:
            ctx._execution, self._outer = outer, None
            if outer is not None and ctx.committed is not outer.state:
                outer.committed(self.alive_at)

    def committed(self, now: float) -> None:
        """Go on with what a commit within the flow has left, which may have other rules."""
        self.follow(self.ctx, now)
        if self._on_change is not None:
            self._on_change(self)

    def heard(self, at: float) -> None:
        """Note that a heartbeat that was sent at some time got through."""
        if self.seconds is not None and at > self.alive_at:
            self.alive_at = at
            self.fresh_until = at + self.seconds * BEAT_AT

    def let_go(self) -> None:
        """Keep it alive no longer: it is not ours any more.

        What has not begun is confirmed first, which finds that out again.
        """
        self.seconds, self.fresh_until = None, math.inf if self.task else NEVER

    def finish(self, error: BaseException | None) -> None:
        """Tell who waits that it is over."""
        if self.finished is not None and not self.finished.done():
            self.finished.set_result(error)

    @property
    def beat_at(self) -> float:
        """When to send a heartbeat, or to try again."""
        return math.inf if self.seconds is None else max(self.fresh_until, self.try_again_at)

    def may_beat(self, now: float) -> bool:
        """Return whether a heartbeat does no harm: what has not begun may have stalled by now."""
        return self.task is not None or not self.is_late(now)

    def is_late(self, now: float) -> bool:
        """Return whether others may have taken it over by now, or will soon."""
        return self.seconds is not None and now >= self.alive_at + self.seconds * STOP_AT

    @property
    def stop_at(self) -> float:
        """When it has to stop, because others may take it over soon."""
        if self.task is None or self.seconds is None or self.alive_at == NEVER:
            return math.inf
        return self.alive_at + self.seconds * STOP_AT
