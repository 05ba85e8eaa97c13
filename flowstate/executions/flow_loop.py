"""Runs states through flow after flow, until one of them stops it."""

import asyncio
import contextlib
import itertools
import logging
from asyncio import _get_running_loop
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from flowstate.clock import Clock
from flowstate.commands import Commit, Delay, Execute, Noop, Transit
from flowstate.committing import OTHER_LOOP
from flowstate.context import StateContext, check_context
from flowstate.errors import (
    EngineStoppedError,
    ExecutionLostError,
    FlowstateError,
    InvalidCommandError,
    InvalidInputError,
    RevisionMismatchError,
)
from flowstate.executed import Executed
from flowstate.executions.calls import Caller
from flowstate.executions.execution import Execution
from flowstate.executions.failures import Failures
from flowstate.executions.heartbeats import Heartbeats
from flowstate.executions.pool import ExecutionPool, Slot
from flowstate.ground.counters import Counters
from flowstate.ground.limits import check_id
from flowstate.ground.tasks import BlockingThreads, Watchdog
from flowstate.mailboxes.receiving import Receive
from flowstate.planning.steps import STEPS
from flowstate.registry import FlowRegistry, RegisteredFlow
from flowstate.state import Status

__all__ = ["FlowLoop", "Limits"]

logger = logging.getLogger("flowstate.engine")

YIELD_MASK = 63  # Of the steps between two turns that others get for sure.
ACTIVE = Status.ACTIVE  # Enums look their members up slowly.
RETURNABLE = (Commit, Transit, *STEPS, Delay, Receive, Noop)


class Limits(NamedTuple):
    """How many run in the background, wait for that, and run in threads."""

    running: int
    pending: int
    threads: int


