"""The engine: does commands, and moves states from flow to flow."""

import asyncio
import itertools
import logging
import os
import socket
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, overload

from flowstate.cancellation import to_the_end
from flowstate.clock import Clock, SystemClock
from flowstate.commands import (
    Command,
    Commit,
    Delay,
    DelayedPage,
    End,
    Execute,
    GetData,
    GetDelayedStates,
    GetState,
    GetStates,
    Labels,
    Noop,
    Page,
    Pause,
    Resume,
    Retry,
    Stack,
    StoreData,
    Transit,
    Unstack,
)
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.driver import DelayedState, Driver, Transaction
from flowstate.errors import (
    EngineStoppedError,
    ExecutionLostError,
    InvalidCommandError,
    InvalidInputError,
)
from flowstate.execution import Execution
from flowstate.executions import Executions, Place
from flowstate.feed import Feed
from flowstate.flow import FlowRegistry
from flowstate.frozen import EMPTY
from flowstate.keeper import Keeper
from flowstate.limits import check_id, check_rev
from flowstate.runner import Runner
from flowstate.stalling import LONGEST, ORIGIN, SHORTEST
from flowstate.state import State, Status
from flowstate.store import Store
from flowstate.watch import Watch
from flowstate.watchdog import Watchdog

__all__ = ["Engine"]

R = TypeVar("R")
logger = logging.getLogger("flowstate.engine")


