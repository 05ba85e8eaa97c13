"""Runs a state through flow after flow, until one of them stops it."""

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

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
    Transit,
)
from flowstate.context import StateContext
from flowstate.errors import InvalidCommandError, InvalidInputError, RevisionMismatchError
from flowstate.flow import FlowRegistry, RegisteredFlow
from flowstate.limits import check_id
from flowstate.state import Status

if TYPE_CHECKING:
    from flowstate.engine import Engine

__all__ = ["Runner"]

logger = logging.getLogger("flowstate.engine")

STEPS_BEFORE_YIELD = 64
RETURNABLE = frozenset({Commit, Transit, Pause, Resume, End, Delay, Noop})


class Runner:
    """Executes contexts, and owns the threads for flows that block."""

    def __init__(self, flows: FlowRegistry, clock: Clock, threads: int) -> None:
        self._flows = flows
        self._clock = clock
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="flowstate-blocking")
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
        if state.status is not Status.ACTIVE:
            raise InvalidCommandError("ctx", f"{state.id!r} is {state.status.value}, not active")
        if not state.transition.to:
            raise InvalidCommandError("ctx", f"{state.id!r} was never sent to a flow")
        return self._flows.runnable(state.transition.to)

    async def execute(self, engine: "Engine", ctx: StateContext) -> None:
        """Run flow after flow, until one stops the state or loses a race."""
        steps = 0
        following: StateContext | None = ctx
        while following is not None:
            ctx = following
            ctx._stop = self.stop
            command = await self._call(self.check(ctx), ctx, engine)
            try:
                following = await self._follow(engine, ctx, command)
            except RevisionMismatchError as lost:
                logger.debug("%s", lost, extra={"state_id": ctx.current.id, "ids": lost.ids})
                return
            steps += 1
            if steps % STEPS_BEFORE_YIELD == 0:
                await asyncio.sleep(0)

    async def _call(self, flow: RegisteredFlow, ctx: StateContext, engine: "Engine") -> Any:
        call = flow.call
        assert call is not None  # noqa: S101 - narrows the type; ``runnable`` has checked it
        if flow.blocking:
            return await self._call_in_thread(call, ctx, engine)
        result = call(ctx, engine)
        return await result if isinstance(result, Awaitable) else result

    async def _call_in_thread(
        self, call: Callable[..., Any], ctx: StateContext, engine: "Engine"
    ) -> Any:
        context = contextvars.copy_context()
        key = object()
        self._blocking[key] = ctx.current.transition.to

        def run() -> Any:
            try:
                return context.run(call, ctx, engine)
            finally:
                self._blocking.pop(key, None)

        with self._clock.working():
            return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    async def _follow(
        self, engine: "Engine", ctx: StateContext, command: Command[Any]
    ) -> StateContext | None:
        """Do what a flow returned; return the context to go on with, if any."""
        if type(command) is Execute:
            self.check(command.ctx)
            return command.ctx
        if type(command) not in RETURNABLE:
            flow = ctx.current.transition.to
            what = type(command).__name__
            raise InvalidCommandError("command", f"flow {flow!r} cannot return {what}")
        before = ctx.current.transition
        await engine.do(command)
        after = ctx.current
        moved = after.transition is not before and after.status is Status.ACTIVE
        return ctx if moved and after.delayed_until is None else None

    async def close(self, seconds: float) -> None:
        """Wait so long for blocking flows; a thread cannot be cancelled, so name those left."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._blocking:
            joined = asyncio.ensure_future(asyncio.to_thread(self._threads.shutdown))
            await asyncio.wait([joined], timeout=seconds)
            for flow in self._blocking.values():
                logger.warning("blocking flow %r still runs", flow, extra={"flow": flow})
        else:
            self._threads.shutdown()
