"""The executions of an engine that run in the background, and those that wait for that."""

import asyncio
import contextvars
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import NewType

import attrs

from flowstate.errors import EngineOverloadedError, EngineStoppedError
from flowstate.executions.execution import Execution
from flowstate.ground.tasks import cancel_and_wait, spawn
from flowstate.turns import forget_turns

__all__ = ["ExecutionPool", "Slot"]

_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("flowstate_inside", default=False)

Slot = NewType("Slot", object)
"""Room for one execution that is about to be submitted."""


@attrs.define(eq=False, repr=False)
class ExecutionPool:
    """Runs at most ``max_running`` executions at once, and lets ``max_pending`` wait.

    They are finished or cancelled when the engine stops.
    """

    _run: Callable[[Execution], Awaitable[None]]
    _max_running: int
    _max_pending: int
    _pending: deque[Execution] = attrs.field(init=False, factory=deque)
    _tasks: set[asyncio.Task[None]] = attrs.field(init=False, factory=set)
    _slots: set[Slot] = attrs.field(init=False, factory=set)
    _changed: asyncio.Event = attrs.field(init=False, factory=asyncio.Event)
    _callers: OrderedDict[asyncio.Future[None], None] = attrs.field(
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
        forget_turns()
        await self._run(execution)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._start_pending()

    def _start_pending(self) -> None:
        while self._pending and self._has_room():
            self._start(self._pending.popleft())
        self._changed.set()
        self._tell_caller()