class FlowLoop:
    """Executes contexts, in the task of the caller or in the background.

    Args:
        do: does what a flow returned.
        commit: does a ``Commit`` that a flow returned, without logging that.
    """

    def __init__(
        self,
        engine: Any,
        do: Callable[[Any], Awaitable[None]],
        commit: Callable[[Commit], Awaitable[None]],
        heartbeats: Heartbeats,
        *,
        failures: Failures,
        executed: Executed,
        counters: Counters,
        limits: Limits,
        warn_blocked_after: float | None,
    ) -> None:
        self._engine = engine
        self._flows: FlowRegistry = engine.flows
        self._clock: Clock = engine.clock
        self._do = do
        self._commit = commit
        self._heartbeats = heartbeats
        self._look_again = heartbeats.look_again
        self._failures = failures
        self._executed = executed
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._is_stopping = False  # The same, without a call.
        self.pool = ExecutionPool(self._run_logged, limits.running, limits.pending)
        self._threads = BlockingThreads(limits.threads)
        self._caller = Caller(engine, self._clock, self._threads, counters)
        self.call_in_thread = self._caller.call_in_thread
        self._watchdog = Watchdog(self._named, warn_blocked_after)

    async def execute(self, ctx: StateContext) -> None:
        """Run an execution in the task of the caller."""
        await self._run(self._taken(ctx))

    async def execute_delay(self, ctx: StateContext) -> bool:
        """Do the same, and return whether it lost no race."""
        execution = self._taken(ctx)
        await self._run(execution)
        return not execution.is_beaten

    def _taken(self, ctx: StateContext) -> Execution:
        if _get_running_loop() is not self._loop:
            raise InvalidInputError("engine", OTHER_LOOP)
        if self._is_stopping:
            raise EngineStoppedError("the engine takes no more executions")
        self._check(ctx)
        return self._kept(ctx)

    async def submit(
        self, ctx: StateContext, slot: Slot | None = None
    ) -> asyncio.Future[BaseException | None]:
        """Let an execution of a copy run in the background, in the slot if there is one.

        Returns a future of what went wrong, or of ``None``.
        """
        self._check(ctx)
        execution = self._kept(ctx.copy())
        execution.finished = asyncio.get_running_loop().create_future()
        try:
            await self.pool.submit(execution, slot)
        except BaseException:
            self._leave(execution)
            raise
        return execution.finished

    async def stop(self, ends_at: float, grace: float) -> None:
        """Take no more, wait for what runs, and cancel and hand over the rest.

        Args:
            ends_at: when what runs is cancelled, by the clock of the event loop.
            grace: seconds that it has to end then.
        """
        now = asyncio.get_running_loop().time
        self._is_stopping = True
        self._stopping.set()
        if pending := self.pool.stop():
            logger.warning("%d pending executions are handed over", len(pending))
        for execution in pending:
            self._heartbeats.hand_over(execution)
            self._leave(execution)
            execution.finish(EngineStoppedError("the engine is stopping"))
        try:
            for name in await self.pool.finish(ends_at - now(), grace):
                logger.warning("%s does not end although it is cancelled", name)
            await self._threads.close(ends_at - now())
        finally:
            self._watchdog.close()

    def _check(self, ctx: StateContext) -> RegisteredFlow:
        """Return the flow that ``ctx`` is in.

        Raises:
            InvalidInputError: the state has no proper id.
            InvalidCommandError: the state is not active, or never went to a flow.
            UnknownFlowError: the flow cannot be executed here.
        """
        if type(ctx) is not StateContext:
            check_context(ctx)
        state = ctx.current
        if ctx._store_id is None:
            check_id("state.id", state.id)
        if state.status is not ACTIVE:
            raise InvalidCommandError("ctx", f"{state.id!r} is {state.status.value}, not active")
        to = state.transition.to
        if not to:
            raise InvalidCommandError("ctx", f"{state.id!r} was never sent to a flow")
        return self._flows.runnable_by_id.get(to) or self._flows.runnable(to)

    def _kept(self, ctx: StateContext) -> Execution:
        now = self._clock.monotonic()
        execution = Execution(ctx, now, self._look_again, self._loop, self._stopping)
        self._heartbeats.add(execution)
        self._executed.add(execution)
        if not self._watchdog.is_started:
            self._watchdog.start()
        return execution

    def _named(self, task: asyncio.Task[object] | None) -> tuple[str, dict[str, str]]:
        """Return what a task is, for a log."""
        running = [each for each in self._heartbeats.executions if each.task is task]
        if not running:
            return f"{task}", {}
        state = running[-1].ctx.current
        flow = state.transition.to
        return f"flow {flow!r} of {state.id!r}", {"flow": flow, "state_id": state.id}

    def _leave(self, execution: Execution) -> None:
        execution.is_over = True
        self._executed.remove(execution)
        self._heartbeats.remove(execution)
        execution.leave()  # Else the two would wait for the garbage collector.

    async def _run_logged(self, execution: Execution) -> None:
        id = execution.ctx.current.id
        extra = {"state_id": id, "rev": execution.ctx.committed.rev}
        failure: BaseException | None = None
        try:
            await self._run(execution)
        except ExecutionLostError as error:
            failure = error
            logger.warning("%s", error, extra=extra)
        except EngineStoppedError as error:
            failure = error
            logger.info("execution of %r stopped with the engine", id, extra=extra)
        except Exception as error:
            if await self._is_superseded(execution, error):
                logger.debug("%s", error, extra=extra)
            else:
                failure = error
                logger.exception("execution of %r failed", id, extra=extra)
        except asyncio.CancelledError as error:
            failure = error
            if (task := asyncio.current_task()) is not None and not task.cancelling():
                logger.exception("execution of %r was cancelled by its own flow", id, extra=extra)
            raise
        finally:
            execution.finish(failure or execution.failure)

    async def _is_superseded(self, execution: Execution, error: Exception) -> bool:
        """Return whether a flow has failed only because others have moved its state on."""
        state = execution.ctx.committed
        if not isinstance(error, RevisionMismatchError) or state.id not in error.ids:
            return False
        with contextlib.suppress(FlowstateError):
            found = await self._heartbeats.get_liveness(state.id)
            return found is None or found.rev != state.rev
        return False

    async def _run(self, execution: Execution) -> None:
        """Run an execution that is kept alive, and stop it when it is not."""
        self._counters.executions += 1
        try:
            await self._step(execution)
            if self._is_stopping:
                self._hand_over(execution)
        except asyncio.CancelledError:
            self._hand_over(execution)
            if not execution.is_only_interrupted(asyncio.current_task()):
                raise
            execution.is_beaten = True
        except EngineStoppedError:
            self._hand_over(execution)
            raise
        except Exception as error:
            self._heartbeats.note_failure(execution, error)
            raise
        finally:
            self._leave(execution)
            if execution.notice.is_superseded:
                self._counters.superseded += 1
            is_stopped = execution.is_lost or execution.is_interrupted
            if is_stopped and not execution.uncancel(asyncio.current_task()) and execution.is_lost:
                if self._is_stopping:
                    raise EngineStoppedError("the engine has stopped")
                raise ExecutionLostError(execution.ctx.current.id)

    def _hand_over(self, execution: Execution) -> None:
        """Let another engine go on with what a stop has interrupted, or a flow has left to it."""
        if self._is_stopping and not execution.ctx.committed.delayed_until:
            self._heartbeats.hand_over(execution)

    async def _step(  # noqa: C901, PLR0912 - a call for each branch would slow down each step
        self, execution: Execution
    ) -> None:
        """Run flow after flow, until one stops the state or loses a race."""
        monotonic, engine, flows = self._clock.monotonic, self._engine, self._flows.runnable_by_id
        is_quiet, ctx = not logger.isEnabledFor(logging.DEBUG), execution.ctx
        to = ctx.current.transition.to
        flow = flows.get(to) or self._flows.runnable(to)
        for step in itertools.count(1):
            if monotonic() >= execution.fresh_until and not await self._is_ours(execution):
                execution.is_beaten = True
                return
            if execution.task is None and (task := asyncio.current_task(self._loop)) is not None:
                execution.task, execution.cancellations = task, task.cancelling()
            try:
                if flow.is_plain and execution.is_plain:
                    call: Any = flow.call
                    command = call(ctx, engine)
                    # Not isinstance(..., Awaitable): an abstract class takes a microsecond to tell.
                    if hasattr(command, "__await__"):
                        command = await command
                elif execution.is_lost:
                    return
                else:
                    command = await self._caller.call(flow, execution)
                if isinstance(command, RETURNABLE):
                    before = ctx.current.transition
                    try:
                        if is_quiet and type(command) is Commit:
                            await self._commit(command)
                        else:
                            await self._do(command)
                    except RevisionMismatchError as lost:
                        extra = {"state_id": ctx.current.id, "ids": lost.ids}
                        logger.debug("%s", lost, extra=extra)
                        execution.is_beaten = True
                        return
                    after = ctx.current
                    moved = after.transition
                    if moved is before or after.status is not ACTIVE or after.delayed_until:
                        return
                    if moved is ctx._stayed:  # No step: a commit has only given it its origin.
                        return
                else:
                    ctx = self._follow(_next_of(command, ctx), execution)
                    moved = ctx.current.transition
            except Exception as error:
                taken = await self._failures.take(flow, execution, error)
                if taken == "not taken":
                    raise
                if taken == "over":
                    return
                ctx = execution.ctx
                moved = ctx.current.transition
            flow = flows.get(moved.to) or self._flows.runnable(moved.to)
            if not step & YIELD_MASK:
                is_quiet = not logger.isEnabledFor(logging.DEBUG)
                await asyncio.sleep(0)

    def _follow(self, ctx: StateContext, execution: Execution) -> StateContext:
        """Go on with a context that a flow has returned."""
        self._check(ctx)
        self._executed.remove(execution)
        execution.follow(ctx, self._clock.monotonic())
        self._executed.add(execution)
        return ctx

    async def _is_ours(self, execution: Execution) -> bool:
        """Return whether the state may be executed here: no other process has moved it on."""
        execution.task = None  # No flow runs, so there is nothing to be stopped.
        if await self._heartbeats.confirm(execution):
            return True
        id = execution.ctx.current.id
        logger.debug("%r has moved on", id, extra={"state_id": id})
        return False


def _next_of(command: object, ctx: StateContext) -> StateContext:
    """Return the context that a flow has returned to go on with."""
    if not isinstance(command, Execute):
        flow, what = ctx.current.transition.to, type(command).__name__
        raise InvalidCommandError("command", f"flow {flow!r} cannot return {what}")
    return command.ctx
