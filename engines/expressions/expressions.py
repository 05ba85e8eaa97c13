"""Evaluates expressions."""

import asyncio
import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import attrs
import msgspec
from attrs.validators import ge, gt

from flowstate.engines.expressions.errors import ExpressionError
from flowstate.engines.expressions.process import WorkerProcess, jq_folder, started
from flowstate.engines.expressions.requests import check_request, request_of
from flowstate.engines.expressions.worker import OK
from flowstate.ground.frozen import EMPTY

__all__ = ["Expressions"]

MIB = 1024 * 1024
INPUT_SHARE = 16  # jq needs so many times the bytes of what it is given.
LATE = 3.0  # So many times the seconds may pass on the clock, if the processors are busy ...
START = 10.0  # ... and so many more, while the process starts.

decode = msgspec.json.Decoder().decode


class Slot:
    """A place for a worker process, which starts when it is needed first, and after its end."""

    def __init__(self) -> None:
        self.process: WorkerProcess | None = None


@attrs.define(eq=False)
class Expressions:
    """A pool of processes that evaluate jq; an async context manager.

    It belongs to the event loop and to the process that have opened it. A worker process starts
    when it is needed first. It has no environment and can open no file; it is killed if it takes
    too much time or memory, and another one takes its place.

    Attributes:
        workers: how many processes there are at most.
        seconds: of processor time that one expression may take. Where the processors are busy
            with something else, it is killed at the latest after three times that, and 10 s.
        memory: bytes that one expression may take; what it is given may have a 16th of that.
        result: bytes of JSON that all its results may have.
        results: how many results it may give.
        waiting: how many evaluations may wait for a process that is free.
        private: names of variables; what is wrong with an expression that mentions one of them is
            not told while it is evaluated, since jq would tell their values.
    """

    workers: int = attrs.field(default=2, kw_only=True, validator=ge(1))
    seconds: float = attrs.field(default=1.0, kw_only=True, validator=gt(0))
    memory: int = attrs.field(default=256 * MIB, kw_only=True, validator=ge(16 * MIB))
    result: int = attrs.field(default=MIB, kw_only=True, validator=ge(1))
    results: int = attrs.field(default=10_000, kw_only=True, validator=ge(1))
    waiting: int = attrs.field(default=10_000, kw_only=True, validator=ge(1))
    private: Collection[str] = attrs.field(default=("secrets",), kw_only=True)
    _owner: int = attrs.field(default=0, init=False)
    _free: asyncio.LifoQueue[Slot] = attrs.field(factory=asyncio.LifoQueue, init=False)
    _slots: list[Slot] = attrs.field(factory=list, init=False)
    _starting: set[asyncio.Task[WorkerProcess]] = attrs.field(factory=set, init=False)
    _queued: int = attrs.field(default=0, init=False)

    async def __aenter__(self) -> Self:
        """Open it.

        Raises:
            ModuleNotFoundError: the package jq is not installed.
        """
        jq_folder()
        self._free = asyncio.LifoQueue()
        self._slots = [Slot() for _ in range(self.workers)]
        for slot in self._slots:
            self._free.put_nowait(slot)
        self._owner = os.getpid()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End its processes; what is being evaluated raises RuntimeError."""
        self._owner = 0
        await asyncio.gather(*self._starting, return_exceptions=True)
        running = [slot.process for slot in self._slots if slot.process is not None]
        await asyncio.gather(*(process.end() for process in running))

    async def evaluate(self, program: str, value: Any, variables: Mapping[str, Any] = EMPTY) -> Any:
        """Return what an expression makes of a value: none of no results, a list of several.

        Args:
            program: in jq.
            value: JSON, its input.
            variables: JSON by name, without the dollar.

        Raises:
            ExpressionError: it does not compile, fails, or takes or gives too much.
            RuntimeError: the pool is not open, or another process has opened it.
        """
        request = request_of(program, value, variables, self.memory // INPUT_SHARE)
        reply = await self._reply(program, request)
        if reply[:1] == OK:
            return _decoded(program, reply[1:])
        private = [name for name in self.private if name in variables and name in program]
        said = reply[1:].decode()
        raise ExpressionError(
            program, f"fails; it uses ${private[0]}, so why is not told" if private else said
        )

    async def check(self, program: str, variables: Sequence[str] = ()) -> None:
        """Refuse an expression that cannot be compiled.

        Args:
            program: in jq.
            variables: names that it may use, without the dollar.

        Raises:
            ExpressionError: why, as jq says it, with line and column.
            RuntimeError: the pool is not open, or another process has opened it.
        """
        reply = await self._reply(program, check_request(program, variables))
        if reply[:1] != OK:
            raise ExpressionError(program, reply[1:].decode())

    async def _reply(self, program: str, request: bytes) -> bytes:
        # Twice, since a process can be killed from outside, or be short of memory for what it
        # has done before.
        for _ in range(2):
            process = await self._taken(program)
            if reply := await process.ask(request):
                return reply
            if await process.was_too_slow():
                raise ExpressionError(program, f"takes more than {self.seconds:g} s")
        raise ExpressionError(program, "takes too much memory, or crashes jq")

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
            self._free.put_nowait(slot)
            raise ExpressionError(program, f"has no process that evaluates it ({error})") from error
        except BaseException:
            starting.add_done_callback(partial(self._give_back, slot))
            raise

    def _give_back(self, slot: Slot, starting: asyncio.Task[WorkerProcess]) -> None:
        self._free.put_nowait(slot)
        if not starting.cancelled():
            starting.exception()  # Else asyncio logs that nothing looked at it.

    def _check_open(self) -> None:
        if self._owner != os.getpid():
            raise RuntimeError("these expressions are not open in this process")

    async def _taken_slot(self, program: str) -> Slot:
        if not self._free.empty():
            return self._free.get_nowait()
        if self._queued >= self.waiting:
            raise ExpressionError(program, f"{self.waiting} others wait to be evaluated")
        self._queued += 1
        try:
            return await self._free.get()
        finally:
            self._queued -= 1

    async def _start(self, slot: Slot) -> WorkerProcess:
        self._check_open()
        limits = (self.seconds, self.memory, self.result, self.results)
        patience = LATE * self.seconds + START
        slot.process = await started(limits, patience, lambda: self._free.put_nowait(slot))
        return slot.process


def _decoded(program: str, text: bytes) -> Any:
    try:
        return decode(text)
    except (ValueError, RecursionError) as error:
        raise ExpressionError(program, f"gives no JSON ({error})") from None
