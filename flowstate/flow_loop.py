"""Runs a state through flow after flow, until one of them stops it."""

import asyncio
import contextlib
import contextvars
import itertools
import logging
import queue
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs

from flowstate.clock import Clock
from flowstate.commands import (
    Command,
    Commit,
    Delay,
    End,
    Execute,
    Noop,
    Pause,
    Resume,
    Retry,
    Transit,
)
from flowstate.context import StateContext
from flowstate.errors import InvalidCommandError, InvalidInputError, RevisionMismatchError
from flowstate.execution import Execution
from flowstate.limits import check_id
from flowstate.registry import FlowRegistry, RegisteredFlow
from flowstate.state import Status
from flowstate.tasks import note_outcome

__all__ = ["BlockingThreads", "FlowLoop"]

logger = logging.getLogger("flowstate.engine")

YIELD_MASK = 63  # Of the steps between two turns that others get for sure.
ACTIVE = Status.ACTIVE  # Enums look their members up slowly.
RETURNABLE = (Commit, Transit, Pause, Resume, Retry, End, Delay, Noop)


@attrs.define(eq=False, repr=False)
class FlowLoop:
    """Executes contexts.

    Args:
        flows: what states can be sent to.
        clock: of the engine.
        do: does what a flow returned.
        commit: the same for a ``Commit``, without logging that.
        confirm: returns whether the state of an execution is still what it was, and ours.
        stopping: set when the engine begins to stop.
        threads: for flows that block.
    """

    _flows: FlowRegistry
    _clock: Clock
    _do: Callable[[Command[Any]], Awaitable[Any]]
    _commit: Callable[[Commit], Awaitable[None]]
    _confirm: Callable[[Execution], Awaitable[bool]]
    _stopping: asyncio.Event
    _threads: "BlockingThreads"

    def check(self, ctx: StateContext) -> RegisteredFlow:
        """Return the flow that ``ctx`` is in.

        Raises:
            InvalidInputError: the state has no proper id.
            InvalidCommandError: the state is not active, or never went to a flow.
            UnknownFlowError: the flow cannot be executed here.
        """
        if not isinstance(ctx, StateContext):
            raise InvalidInputError("ctx", f"must be a StateContext, not {type(ctx).__name__}")
        state = ctx.current
        if ctx._store_id is None:
            check_id("state.id", state.id)
        if state.status is not ACTIVE:
            raise InvalidCommandError("ctx", f"{state.id!r} is {state.status.value}, not active")
        if not state.transition.to:
            raise InvalidCommandError("ctx", f"{state.id!r} was never sent to a flow")
        return self._flows.runnable(state.transition.to)

    async def run(  # noqa: C901, PLR0912 - a call for each branch would slow down each step
        self, engine: object, execution: Execution
    ) -> None:
        """Run flow after flow, until one stops the state or loses a race.

        Args:
            engine: is what each flow gets as its second argument.
            execution: is kept alive meanwhile.
        """
        monotonic, runnable = self._clock.monotonic, self._flows.runnable
        is_quiet, ctx = not logger.isEnabledFor(logging.DEBUG), execution.ctx
        flow = self._enter(ctx)
        for step in itertools.count(1):
            if monotonic() >= execution.fresh_until and not await self._is_ours(execution):
                return
            if execution.is_lost:
                return
            if execution.task is None:
                execution.task = asyncio.current_task()
            call: Any = flow.call
            if flow.blocking:
                command = await self._call_in_thread(call, execution, engine)
            else:
                command = call(ctx, engine)
                # Not isinstance(..., Awaitable): an abstract class takes a microsecond to tell.
                if hasattr(command, "__await__"):
                    command = await command
            if isinstance(command, RETURNABLE):
                before = ctx.current.transition
                try:
                    if is_quiet and type(command) is Commit:
                        await self._commit(command)
                    else:
                        await self._do(command)
                except RevisionMismatchError as lost:
                    logger.debug("%s", lost, extra={"state_id": ctx.current.id, "ids": lost.ids})
                    return
                after = ctx.current
                moved = after.transition
                if moved is before or after.status is not ACTIVE or after.delayed_until:
                    return
                flow = runnable(moved.to)
            else:
                ctx = _next_of(command, ctx)
                flow = self._enter(ctx)
                execution.follow(ctx, monotonic())
            if not step & YIELD_MASK:
                is_quiet = not logger.isEnabledFor(logging.DEBUG)
                await asyncio.sleep(0)

    def _enter(self, ctx: StateContext) -> RegisteredFlow:
        flow = self.check(ctx)
        ctx._stop = self._stopping
        return flow

    async def _is_ours(self, execution: Execution) -> bool:
        """Return whether the state may be executed here: no other process has moved it on."""
        execution.task = None  # No flow runs, so there is nothing to be stopped.
        if await self._confirm(execution):
            return True
        id = execution.ctx.current.id
        logger.debug("%r has moved on", id, extra={"state_id": id})
        return False

    async def _call_in_thread(
        self, call: Callable[..., Any], execution: Execution, engine: object
    ) -> Any:
        ctx = execution.ctx
        with self._clock.working():
            job = self._threads.submit(ctx.current.transition.to, call, ctx, engine)
            try:
                return await asyncio.shield(job.done)
            except asyncio.CancelledError:
                execution.is_in_thread = not job.drop()
                raise


