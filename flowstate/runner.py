"""Runs a state through flow after flow, until one of them stops it."""

import asyncio
import concurrent.futures
import contextvars
import itertools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flowstate.clock import Clock
from flowstate.commands import (
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
from flowstate.flow import FlowRegistry, RegisteredFlow
from flowstate.keeper import Keeper
from flowstate.limits import check_id
from flowstate.state import Status

if TYPE_CHECKING:
    from flowstate.engine import Engine

__all__ = ["Runner"]

logger = logging.getLogger("flowstate.engine")

STEPS_BEFORE_YIELD = 64
ACTIVE = Status.ACTIVE  # Enums look their members up slowly.
RETURNABLE = frozenset({Commit, Transit, Pause, Resume, Retry, End, Delay, Noop})


class Runner:
    """Executes contexts, and owns the threads for flows that block."""

    def __init__(self, flows: FlowRegistry, clock: Clock, keeper: Keeper, threads: int) -> None:
        self._flows = flows
        self._clock = clock
        self._keeper = keeper
        self._thread_count = threads
        self._threads: concurrent.futures.ThreadPoolExecutor | None = None
        self._blocking: dict[object, str] = {}
        self.stop = asyncio.Event()

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

    async def execute(self, engine: "Engine", execution: Execution) -> None:
        """Run flow after flow, until one stops the state or loses a race."""
        ctx = execution.ctx
        for step in itertools.count(1):
            flow = self.check(ctx)
            call = flow.call
            assert call is not None  # noqa: S101 - narrows the type; ``check`` has checked it
            ctx._stop = self.stop
            if not await self._is_ours(execution, ctx) or execution.is_lost:
                return
            if execution.task is None:  # Not before: what has not begun cannot be stopped.
                execution.task = asyncio.current_task()
            command: Any
            if flow.blocking:
                command = await self._call_in_thread(call, ctx, engine)
            else:
                command = call(ctx, engine)
                # Not isinstance(..., Awaitable): an abstract class takes a microsecond to tell.
                if hasattr(command, "__await__"):
                    command = await command
            if type(command) is Execute:
                ctx = command.ctx
            else:
                _check_returned(command, ctx)
                before = ctx.current.transition
                try:
                    await engine.do(command)
                except RevisionMismatchError as lost:
                    logger.debug("%s", lost, extra={"state_id": ctx.current.id, "ids": lost.ids})
                    return
                after = ctx.current
                if after.transition is before or after.status is not ACTIVE or after.delayed_until:
                    return
            if step % STEPS_BEFORE_YIELD == 0:
                await asyncio.sleep(0)

    async def _is_ours(self, execution: Execution, ctx: StateContext) -> bool:
        """Return whether the state may be executed here: nobody else has moved it on."""
        now = self._clock.monotonic()
        if ctx is not execution.ctx or ctx.committed is not execution.state:
            execution.follow(ctx, now)
            self._keeper.look_again(execution)
        if now < execution.fresh_until or await self._keeper.confirm(execution):
            return True
        logger.debug("%r has moved on", ctx.current.id, extra={"state_id": ctx.current.id})
        return False

    async def _call_in_thread(
        self, call: Callable[..., Any], ctx: StateContext, engine: "Engine"
    ) -> Any:
        context = contextvars.copy_context()
        key = object()

        def run() -> Any:
            self._blocking[key] = ctx.current.transition.to
            try:
                return context.run(call, ctx, engine)
            finally:
                self._blocking.pop(key, None)

        if self._threads is None:
            # Made, and its module imported, only where a flow blocks.
            self._threads = concurrent.futures.ThreadPoolExecutor(
                self._thread_count, thread_name_prefix="flowstate-blocking"
            )
        with self._clock.working():
            return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    async def close(self, seconds: float) -> None:
        """Wait so long for blocking flows; a thread cannot be cancelled, so name those left."""
        if self._threads is None:
            return
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._blocking:
            joined = asyncio.ensure_future(asyncio.to_thread(self._threads.shutdown))
            await asyncio.wait([joined], timeout=seconds)
            for flow in self._blocking.values():
                logger.warning("blocking flow %r still runs", flow, extra={"flow": flow})
        else:
            self._threads.shutdown()


def _check_returned(command: object, ctx: StateContext) -> None:
    if type(command) not in RETURNABLE:
        flow, what = ctx.current.transition.to, type(command).__name__
        raise InvalidCommandError("command", f"flow {flow!r} cannot return {what}")