class Engine:
    """Does commands against one driver, and executes flows.

    Use it as ``async with``: that opens the driver (or counts as one more user of it), and at
    the end stops intake, lets what runs finish, cancels the rest, and closes. Watches of an
    engine that stops raise :class:`EngineStoppedError`.

    Args:
        driver: where states are stored.
        flows: what states can be sent to.
        clock: for everything but the time that the store stamps.
        max_executions: how many background executions run at once.
        max_pending: how many more may wait for their turn.
        blocking_threads: how many ``blocking=True`` flows run at once.
        shutdown_timeout: seconds that a stop waits for running flows before it cancels them.
        tokens: makes a token for each commit; unique among all engines of a store.
        name: tells this engine from all others, for people; made of host, process and a random
            part by default.
        warn_blocked_after: seconds for which a flow may block the event loop before a warning
            names it, or ``None``. No heartbeat can be sent meanwhile.
    """

    def __init__(
        self,
        driver: Driver,
        flows: FlowRegistry,
        *,
        clock: Clock | None = None,
        max_executions: int = 1_000,
        max_pending: int = 10_000,
        blocking_threads: int = 16,
        shutdown_timeout: float = 10.0,
        tokens: Callable[[], str] | None = None,
        name: str | None = None,
        warn_blocked_after: float | None = 5.0,
    ) -> None:
        self.driver = driver
        self.flows = flows
        self.clock: Clock = clock or SystemClock()
        self._shutdown_timeout = shutdown_timeout
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        check_id("name", self.name)
        self._feed = Feed(driver)
        self._store = Store(
            driver, flows, tokens or _unique_tokens(), self.clock.monotonic, self._feed.take
        )
        self._keeper = Keeper(driver, self.clock, self.name, self._renew)
        _check_seconds("warn_blocked_after", warn_blocked_after)
        _check_count("max_executions", max_executions, least=1)
        _check_count("max_pending", max_pending, least=0)
        self._watchdog = Watchdog(self._keeper, warn_blocked_after)
        self._runner = Runner(flows, self.clock, self._keeper, blocking_threads)
        self._executions = Executions(self._execute_logged, max_executions, max_pending)
        self._is_open = False

    async def __aenter__(self) -> Self:
        if self._is_open or self._runner.stop.is_set():
            raise EngineStoppedError("an engine can be entered once; make a new one")
        await self.driver.__aenter__()
        self._is_open = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self._finish()
        finally:
            self._is_open = False
            await self.driver.__aexit__(exc_type, exc, traceback)

    async def _finish(self) -> None:
        self._runner.stop.set()
        forgotten = self._executions.stop()
        if forgotten:
            logger.warning("%d pending executions are left to recovery", len(forgotten))
        for execution in forgotten:
            self._keeper.remove(execution)
            execution.finish(EngineStoppedError("the engine is stopping"))
        try:
            await self._feed.close(EngineStoppedError("the engine is stopping"))
            await self._executions.finish(self._shutdown_timeout)
            await self._runner.close(self._shutdown_timeout)
        finally:
            self._watchdog.close()
            await to_the_end(self._keeper.close())
            await self._store.drain()

    @overload
    def do(
        self, command: Command[R], /, *, tx: Transaction | None = None
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def do(
        self, *commands: Command[Any], tx: Transaction | None = None
    ) -> Coroutine[Any, Any, None]: ...
    def do(
        self, *commands: Command[Any], tx: Transaction | None = None
    ) -> Coroutine[Any, Any, Any]:
        """Do commands in order; await the result of a single one.

        A command that fails leaves every context as it was, and the rest is not done.

        Args:
            commands: what to do.
            tx: makes commits part of a transaction of your own, if the driver can do that:
                they are checked now, and written, judged and settled when it ends.

        Raises:
            InvalidInputError: a command or a value in it is refused; nothing was written.
            RevisionMismatchError: a commit lost a race; nothing of it was written.
            CommitUnknownError: nobody can tell whether a commit happened.
            DriverError: the store failed; nothing was written.
            EngineStoppedError: the engine is not open.
        """
        if not self._is_open:
            raise EngineStoppedError("the engine is not open")
        if tx is not None:
            return self._do_in(tx, commands)
        if len(commands) == 1:
            command = commands[0]
            done = self._store.commit(command) if type(command) is Commit else self._do(command)
            return done if not logger.isEnabledFor(logging.DEBUG) else _logged(command, done)
        return self._do_all(commands)

    async def _do_in(self, tx: Transaction, commands: tuple[Command[Any], ...]) -> None:
        commits = [command for command in commands if isinstance(command, Commit)]
        if len(commits) < len(commands):
            raise InvalidCommandError("command", "only Commit can be part of a transaction")
        for commit in commits:
            await self._store.commit_in(tx, commit)

    async def _do_all(self, commands: tuple[Command[Any], ...]) -> None:
        for command in commands:
            await self.do(command)

    async def _do(self, command: Command[Any]) -> Any:  # noqa: C901 - one place knows them all
        result: Any = None
        plan = self._store.plan()
        match command:
            case Transit() | Pause() | Resume() | Retry() | End() | Stack():
                plan.add(command)
            case Unstack():
                await self._store.unstack(plan, command)
            case GetData():
                result = await self._store.get_data(plan, command)
            case Delay():
                await self._store.delay(command)
            case StoreData():
                await self._store.store_data(command)
            case GetState():
                result = await self._store.get_state(command)
            case GetStates():
                result = await self._store.get_states(command)
            case GetDelayedStates():
                result = await self._store.get_delayed(command)
            case Execute(ctx):
                self._runner.check(ctx)
                await self._submit(ctx.copy())
            case Noop():
                pass
            case _:
                name = type(command).__name__
                raise InvalidCommandError("command", f"{name} cannot be done by itself")
        plan.apply()
        return result

    async def execute(self, ctx: StateContext) -> None:
        """Run ``ctx`` through flow after flow, until it ends, pauses, is delayed or set aside.

        Losing a race with the command that a flow returned ends it quietly. What a flow raises
        is raised here, and leaves the state as it was committed last.

        Raises:
            InvalidCommandError: the state is not active.
            UnknownFlowError: the registry does not have its flow.
            EngineStoppedError: the engine is not open, or is stopping.
        """
        if not self._is_open or self._runner.stop.is_set():
            raise EngineStoppedError("the engine takes no more executions")
        self._runner.check(ctx)
        await self._run(self._kept(ctx))

    def _kept(self, ctx: StateContext) -> Execution:
        """Return an execution of ``ctx`` that is kept alive from now on."""
        execution = Execution(ctx, self.clock.monotonic(), self._keeper.look_again)
        self._keeper.add(execution)
        if not self._watchdog.is_started:
            self._watchdog.start()
        return execution

    async def start(
        self, ctx: StateContext, place: Place | None = None
    ) -> "asyncio.Future[BaseException | None]":
        """Do :class:`Execute`, in the place that was kept for it if there is one.

        Returns a future of what went wrong, or of ``None``. Raises what ``Execute`` raises.
        """
        if not self._is_open:
            raise EngineStoppedError("the engine is not open")
        self._runner.check(ctx)
        return await self._submit(ctx.copy(), place)

    def reserve(self) -> Place | None:
        """Keep a place for an execution that is about to start; ``None`` when none is free."""
        return self._executions.reserve()

    def release(self, place: Place) -> None:
        """Give a place back; nothing happens if an execution has started in it."""
        self._executions.release(place)

    @property
    def waiting(self) -> int:
        """How many background executions wait for their turn."""
        return self._executions.pending

    async def _renew(self, state: State) -> State:
        """Commit a state as it is, and return its new revision."""
        ctx = StateContext(state)
        origin = state.transition.annotations.get(ORIGIN, str(state.rev))
        await self.do(Commit(Retry(ctx, {ORIGIN: origin})))
        return ctx.committed

    async def _submit(
        self, ctx: StateContext, place: Place | None = None
    ) -> "asyncio.Future[BaseException | None]":
        execution = self._kept(ctx)
        execution.finished = asyncio.get_running_loop().create_future()
        try:
            await self._executions.submit(execution, place)
        except BaseException:
            self._keeper.remove(execution)
            raise
        return execution.finished

    async def _run(self, execution: Execution) -> None:
        """Run an execution that is kept alive, and stop it when it is not."""
        task = asyncio.current_task()
        try:
            await self._runner.execute(self, execution)
        except Exception as error:
            self._keeper.note_failure(execution, error)
            raise
        finally:
            self._keeper.remove(execution)
            if execution.is_lost and task is not None and task.uncancel() == 0:
                if self._runner.stop.is_set():
                    raise EngineStoppedError("the engine has stopped")
                raise ExecutionLostError(execution.ctx.current.id)

    async def _execute_logged(self, execution: Execution) -> None:
        ctx = execution.ctx
        extra = {"state_id": ctx.current.id, "rev": ctx.committed.rev}
        failure: BaseException | None = None
        try:
            await self._run(execution)
        except ExecutionLostError as error:
            failure = error
            logger.warning("%s", error, extra=extra)
        except EngineStoppedError as error:
            failure = error
            logger.info("execution of %r stopped with the engine", ctx.current.id, extra=extra)
        except Exception as error:
            failure = error
            logger.exception("execution of %r failed", ctx.current.id, extra=extra)
        except asyncio.CancelledError as error:
            failure = error
            raise
        finally:
            execution.finish(failure)

    async def idle(self) -> None:
        """Return when no background execution runs or waits any more."""
        await self._executions.idle()

    def can_execute(self, flow: str) -> bool:
        """Return whether the registry has ``flow`` and can run it."""
        return self.flows.can_run(flow)

    def draft_delay(self, delayed: DelayedState) -> StateContext:
        """Return a context that has taken the step of ``delayed``, without committing it."""
        plan = self._store.plan()
        ctx = plan.fire(delayed)
        plan.apply()
        return ctx

    async def commit_delay(self, delayed: DelayedState) -> StateContext:
        """Commit the step of a delay that is due, and return the context to execute.

        Raises:
            RevisionMismatchError: the state has moved on.
        """
        return await self._store.commit_delay(delayed)

    async def get_state(
        self, id: str | None = None, rev: int | None = None, *, labels: Labels = EMPTY
    ) -> State:
        """Do :class:`GetState`."""
        return await self.do(GetState(id, rev, labels))

    async def get_data(self, ctx: StateContext, alias: str) -> Data:
        """Do :class:`GetData`."""
        return await self.do(GetData(ctx, alias))

    async def get_states(
        self,
        *,
        labels: Labels = EMPTY,
        since_rev: int | None = None,
        since_latest: bool = False,
        since_time: datetime | None = None,
        latest_only: bool = False,
        status: Status | None = None,
        committed_before: datetime | None = None,
        limit: int = 100,
    ) -> Page:
        """Do :class:`GetStates`."""
        return await self.do(
            GetStates(
                labels,
                since_rev,
                since_latest,
                since_time,
                latest_only,
                status,
                committed_before,
                limit,
            )
        )

    async def get_delayed_states(
        self, *, until: datetime | None = None, limit: int = 100
    ) -> DelayedPage:
        """Do :class:`GetDelayedStates`."""
        return await self.do(GetDelayedStates(until, limit))

    async def states(
        self,
        *,
        labels: Labels = EMPTY,
        since_rev: int | None = None,
        since_latest: bool = False,
        since_time: datetime | None = None,
        latest_only: bool = False,
        status: Status | None = None,
        committed_before: datetime | None = None,
    ) -> AsyncIterator[State]:
        """Iterate over all pages of :class:`GetStates`, up to the head."""
        page = await self.get_states(
            labels=labels,
            since_rev=since_rev,
            since_latest=since_latest,
            since_time=since_time,
            latest_only=latest_only,
            status=status,
            committed_before=committed_before,
        )
        while True:
            for state in page.states:
                yield state
            if not page.more:
                return
            page = await self.do(page.next)

    def watch(
        self,
        *,
        labels: Labels = EMPTY,
        since_rev: int | None = None,
        since_latest: bool = False,
        since_time: datetime | None = None,
        status: Status | None = None,
    ) -> Watch:
        """Return a watch: every matching revision, once, in order, from the log and then live.

        The filters are those of :class:`GetStates`.

        Raises:
            InvalidInputError: a bad filter; names it.
        """
        command = GetStates(labels, since_rev, since_latest, since_time, status=status)
        return Watch(self.driver, self._feed, command)

    async def head(self) -> int:
        """Return the highest revision in the store; 0 when it is empty."""
        return await self.driver.head()

    async def compact(self, before_rev: int) -> int:
        """Remove revisions below ``before_rev``, but never the latest one of a state.

        Returns how many were removed. Watchers that are further behind get
        :class:`CompactedError`.
        """
        check_rev("before_rev", before_rev)
        return await self.driver.compact(before_rev)


def _check_seconds(field: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, int | float) or not SHORTEST <= value <= LONGEST:
        raise InvalidInputError(field, f"must be from {SHORTEST} seconds, or None, not {value!r}")


def _check_count(field: str, value: object, *, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise InvalidInputError(field, f"must be a whole number from {least}, not {value!r}")


async def _logged(command: Command[Any], done: Coroutine[Any, Any, Any]) -> Any:
    name = type(command).__name__
    extra = {"command": name, "what": repr(command)}
    try:
        result = await done
    except Exception as error:
        logger.debug("%s failed: %s", name, error, extra=extra)
        raise
    logger.debug("did %s", name, extra=extra)
    return result


def _unique_tokens() -> Callable[[], str]:
    """Return a source of tokens that no other process has: 128 random bits and a counter."""
    # Made of C functions only: this runs once a commit.
    return partial(next, map(f"{uuid.uuid4().hex}-".__add__, map(str, itertools.count(1))))