def _next_of(command: object, ctx: StateContext) -> StateContext:
    """Return the context that a flow has returned to go on with."""
    if not isinstance(command, Execute):
        flow, what = ctx.current.transition.to, type(command).__name__
        raise InvalidCommandError("command", f"flow {flow!r} cannot return {what}")
    return command.ctx


class Job:
    """A call that waits for a thread or runs in one.

    Attributes:
        flow: what is called.
        done: gets the outcome; never cancelled once the call has begun.
    """

    __slots__ = ("_begun", "_call", "_context", "done", "flow")

    def __init__(self, flow: str, call: Callable[[], Any]) -> None:
        self.flow = flow
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(note_outcome)
        self._call = call
        self._context = contextvars.copy_context()
        self._begun = threading.Lock()  # Held by the one that decides: the thread, or ``drop``.

    def drop(self) -> bool:
        """Return whether no thread is at it any more; one that has not begun never does."""
        if self._begun.acquire(blocking=False):
            self.done.cancel()
        return self.done.done()

    def run(self) -> None:
        """Do the call in this thread, unless it was dropped."""
        if not self._begun.acquire(blocking=False):
            return
        try:
            outcome, error = self._context.run(self._call), None
        except BaseException as raised:  # noqa: BLE001 - it goes to the caller
            outcome, error = None, raised
        with contextlib.suppress(RuntimeError):  # The event loop is closed, so none waits.
            self.done.get_loop().call_soon_threadsafe(self._settle, outcome, error)

    def _settle(self, outcome: Any, error: BaseException | None) -> None:
        if error is None:
            self.done.set_result(outcome)
        elif isinstance(error, StopIteration):  # No future takes it.
            self.done.set_exception(RuntimeError("a flow raised StopIteration"))
        else:
            self.done.set_exception(error)


class BlockingThreads:
    """At most so many threads for flows that block.

    They are daemons: the process ends although one still runs, as those of
    ``concurrent.futures`` would not let it.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._open: set[Job] = set()  # Waiting or running. Only the event loop touches it.
        self._threads = 0

    def submit(self, flow: str, call: Callable[..., Any], *args: Any) -> Job:
        """Let a thread call a function."""
        job = Job(flow, partial(call, *args))
        self._open.add(job)
        job.done.add_done_callback(lambda _: self._open.discard(job))
        if len(self._open) > self._threads < self._limit:
            self._threads += 1
            name = f"flowstate blocking {self._threads}"
            threading.Thread(target=_work, args=(self._jobs,), name=name, daemon=True).start()
        self._jobs.put(job)
        return job

    async def close(self, seconds: float) -> None:
        """Wait so long for what runs; a thread cannot be stopped, so name the flows left."""
        running = [job for job in self._open if not job.drop()]
        for _ in range(self._threads):
            self._jobs.put(None)
        if running and seconds > 0:
            await asyncio.wait([job.done for job in running], timeout=seconds)
        for job in running:
            if not job.done.done():
                logger.warning("blocking flow %r still runs", job.flow, extra={"flow": job.flow})


def _work(jobs: "queue.SimpleQueue[Job | None]") -> None:
    while job := jobs.get():
        job.run()
        del job  # Else it and its outcome stay until the next one comes.
