"""Calls of flows that need more than a call: a thread, a time limit, an interruption."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import attrs

from flowstate.clock import Clock
from flowstate.errors import FlowTimeoutError
from flowstate.executions.execution import Execution
from flowstate.ground.counters import Counters
from flowstate.ground.tasks import BlockingThreads, spawn
from flowstate.registry import RegisteredFlow

__all__ = ["Caller"]

logger = logging.getLogger("flowstate.engine")

GRACE = 5.0  # Seconds for a flow to end that was cancelled; then it is named.


@attrs.define(eq=False)
class TimeLimit:
    """Cancels the task of a flow when its seconds are over."""

    flow: str
    id: str
    seconds: float
    is_over: bool = False

    async def enforce(self, clock: Clock, task: asyncio.Task[Any]) -> None:
        """Cancel ``task`` in time; name it when that is in vain."""
        await clock.sleep(self.seconds)
        self.is_over = True
        task.cancel()
        await clock.sleep(GRACE, background=True)
        message = "flow %r of %r does not end, although it was cancelled after %g s"
        extra = {"flow": self.flow, "state_id": self.id}
        logger.warning(message, self.flow, self.id, self.seconds, extra=extra)

    def error(self) -> FlowTimeoutError:
        """Return what is raised when the time is over."""
        return FlowTimeoutError(self.flow, self.id, self.seconds)


@attrs.define(eq=False)
class Caller:
    """Calls the flows of one engine that are not plain."""

    _engine: Any
    _clock: Clock
    _threads: BlockingThreads
    _counters: Counters

    async def call(self, flow: RegisteredFlow, execution: Execution) -> Any:
        """Return what a flow returns for the context of an execution.

        Raises:
            FlowTimeoutError: it took too long.
        """
        seconds = flow.policy.timeout if execution.timeout is None else execution.timeout
        limit = None if seconds is None else TimeLimit(flow.id, execution.id, seconds)
        execution.may_interrupt = flow.interrupt
        try:
            if flow.blocking:
                return await self._call_in_thread(flow, execution, limit)
            command: Any = flow.call(execution.ctx, self._engine)  # type: ignore[misc]
            if not hasattr(command, "__await__"):
                return command
            return await (command if limit is None else self._in_time(command, limit))
        finally:
            execution.may_interrupt = False

    async def call_in_thread(self, name: str, call: Callable[[], Any]) -> Any:
        """Do ``Engine.call_in_thread``, which says what is promised."""
        with self._clock.working():
            outcome = self._threads.submit(name, call)
            try:
                return await asyncio.wrap_future(outcome)
            finally:
                if outcome.running():
                    self._threads.abandon(name, outcome)

    async def _in_time(self, work: Awaitable[Any], limit: TimeLimit) -> Any:
        """Return what ``work`` returns, unless it is cancelled because its time is over.

        As with ``asyncio.timeout``, a cancellation from elsewhere that comes at the same time
        takes precedence, and what swallows the cancellation may still return.
        """
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment] # in one
        before = task.cancelling()
        ending = spawn(limit.enforce(self._clock, task), "flowstate timeout")
        try:
            return await work
        except asyncio.CancelledError:
            if limit.is_over and task.cancelling() == before + 1:
                raise limit.error() from None
            raise
        finally:
            ending.cancel()
            if limit.is_over:
                task.uncancel()
                self._counters.timeouts += 1

    async def _call_in_thread(
        self, flow: RegisteredFlow, execution: Execution, limit: TimeLimit | None
    ) -> Any:
        """Return what a flow returns that runs in a thread, unless its time is over before.

        Its time begins when it has its thread.
        """
        begun, ending = asyncio.Event(), None
        call: Callable[..., Any] = flow.call  # type: ignore[assignment] # it was looked up to run
        if limit is not None:
            call = partial(_told_call, asyncio.get_running_loop(), begun, call)
            ending = spawn(self._sleep_after(begun, limit.seconds), "flowstate timeout")
        with self._clock.working():
            outcome = self._threads.submit(flow.id, call, execution.ctx, self._engine)
            returned = asyncio.wrap_future(outcome)
            try:
                await asyncio.wait(filter(None, [returned, ending]), return_when="FIRST_COMPLETED")
                if limit is None or outcome.done():
                    return await returned
                self._counters.timeouts += 1
                logger.warning("%s, and goes on in its thread", error := limit.error())
                raise error
            finally:
                returned.cancel()
                if ending is not None:
                    ending.cancel()
                if outcome.running():  # It was cancelled, or its time is over.
                    self._give_up(flow, execution, outcome)

    async def _sleep_after(self, begun: asyncio.Event, seconds: float) -> None:
        await begun.wait()
        await self._clock.sleep(seconds)

    def _give_up(self, flow: RegisteredFlow, execution: Execution, outcome: Future[Any]) -> None:
        """Tell a call in a thread, which cannot be stopped, that nothing waits for it."""
        execution.is_in_thread = execution.notice.is_given_up = True
        if execution.stop is None or not execution.stop.is_set():
            self._threads.abandon(flow.id, outcome)


def _told_call(loop: asyncio.AbstractEventLoop, begun: asyncio.Event, call: Any, *args: Any) -> Any:
    """Call a flow in a thread, and tell the event loop that it has begun."""
    loop.call_soon_threadsafe(begun.set)
    return call(*args)
