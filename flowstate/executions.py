"""Background executions: bounded, owned, and finished or cancelled when the engine stops."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from typing import NewType

from flowstate.cancellation import all_cancelled
from flowstate.errors import EngineOverloadedError, EngineStoppedError
from flowstate.execution import Execution

__all__ = ["Executions", "Place"]

_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("flowstate_inside", default=False)

Place = NewType("Place", object)
"""Room for one execution that is about to be submitted."""


class Executions:
    """Runs at most ``max_running`` executions at once and lets ``max_pending`` wait."""

    def __init__(
        self,
        run: Callable[[Execution], Awaitable[None]],
        max_running: int,
        max_pending: int,
    ) -> None:
        self._run = run
        self._max_running = max_running
        self._max_pending = max_pending
        self._pending: deque[Execution] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._places: set[Place] = set()
        self._room = asyncio.Event()
        self._stopped = False

    @property
    def running(self) -> int:
        """How many run now."""
        return len(self._tasks)

    @property
    def pending(self) -> int:
        """How many wait to run."""
        return len(self._pending)

    def reserve(self) -> Place | None:
        """Keep room for an execution, until it is submitted or released; ``None``: none is left."""
        if not self._has_room() or self._stopped:
            return None
        place = Place(object())
        self._places.add(place)
        return place

    def release(self, place: Place) -> None:
        """Give room back that is not needed any more; nothing happens if it was used."""
        self._places.discard(place)
        self._start_pending()

    async def submit(self, execution: Execution, place: Place | None = None) -> None:
        """Run an execution in the background, in the room that was kept for it.

        When nothing more may wait, a caller from outside waits for room; a flow does not, since
        the room may be what it occupies itself.

        Raises:
            EngineOverloadedError: no room, and the caller is an execution.
            EngineStoppedError: the engine is stopping.
        """
        while place is None and self._is_full() and not self._stopped:
            if _inside.get():
                raise EngineOverloadedError(f"{self._max_pending} executions are waiting")
            await self._change()
        if self._stopped:
            raise EngineStoppedError("the engine takes no more executions")
        if place in self._places or self._has_room():
            self._places.discard(place)
            self._start(execution)
        else:
            self._pending.append(execution)

    def _has_room(self) -> bool:
        return len(self._tasks) + len(self._places) < self._max_running

    def _is_full(self) -> bool:
        return not self._has_room() and len(self._pending) >= self._max_pending

    async def idle(self) -> None:
        """Return when nothing runs or waits, the calling execution left aside."""
        while True:
            tasks = self._tasks - {asyncio.current_task()}
            if tasks:
                await asyncio.wait(tasks)
            elif self._pending and self._places:
                await self._change()
            else:
                return

    async def _change(self) -> None:
        """Wait until there is room, or may be."""
        self._room.clear()
        await self._room.wait()

    def stop(self) -> list[Execution]:
        """Take no more, forget those that wait, and return them."""
        self._stopped = True
        forgotten = list(self._pending)
        self._pending.clear()
        self._room.set()
        return forgotten

    async def finish(self, seconds: float) -> None:
        """Wait so long for what runs, then cancel it. Real seconds: a stop must end."""
        tasks = self._tasks - {asyncio.current_task()}
        try:
            if tasks and seconds > 0:
                await asyncio.wait(tasks, timeout=seconds)
        finally:
            await all_cancelled(*tasks)

    def _start(self, execution: Execution) -> None:
        name = f"flowstate {execution.ctx.current.id}"
        task = asyncio.create_task(self._execute(execution), name=name)
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
        self._room.set()
