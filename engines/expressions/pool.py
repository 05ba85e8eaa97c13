"""A pool of worker processes."""

import asyncio
import os
from collections import deque
from functools import partial

import attrs

from flowstate.engines.expressions.errors import ExpressionError
from flowstate.engines.expressions.process import Program, WorkerProcess, started

__all__ = ["Pool"]


class Slot:
    """A place for a worker process, which starts when it is needed first, and after its end."""

    def __init__(self) -> None:
        self.process: WorkerProcess | None = None


@attrs.define(eq=False)
class Pool:
    """Sends requests to worker processes, which start when they are needed.

    Attributes:
        program: that they run.
        workers: how many there are at most.
        waiting: how many requests may wait for one that is free.
    """

    program: Program
    workers: int
    waiting: int
    _owner: int = attrs.field(default=0, init=False)
    _slots: list[Slot] = attrs.field(factory=list, init=False)
    _free: list[Slot] = attrs.field(factory=list, init=False)
    _line: deque[asyncio.Future[Slot]] = attrs.field(factory=deque, init=False)
    _starting: set[asyncio.Task[WorkerProcess]] = attrs.field(factory=set, init=False)

    def open(self) -> None:
        """Let it begin, in the event loop that runs."""
        self._slots = [Slot() for _ in range(self.workers)]
        self._free, self._line = [*self._slots], deque()
        self._owner = os.getpid()

    async def close(self) -> None:
        """End the processes; all requests raise RuntimeError."""
        self._owner = 0
        await asyncio.gather(*self._starting, return_exceptions=True)
        running = [slot.process for slot in self._slots if slot.process is not None]
        await asyncio.gather(*(process.end() for process in running))

    async def reply(self, program: str, request: bytes) -> bytes:
        """Return the reply to a request.

        Args:
            program: what an error is about.
            request: as the worker reads it.

        Raises:
            ExpressionError: it takes too much time or memory, or too many wait.
            RuntimeError: the pool is not open, or another process has opened it.
        """
        # Twice, since a process can be killed from outside, or be short of memory for what it
        # has done before.
        for _ in range(2):
            process = await self._taken(program)
            if reply := await process.ask(request):
                return reply
            if await process.was_too_slow():
                raise ExpressionError(program, f"takes more than {self.program.seconds:g} s")
        raise ExpressionError(program, "takes too much memory, or crashes its process")

    async def _taken(self, program: str) -> WorkerProcess:
        self._check_open()
        slot = await self._taken_slot(program)
        if slot.process is not None and slot.process.is_open and self._owner:
            return slot.process
        starting = asyncio.create_task(self._start(slot))
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)
        try:
            return await asyncio.shield(starting)
        except OSError as error:
            self._give(slot)
            raise ExpressionError(program, f"has no process that evaluates it ({error})") from error
        except BaseException:
            starting.add_done_callback(partial(self._give_back, slot))
            raise

    def _give_back(self, slot: Slot, starting: asyncio.Task[WorkerProcess]) -> None:
        self._give(slot)
        if not starting.cancelled():
            starting.exception()  # Else asyncio logs that nothing looked at it.

    def _check_open(self) -> None:
        if self._owner != os.getpid():
            raise RuntimeError("these expressions are not open in this process")

    async def _taken_slot(self, program: str) -> Slot:
        if self._free:
            return self._free.pop()
        if len(self._line) >= self.waiting:
            raise ExpressionError(program, f"{self.waiting} others wait to be evaluated")
        turn: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._give(turn.result())
            elif turn in self._line:
                self._line.remove(turn)
            raise

    def _give(self, slot: Slot) -> None:
        """Let the first in the line have it: those who come later must not be faster."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(slot)
                return
        self._free.append(slot)

    async def _start(self, slot: Slot) -> WorkerProcess:
        self._check_open()
        slot.process = await started(self.program, partial(self._give, slot))
        return slot.process
