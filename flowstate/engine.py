"""The engine: does commands, and moves states from flow to flow."""

import asyncio
import logging
import os
import socket
import uuid
import weakref
from asyncio import _get_running_loop
from collections.abc import Callable, Coroutine
from logging import DEBUG
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import attrs

from flowstate.clock import Clock, SystemClock
from flowstate.commands import Command, Commit
from flowstate.committing import OTHER_LOOP
from flowstate.context import StateContext
from flowstate.driver import Claim, DelayedState, Driver, Drop, Transaction
from flowstate.errors import EngineStoppedError, InvalidInputError
from flowstate.executions.flow_loop import Limits
from flowstate.executions.heartbeats import Heartbeats
from flowstate.executions.pool import Slot
from flowstate.ground.counters import EngineStats
from flowstate.ground.limits import check_id, check_rev
from flowstate.ground.options import count, has, optional, seconds
from flowstate.operations.changing import Changing
from flowstate.recovery_rules import LONGEST, SHORTEST
from flowstate.registry import FlowRegistry
from flowstate.runtime import Runtime
from flowstate.state import State

__all__ = ["Engine", "Flow"]

R = TypeVar("R")
logger = logging.getLogger("flowstate.engine")

NOT_OPEN = "the engine is not open"


def _is_name(_: object, __: object, name: object) -> None:
    check_id("name", name)


def _or_system_clock(clock: Clock | None) -> Clock:
    return SystemClock() if clock is None else clock


