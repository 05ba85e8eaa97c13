"""One execution of an engine, and the pool of those in the background."""

import asyncio
import contextvars
import math
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import NewType

import attrs

from flowstate.context import StateContext
from flowstate.driver import Heartbeat
from flowstate.errors import EngineOverloadedError, EngineStoppedError
from flowstate.recovery_rules import stalls_after
from flowstate.state import State, Status
from flowstate.tasks import cancel_and_wait, spawn
from flowstate.tenure import NEVER, RENEW_AT, Held, Note, read_note

__all__ = ["Execution", "ExecutionPool", "Note", "Slot", "read_note"]

ACTIVE = Status.ACTIVE  # Enums look their members up slowly.

_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("flowstate_inside", default=False)

Slot = NewType("Slot", object)
"""Room for one execution that is about to be submitted."""


# state     means                                     left by
# waiting   promised, or between two flows; kept      a flow is called → running; released; over
#           alive
# running   a flow runs in ``task``; kept alive       it returned → waiting; released; lost; over
# released  no tenure: its state ended or pauses,     a commit of its own → as before; over
#           never stalls, or was moved on by others
# lost      no heartbeat got through in time, so its  over
#           task was cancelled
# over      left the heartbeats; ``finished`` is set
#
# Others recover the state only after its tenure; "lost" comes before that.
@attrs.define(eq=False, repr=False)
class Execution(Held):
    """A context that an engine executes, or has promised to.

    Attributes:
        began: when, in seconds of the engine's monotonic clock.
        on_change: called when a commit may have brought the next heartbeat forward.
        state: the revision that is kept alive.
        task: what runs it; ``None`` while no flow runs: before the first one, and while it is
            confirmed before the next one.
        finished: set, to what went wrong or ``None``, when a background execution is over.
        is_lost: whether it was stopped because others may have taken it over.
        is_doubtful: whether a heartbeat may have come after the state had stalled, when another
            process had seen that already.
        is_in_thread: whether a thread runs its flow, which cannot be stopped.
    """

    began: float
    on_change: "Callable[[Execution], None] | None" = None
    state: State | None = attrs.field(init=False, default=None)
    task: "asyncio.Task[object] | None" = attrs.field(init=False, default=None)
    finished: "asyncio.Future[BaseException | None] | None" = attrs.field(init=False, default=None)
    is_lost: bool = attrs.field(init=False, default=False)
    is_doubtful: bool = attrs.field(init=False, default=False)
    is_in_thread: bool = attrs.field(init=False, default=False)
    _hook: Callable[[float], None] = attrs.field(init=False)
    _outer: Callable[[float], None] | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._hook = self.committed
        self.follow(self.ctx, self.began)

    def follow(self, ctx: StateContext, now: float) -> None:
        """Go on with a context, which may be another one."""
        if ctx._on_commit is not self._hook:
            self.leave()
            self._outer, ctx._on_commit = ctx._on_commit, self._hook
        self.ctx = ctx
        self._keep(NEVER if ctx._sent_at is None else min(ctx._sent_at, now))

    def leave(self) -> None:
        """Give the context back to the execution that this one is nested in, if there is one."""
        ctx, outer = self.ctx, self._outer
        if ctx._on_commit is self._hook:
            ctx._on_commit, self._outer = outer, None
            if outer is not None:
                outer(self.sent_at)

    def committed(self, sent_at: float) -> None:
        """Go on with what a commit has left, which may have other rules. Runs for each commit."""
        state, last = self.ctx.committed, self.state
        if state is last or last is None:
            return
        if (
            self.seconds is not None
            and state.annotations is last.annotations
            and not state.transition.annotations
            and not last.transition.annotations
            and state.status is ACTIVE
        ):  # The same rules, as nearly always.
            self.state, self.sent_at = state, sent_at
            self.fresh_until = sent_at + self.seconds * RENEW_AT
            return
        before = self.fresh_until
        self._keep(sent_at)
        if self.fresh_until < before and self.on_change is not None:
            self.on_change(self)

    def _keep(self, sent_at: float) -> None:
        self.state = state = self.ctx.committed
        self.sent_at = sent_at
        after = None
        if state.rev:
            # Of a state whose delay fires without a commit only the revision is known.
            after = stalls_after(state if state.transition.to else self.ctx.current)
        self.seconds = None if after is None else after.total_seconds()
        self.fresh_until = math.inf if self.tenure is None else self.tenure.renew_at

    def renewed(self, sent_at: float) -> None:
        """Note that the store has heard of the state after this time."""
        self.is_doubtful = False
        super().renewed(sent_at)

    def release(self) -> None:
        """Keep it no longer: it is not ours any more.

        What has not begun is confirmed first, which finds that out again.
        """
        self.seconds, self.fresh_until = None, math.inf if self.task else NEVER

    def lose(self) -> None:
        """Stop it, because others may have taken it over."""
        self.interrupt()
        self.release()

    def interrupt(self) -> None:
        """Stop it, because the engine stops; it is ours until it has ended."""
        if self.task is not None and not self.is_lost:
            self.is_lost = True
            self.task.cancel()

    def finish(self, error: BaseException | None) -> None:
        """Tell those who wait that it is over."""
        if self.finished is not None and not self.finished.done():
            self.finished.set_result(error)

    @property
    def stop_at(self) -> float:
        """When it has to stop, because others may take it over soon."""
        return math.inf if self.task is None or self.sent_at == NEVER else super().stop_at

    def is_late(self, now: float) -> bool:
        """Return whether others may have taken it over by now, or will soon."""
        tenure = self.tenure
        return tenure is not None and now >= tenure.valid_until

    def may_beat(self, now: float) -> bool:
        """Return whether a heartbeat does no harm: what has not begun may have stalled by now."""
        return self.task is not None or not self.is_late(now)

    def heartbeat(self, engine: str, now: float) -> Heartbeat:
        """Return a heartbeat that is about to be sent."""
        self.is_doubtful = True
        beat = super().heartbeat(engine, now)
        note = Note(engine, round(now - self.began, 3)).encode()
        return Heartbeat(beat.id, beat.rev, self.seconds, note)


