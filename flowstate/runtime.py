"""What an open engine works with: everything between its commands and its driver.

It is made when the engine is entered, so that what is drawn by chance differs between processes.
"""

import asyncio
import itertools
import logging
import os
import socket
import uuid
import weakref
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypedDict

import attrs

from flowstate.clock import Clock, SystemClock
from flowstate.commands import (
    Command,
    Commit,
    Delay,
    End,
    Execute,
    GetData,
    GetDelayedStates,
    GetState,
    GetStates,
    Labels,
    Noop,
    Pause,
    Resume,
    Retry,
    Stack,
    StoreData,
    Transit,
    Unstack,
)
from flowstate.committing import Committer
from flowstate.context import StateContext
from flowstate.driver import DelayedState, Driver, Transaction
from flowstate.errors import (
    EngineStoppedError,
    ExecutionLostError,
    InvalidCommandError,
    InvalidInputError,
)
from flowstate.execution import Execution, ExecutionPool, Slot
from flowstate.flow_loop import BlockingThreads, FlowLoop
from flowstate.heartbeats import Heartbeats
from flowstate.limits import check_id
from flowstate.log_tail import Watch, tail_of
from flowstate.options import count, has, optional, seconds
from flowstate.reading import Reader
from flowstate.recovery_rules import LONGEST, ORIGIN, SHORTEST
from flowstate.registry import FlowRegistry
from flowstate.state import State, Status
from flowstate.tasks import shielded, spawn
from flowstate.watchdog import Watchdog

__all__ = ["Filters", "LogFilters", "Options", "Runtime"]

logger = logging.getLogger("flowstate.engine")

GRACE = 5.0  # Seconds for what a stop has cancelled, and for commits that are on their way.


class LogFilters(TypedDict, total=False):
    """Which revisions are wanted: all conditions have to hold.

    Attributes:
        labels: a mapping, or a list of mappings of which one has to hold.
        since_rev: above this revision.
        since_latest: start at the newest matching revision instead.
        since_time: committed at or after, with a time zone.
        status: only this status.
    """

    labels: Labels
    since_rev: int | None
    since_latest: bool
    since_time: datetime | None
    status: Status | None


class Filters(LogFilters, total=False):
    """Further conditions, for pages.

    Attributes:
        latest_only: only the latest revision of each state.
        committed_before: committed before, with a time zone.
    """

    latest_only: bool
    committed_before: datetime | None


def _is_name(_: object, __: object, name: object) -> None:
    check_id("name", name)


def _or_system_clock(clock: Clock | None) -> Clock:
    return SystemClock() if clock is None else clock


@attrs.define(eq=False, repr=False)
class Options:
    """The options of an engine; it says what they mean."""

    driver: Driver = attrs.field(validator=has("a Driver", "commit", "get_due", "changed"))
    flows: FlowRegistry = attrs.field(validator=has("a FlowRegistry", "runnable", "check"))
    clock: Clock = attrs.field(
        default=None,
        kw_only=True,
        converter=_or_system_clock,
        validator=has("a Clock", "now", "monotonic", "sleep", "working"),
    )
    _max_executions: int = attrs.field(default=1_000, kw_only=True, validator=count(1))
    _max_pending: int = attrs.field(default=10_000, kw_only=True, validator=count(0))
    _blocking_threads: int = attrs.field(default=16, kw_only=True, validator=count(1))
    _shutdown_timeout: float = attrs.field(default=10.0, kw_only=True, validator=seconds())
    _tokens: Callable[[], str] | None = attrs.field(
        default=None, kw_only=True, validator=optional(has("a callable"))
    )
    _name: str | None = attrs.field(default=None, kw_only=True, validator=optional(_is_name))
    _warn_blocked_after: float | None = attrs.field(
        default=5.0, kw_only=True, validator=optional(seconds(SHORTEST, LONGEST))
    )
    _drawn_name: str | None = attrs.field(init=False, default=None)

    @property
    def name(self) -> str:
        """What tells this engine from all others, those of forked processes included."""
        name = self._name or self._drawn_name
        if name is None:
            name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            self._drawn_name = name
        return name