# state     means                                         left by
# new       made, not entered                             ``async with`` → open
# open      takes everything                              end of block → stopping; fork → forked
# stopping  refuses executions; what runs may commit      all of it ended → stopped
# stopped   refuses everything; so does "forked", the child's copy of an open one
@attrs.define(eq=False, repr=False)
class Engine(Changing):
    """Does commands against one driver, and executes flows.

    Use it as ``async with``: that opens the driver (or counts as one more user of it), and at
    the end stops intake, lets what runs finish, cancels the rest, and closes. What was cancelled,
    or never began, is handed over to other engines. Watches of an engine that stops raise
    :class:`EngineStoppedError`. An open engine belongs to its event loop: calls from another one
    are refused. After a fork it goes on in the parent only, and refuses in the child.

    Args:
        driver: where states are stored.
        flows: what states can be sent to.
        clock: for everything but the time that the store stamps.
        max_executions: how many background executions run at once.
        max_pending: how many more may wait for their turn.
        blocking_threads: how many ``blocking=True`` flows, and functions that flows
            have called in threads, run at once.
        shutdown_timeout: seconds that a stop waits for running flows before it cancels them. A
            thread cannot be cancelled; the stop does not wait for it any longer.
        tokens: makes a token for each commit; unique among all engines of a store.
        name: tells this engine from all others, for people; made of host, process and a random
            part by default.
        warn_blocked_after: seconds for which a flow may block the event loop before a warning
            names it, or ``None``. No heartbeat can be sent meanwhile.
        rng: draws pauses; by default it differs from engine to engine.

    Raises:
        InvalidInputError: a bad option; names it.
    """

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
    _rng: Random | None = attrs.field(
        default=None, kw_only=True, validator=optional(has("a random.Random", "uniform"))
    )
    _drawn_name: str | None = attrs.field(init=False, default=None)
    _runtime: Runtime | None = attrs.field(init=False, default=None)  # While it is open.
    _refusal: str = attrs.field(init=False, default=NOT_OPEN)

    def __attrs_post_init__(self) -> None:
        _engines.add(self)

    @property
    def name(self) -> str:
        """What tells this engine from all others, those of forked processes included."""
        if (name := self._name or self._drawn_name) is None:
            name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
            self._drawn_name = name
        return name

    @property
    def is_open(self) -> bool:
        """Whether it takes commands, in this process."""
        return self._runtime is not None

    @property
    def heartbeats(self) -> Heartbeats:
        """What keeps executions and leases alive; raises ``EngineStoppedError`` when not open."""
        return self._open().heartbeats

    async def __aenter__(self) -> Self:
        if self._refusal != NOT_OPEN:
            raise EngineStoppedError("an engine can be entered once; make a new one")
        self._refusal = "the engine has stopped"  # At once: another task may try to enter it.
        try:
            await self.clock.sleep(0.0)  # A fake clock refuses event loops that it cannot serve.
            await self.driver.__aenter__()
        except BaseException:
            self._refusal = NOT_OPEN
            raise
        self._runtime = Runtime(
            self,
            # Drawn here: processes that were forked after the engine was made must differ.
            rng=self._rng or Random(),  # noqa: S311 - no secret
            tokens=self._tokens,
            limits=Limits(self._max_executions, self._max_pending, self._blocking_threads),
            warn_blocked_after=self._warn_blocked_after,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._runtime is None:
            return  # In a forked child. What is open is the parent's.
        try:
            await self._runtime.stop(self._shutdown_timeout)
        finally:
            self._runtime = None
            await self.driver.__aexit__(exc_type, exc, traceback)

    def _open(self) -> Runtime:
        if self._runtime is None:
            raise EngineStoppedError(self._refusal)
        return self._runtime

    def _here(self) -> Runtime:
        runtime = self._runtime or self._open()
        if _get_running_loop() is not runtime.loop:
            raise InvalidInputError("engine", OTHER_LOOP)
        return runtime

    def check_open(self) -> None:
        """Raise unless it is open, in this process and this event loop.

        Raises:
            EngineStoppedError: it is not open, or was opened before a fork.
            InvalidInputError: it is open in another event loop.
        """
        self._here()

    def _forked(self) -> None:
        self._drawn_name = None
        if self._runtime is not None:
            self._runtime = None
            self._refusal = "the engine was opened by the parent process, before a fork"

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
        """Do commands in order; return the result of a single one, and ``None`` for several.

        A command that fails leaves every context as it was, and the rest is not done.

        Args:
            commands: what to do.
            tx: makes commits part of a transaction of your own, if the driver can do that:
                they are checked now, and written, judged and settled when it ends.

        Raises:
            InvalidInputError: a command or a value in it is refused; nothing was written. Or
                this is another event loop than that of the engine.
            RevisionMismatchError: a commit lost a race; nothing of it was written.
            CommitUnknownError: it could not be found out whether a commit happened.
            DriverError: the store failed; nothing was written.
            EngineStoppedError: the engine is not open.
        """
        runtime = self._runtime or self._open()
        # By far the most frequent command; what is not as usual takes the longer way.
        if (
            len(commands) == 1
            and type(commands[0]) is Commit
            and tx is None
            and not logger.isEnabledFor(DEBUG)
        ):
            return runtime.committer.commit(commands[0])
        return self._do_each(commands, tx)

    async def _do_each(self, commands: tuple[Command[Any], ...], tx: Transaction | None) -> Any:
        runtime = self._here()
        if tx is not None:
            return await runtime.do_in(tx, commands)
        result: Any = None
        for command in commands:
            result = await runtime.do(command)
        return result if len(commands) == 1 else None

    def execute(self, ctx: StateContext) -> Coroutine[Any, Any, None]:
        """Run ``ctx`` through flow after flow, until it ends, pauses, is delayed or set aside.

        Losing a race with the command that a flow returned ends it quietly. What a flow raises
        is dealt with as its policy says, and then this returns. Without a policy, and of a state
        that was never committed, it is raised here, and leaves the state as it was committed last.

        Raises:
            InvalidCommandError: the state is not active.
            UnknownFlowError: the registry does not have its flow.
            ExecutionLostError: it was stopped, because no heartbeat got through in time.
            EngineStoppedError: the engine is not open, or is stopping.
        """
        return (self._runtime or self._open()).flow_loop.execute(ctx)

    async def begin(
        self, ctx: StateContext, slot: Slot | None = None
    ) -> asyncio.Future[BaseException | None]:
        """Do :class:`Execute`, and return a future of what went wrong, or of ``None``.

        Args:
            ctx: a copy of it is executed.
            slot: room that :meth:`reserve` has kept; ``None``: it waits for its turn.

        Raises:
            InvalidCommandError: the state is not active.
            UnknownFlowError: the registry does not have its flow.
            EngineOverloadedError: no more may wait, and the caller is an execution.
            EngineStoppedError: the engine is not open, or is stopping.
        """
        return await self._here().flow_loop.submit(ctx, slot)

    def stats(self) -> EngineStats:
        """Return what was counted since the engine was opened.

        Raises:
            EngineStoppedError: the engine is not open.
        """
        return self._open().counters.stats()

    def reserve(self) -> Slot | None:
        """Keep room for an execution that is about to start; ``None`` when none is free.

        Raises:
            EngineStoppedError: the engine is not open, or is stopping.
        """
        return self._open().flow_loop.pool.reserve()

    def release(self, slot: Slot) -> None:
        """Give back the room of ``slot``; nothing happens if an execution has started in it."""
        if self._runtime is not None:
            self._runtime.flow_loop.pool.release(slot)

    @property
    def waiting(self) -> int:
        """How many background executions wait for their turn."""
        return self._runtime.flow_loop.pool.pending if self._runtime is not None else 0

    async def call_in_thread(self, name: str, call: Callable[[], R]) -> R:
        """Return what a function returns that blocks; a thread of the engine calls it.

        Of these there are ``blocking_threads``, which blocking flows have as well. A call that is
        cancelled goes on in its thread, but nothing waits for it.

        Args:
            name: of the call, for logs.
            call: has the context variables of the caller.

        Raises:
            EngineStoppedError: the engine is not open.
        """
        result: R = await self._here().flow_loop.call_in_thread(name, call)
        return result

    async def idle(self) -> None:
        """Return when no background execution runs or waits any more."""
        await self._here().flow_loop.pool.idle()

    def can_execute(self, flow: str) -> bool:
        """Return whether the registry has ``flow`` and can run it."""
        return self.flows.can_run(flow)

    def draft_delay(self, delayed: DelayedState) -> StateContext:
        """Return a context that has taken the step of ``delayed``, without committing it."""
        plan = self._open().committer.plan()
        ctx = plan.fire(delayed)
        plan.apply()
        return ctx

    async def execute_delay(self, ctx: StateContext) -> bool:
        """Do :meth:`execute`, and return whether it lost no race.

        If it lost one, the delay that gave the context has come to nothing, and fires again.
        """
        return await self._here().flow_loop.execute_delay(ctx)

    async def commit_delay(self, delayed: DelayedState) -> StateContext:
        """Commit the step of a delay or timer that is due, and return the context to execute.

        Raises:
            RevisionMismatchError: the state has moved on.
        """
        return await self._here().committer.commit_delay(delayed)

    async def claim(self, claim: Claim) -> None:
        """Claim a delay, or renew the claim.

        Raises:
            ClaimLostError: it is gone, not due, or claimed by another holder.
        """
        await self._here().committer.claim(claim)

    async def drop(self, drop: Drop, state: State | None = None) -> None:
        """Remove a delay or timer that its holder has claimed, or that was never claimed.

        Args:
            drop: says which.
            state: only while this is the latest revision of it.

        Raises:
            RevisionMismatchError: the state has moved on.
        """
        await self._here().committer.drop(drop, state)

    async def compact(self, before_rev: int) -> int:
        """Remove revisions below ``before_rev``, but never the latest one of a state.

        Returns how many were removed. Watches that are further behind get
        :class:`CompactedError`.

        Raises:
            InvalidInputError: not a revision.
        """
        check_rev("before_rev", before_rev)
        return await self._here().driver.compact(before_rev)


Flow = Callable[[StateContext, Engine], Coroutine[Any, Any, Command[Any]] | Command[Any]]
"""A function that moves a state on: it returns the command to be done next."""

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _forked() -> None:
    for engine in list(_engines):
        engine._forked()


if hasattr(os, "register_at_fork"):  # Not on Windows.
    os.register_at_fork(after_in_child=_forked)