@attrs.define(eq=False, repr=False)
class ExecutionPool:
    """Runs at most ``max_running`` executions at once, and lets ``max_pending`` wait.

    They are finished or cancelled when the engine stops.
    """

    _run: Callable[[Execution], Awaitable[None]]
    _max_running: int
    _max_pending: int
    _pending: deque[Execution] = attrs.field(init=False, factory=deque)
    _tasks: "set[asyncio.Task[None]]" = attrs.field(init=False, factory=set)
    _slots: set[Slot] = attrs.field(init=False, factory=set)
    _changed: asyncio.Event = attrs.field(init=False, factory=asyncio.Event)
    _callers: "OrderedDict[asyncio.Future[None], None]" = attrs.field(
        init=False, factory=OrderedDict
    )  # Those who wait for room, in their order.
    _is_stopped: bool = attrs.field(init=False, default=False)

    @property
    def running(self) -> int:
        """How many run now."""
        return len(self._tasks)

    @property
    def pending(self) -> int:
        """How many wait to run."""
        return len(self._pending)

    def reserve(self) -> Slot | None:
        """Keep room for an execution, until it is submitted or released; ``None``: none is left.

        Raises:
            EngineStoppedError: the engine is stopping.
        """
        if not self._has_room():
            return None
        slot = Slot(object())
        self._slots.add(slot)
        return slot

    def release(self, slot: Slot) -> None:
        """Give room back that is not needed any more; nothing happens if it was used."""
        if slot in self._slots:
            self._slots.discard(slot)
            self._start_pending()

    async def submit(self, execution: Execution, slot: Slot | None = None) -> None:
        """Run an execution in the background, in the room that was kept for it.

        When no more may wait, a caller from outside waits for room. A flow does not, since it may
        occupy the room itself.

        Raises:
            EngineOverloadedError: no room, and the caller is an execution.
            EngineStoppedError: the engine is stopping.
        """
        is_first = True
        while slot is None and not self._has_room() and self.pending >= self._max_pending:
            if _inside.get():
                raise EngineOverloadedError(f"{self._max_pending} executions are waiting")
            await self._wait_for_room(is_first=is_first)
            is_first = False
        if self._has_room() or slot in self._slots:
            self._slots.discard(slot)
            self._start(execution)
        else:
            self._pending.append(execution)

    def _has_room(self) -> bool:
        if self._is_stopped:
            raise EngineStoppedError("the engine takes no more executions")
        return len(self._tasks) + len(self._slots) < self._max_running

    async def idle(self) -> None:
        """Return when none runs or waits, apart from the calling execution."""
        while True:
            tasks = self._tasks - {asyncio.current_task()}
            if tasks:
                await asyncio.wait(tasks)
            elif self._pending and self._slots:
                self._changed.clear()
                await self._changed.wait()
            else:
                return

    async def _wait_for_room(self, *, is_first: bool) -> None:
        """Wait until there may be room; one who lost it to a newcomer is the next."""
        room = asyncio.get_running_loop().create_future()
        self._callers[room] = None
        self._callers.move_to_end(room, last=is_first)
        try:
            await room
        except asyncio.CancelledError:
            if self._callers.pop(room, room) is room:
                self._tell_caller()  # It had been told.
            raise

    def _tell_caller(self) -> None:
        """Tell the first of those who wait, since one more has room."""
        while self._callers:
            room, _ = self._callers.popitem(last=False)
            if not room.done():
                room.set_result(None)
                return

    def stop(self) -> list[Execution]:
        """Take no more, forget those that wait, and return them."""
        forgotten = list(self._pending)
        self._pending.clear()
        self._is_stopped = True
        self._changed.set()
        while self._callers:
            self._tell_caller()
        return forgotten

    async def finish(self, seconds: float, grace: float) -> list[str]:
        """Wait for what runs, then cancel it; return the names of those that do not end then.

        Args:
            seconds: to wait before cancelling. Real seconds: a stop must end.
            grace: seconds that a cancelled execution has to end.
        """
        tasks = self._tasks - {asyncio.current_task()}
        try:
            if tasks and seconds > 0:
                await asyncio.wait(tasks, timeout=seconds)
        finally:
            left = await cancel_and_wait(*tasks, seconds=grace)
        return [task.get_name() for task in left]

    def _start(self, execution: Execution) -> None:
        task = spawn(self._execute(execution), f"flowstate {execution.ctx.current.id}")
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def _execute(self, execution: Execution) -> None:
        _inside.set(True)
        await self._run(execution)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._start_pending()

    def _start_pending(self) -> None:
        while self._pending and self._has_room():
            self._start(self._pending.popleft())
        self._changed.set()
        self._tell_caller()