class Runtime:
    """Does the commands of one open engine, and runs its executions.

    Args:
        engine: the options; also given to each flow.
        do: does what a flow returns.

    Attributes:
        loop: the event loop to which all of this belongs.
        committer: writes.
        reader: reads.
        heartbeats: keep the executions alive.
        pool: the executions in the background.
    """

    def __init__(self, engine: Options, do: Callable[[Command[Any]], Awaitable[Any]]) -> None:
        driver, flows, clock = engine.driver, engine.flows, engine.clock
        self.loop = asyncio.get_running_loop()
        self._engine = engine
        self._clock = clock
        self._stopping = asyncio.Event()
        self._tail = tail_of(driver)
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        tokens, take = engine._tokens or _unique_tokens(), self._tail.take
        self.committer = Committer(
            driver, flows, tokens=tokens, monotonic=clock.monotonic, take=take
        )
        self.reader = Reader(driver)
        self.heartbeats = Heartbeats(driver, clock, engine.name, self._renew)
        self._threads = BlockingThreads(engine._blocking_threads)
        self._steps = FlowLoop(
            flows,
            clock,
            do,
            self.committer.commit,
            self.heartbeats.confirm,
            self._stopping,
            self._threads,
        )
        self.pool = ExecutionPool(self._run_logged, engine._max_executions, engine._max_pending)
        self._watchdog = Watchdog(self.heartbeats, engine._warn_blocked_after)

    # Commands

    async def do(self, command: Command[Any]) -> Any:
        """Do one command, and return its result."""
        if not logger.isEnabledFor(logging.DEBUG):
            return await self._do(command)
        name = type(command).__name__
        extra = {"command": name, "what": _described(command)}
        try:
            result = await self._do(command)
        except Exception as error:
            logger.debug("%s failed: %s", name, error, extra=extra)
            raise
        logger.debug("did %s", name, extra=extra)
        return result

    async def _do(self, command: Command[Any]) -> Any:  # noqa: C901 - one place knows them all
        result: Any = None
        plan = self.committer.plan()
        match command:
            case Commit():
                await self.committer.commit(command)
            case Transit() | Pause() | Resume() | Retry() | End() | Stack():
                plan.add(command)
            case Unstack():
                await self.committer.unstack(plan, command)
            case GetData():
                result = await self.committer.get_data(plan, command)
            case Delay():
                await self.committer.delay(command)
            case StoreData():
                await self.committer.store_data(command)
            case GetState():
                result = await self.reader.get_state(command)
            case GetStates():
                result = await self.reader.get_states(command)
            case GetDelayedStates():
                result = await self.reader.get_delayed(command)
            case Execute(ctx):
                await self.submit(ctx)
            case Noop():
                pass
            case _:
                name = type(command).__name__
                raise InvalidCommandError("command", f"{name} cannot be done by itself")
        plan.apply()
        return result

    async def do_in(self, tx: Transaction, commands: Sequence[Command[Any]]) -> None:
        """Make commits part of a transaction."""
        commits = [command for command in commands if isinstance(command, Commit)]
        if len(commits) < len(commands):
            raise InvalidCommandError("command", "only Commit can be part of a transaction")
        for commit in commits:
            await self.committer.commit_in(tx, commit)

    def draft_delay(self, delayed: DelayedState) -> StateContext:
        """Return a context that has taken the step of a delay, without committing it."""
        plan = self.committer.plan()
        ctx = plan.fire(delayed)
        plan.apply()
        return ctx

    async def _renew(self, state: State) -> State:
        """Commit a state as it is, and return its new revision."""
        ctx = StateContext(state)
        origin = state.transition.annotations.get(ORIGIN, str(state.rev))
        await self.committer.commit(Commit(Retry(ctx, {ORIGIN: origin})))
        return ctx.committed

    def watch(self, command: GetStates) -> Watch:
        """Return a watch that ends with the engine."""
        for field in ("latest_only", "committed_before"):
            if getattr(command, field):
                raise InvalidInputError(field, "is for pages, not for watches")
        watch = Watch(self._engine.driver, self._tail, command)
        self._watches.add(watch)
        return watch

    # Executions

    async def execute(self, ctx: StateContext) -> None:
        """Run an execution in the task of the caller."""
        if self._stopping.is_set():
            raise EngineStoppedError("the engine takes no more executions")
        self._steps.check(ctx)
        await self._run(self._kept(ctx))

    async def submit(
        self, ctx: StateContext, slot: Slot | None = None
    ) -> "asyncio.Future[BaseException | None]":
        """Let an execution of a copy run in the background, in the slot if there is one.

        Returns a future of what went wrong, or of ``None``.
        """
        self._steps.check(ctx)
        execution = self._kept(ctx.copy())
        execution.finished = asyncio.get_running_loop().create_future()
        try:
            await self.pool.submit(execution, slot)
        except BaseException:
            self._leave(execution)
            raise
        return execution.finished

    def _kept(self, ctx: StateContext) -> Execution:
        """Return an execution of ``ctx`` that is kept alive from now on."""
        execution = Execution(ctx, self._clock.monotonic(), self.heartbeats.look_again)
        self.heartbeats.add(execution)
        if not self._watchdog.is_started:
            self._watchdog.start()
        return execution

    def _leave(self, execution: Execution) -> None:
        self.heartbeats.remove(execution)
        execution.leave()  # Else the two would wait for the garbage collector.

    async def _run(self, execution: Execution) -> None:
        """Run an execution that is kept alive, and stop it when it is not."""
        try:
            await self._steps.run(self._engine, execution)
        except (asyncio.CancelledError, EngineStoppedError):
            if self._stopping.is_set():
                self.heartbeats.hand_over(execution)
            raise
        except Exception as error:
            self.heartbeats.note_failure(execution, error)
            raise
        finally:
            self._leave(execution)
            task = asyncio.current_task()
            if execution.is_lost and task is not None and task.uncancel() == 0:
                if self._stopping.is_set():
                    raise EngineStoppedError("the engine has stopped")
                raise ExecutionLostError(execution.ctx.current.id)

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
            failure = error
            logger.exception("execution of %r failed", id, extra=extra)
        except asyncio.CancelledError as error:
            failure = error
            raise
        finally:
            execution.finish(failure)

    async def stop(self) -> None:
        """Take no more, wait for what runs, and cancel and hand over the rest.

        Each wait is bounded, in real seconds: a stop must end.
        """
        time = self.loop.time
        ends_at = time() + self._engine._shutdown_timeout
        stopping = EngineStoppedError("the engine is stopping")
        self._stopping.set()
        watches = spawn(self._tail.stop(list(self._watches), stopping), "flowstate watches")
        self._forget(self.pool.stop(), stopping)
        try:
            for name in await self.pool.finish(ends_at - time(), GRACE):
                logger.warning("%s does not end although it is cancelled", name)
            await self._threads.close(ends_at - time())
        finally:
            self._watchdog.close()
            await shielded(self._finish(watches, asyncio.current_task()))

    def _forget(self, pending: Sequence[Execution], reason: EngineStoppedError) -> None:
        if pending:
            logger.warning("%d pending executions are handed over", len(pending))
        for execution in pending:
            self.heartbeats.hand_over(execution)
            self._leave(execution)
            execution.finish(reason)

    async def _finish(self, watches: "asyncio.Task[None]", own: "asyncio.Task[Any] | None") -> None:
        await self.heartbeats.close(GRACE, own)
        if not await self.committer.drain(GRACE):
            logger.warning("the outcome of commits that are on their way is unknown")
        await asyncio.wait([watches], timeout=GRACE)


def _described(command: Command[Any]) -> str:
    """Return what a log may say of a command: no value of a user, apart from ids."""
    if isinstance(command, Commit):
        return f"Commit({', '.join(map(_described, command._commands))})"
    ctx = getattr(command, "ctx", None)
    id = ctx.current.id if isinstance(ctx, StateContext) else getattr(command, "id", None)
    told = [repr(part) for part in (id, getattr(command, "to", None)) if part is not None]
    return f"{type(command).__name__}({', '.join(told)})"


def _unique_tokens() -> Callable[[], str]:
    """Return a source of tokens that no other process has: 128 random bits and a counter."""
    # Made of C functions only: this runs once a commit.
    return partial(next, map(f"{uuid.uuid4().hex}-".__add__, map(str, itertools.count(1))))
