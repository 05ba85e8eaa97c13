"""Background executions: bounded, owned, and finished or cancelled when the engine stops."""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable

from flowstate.cancellation import all_cancelled
from flowstate.errors import EngineOverloadedError, EngineStoppedError
from flowstate.execution import Execution

__all__ = ["Executions"]

_inside: contextvars.ContextVar[bool] = contextvars.ContextVar("flowstate_inside", default=False)


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

    async def submit(self, execution: Execution) -> None:
        """Run an execution in the background.

        When nothing more may wait, a caller from outside waits for room; a flow does not, since
        the room may be what it occupies itself.

        Raises:
            EngineOverloadedError: no room, and the caller is an execution.
            EngineStoppedError: the engine is stopping.
        """
        while len(self._pending) >= self._max_pending and not self._stopped:
            if _inside.get():
                raise EngineOverloadedError(f"{self._max_pending} executions are waiting")
            self._room.clear()
            await self._room.wait()
        if self._stopped:
            raise EngineStoppedError("the engine takes no more executions")
        if len(self._tasks) < self._max_running:
            self._start(execution)
        else:
            self._pending.append(execution)

    async def idle(self) -> None:
        """Return when nothing runs or waits, the calling execution left aside."""
        while tasks := self._tasks - {asyncio.current_task()}:
            await asyncio.wait(tasks)

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
        if self._pending and not self._stopped:
            self._start(self._pending.popleft())
        self._room.set()
