"""What an open engine works with: everything between its commands and its driver.

It is made when the engine is entered, so that what is drawn by chance differs between processes.
"""

import asyncio
import itertools
import logging
import uuid
import weakref
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from random import Random
from typing import Any, TypedDict, TypeVar

from flowstate.clock import Clock
from flowstate.commands import (
    CancelTimer,
    Command,
    Commit,
    Delay,
    Execute,
    Forget,
    GetData,
    GetDelayedStates,
    GetState,
    GetStates,
    Labels,
    Noop,
    Retry,
    SetTimer,
    Stack,
    StoreData,
    Unstack,
)
from flowstate.committing import Committer
from flowstate.context import StateContext, take_steps
from flowstate.driver import Driver, Transaction
from flowstate.errors import EngineStoppedError, InvalidCommandError, InvalidInputError
from flowstate.executed import executed_in
from flowstate.executions.failures import Failures
from flowstate.executions.flow_loop import FlowLoop, Limits
from flowstate.executions.heartbeats import Heartbeats
from flowstate.ground.counters import Counters
from flowstate.ground.tasks import shielded, spawn
from flowstate.log.log_tail import tail_of
from flowstate.log.reading import Reader
from flowstate.log.watch import Watch
from flowstate.mailboxes.receiving import Receive
from flowstate.mailboxes.seen_keys import SeenKeys
from flowstate.planning.steps import STEPS, Step, stepped
from flowstate.registry import FlowRegistry
from flowstate.state import State, Status
from flowstate.turns import Backoff, turns_of
from flowstate.validation import frozen

__all__ = ["Filters", "LogFilters", "Runtime"]

R = TypeVar("R")
logger = logging.getLogger("flowstate.engine")

# Seconds of a stop, after what runs was let finish: for what was cancelled to end, and for all
# that is still to be written. They hold for a store that does not answer, too.
CANCEL_GRACE = 2.0
GRACE = 2.0

OnDrafts = Step | SetTimer | CancelTimer | Forget | Stack
"""Commands that by themselves change a working copy, and ask no store."""


class LogFilters(TypedDict, total=False):
    """Which revisions are wanted: all conditions have to hold.

    Attributes:
        id: of this state.
        labels: a mapping, or a list of mappings of which one has to hold.
        since_rev: above this revision.
        since_latest: start at the newest matching revision instead.
        since_time: committed at or after, with a time zone.
        status: only this status.
    """

    id: str | None
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


class Runtime:
    """Does the commands of one open engine, which has the options and is given to each flow."""

    def __init__(
        self,
        engine: Any,
        *,
        rng: Random,
        tokens: Callable[[], str] | None,
        limits: Limits,
        warn_blocked_after: float | None,
    ) -> None:
        driver, flows, clock = engine.driver, engine.flows, engine.clock
        self.loop = asyncio.get_running_loop()
        self.driver: Driver = driver
        self._store_id: str = driver.store_id
        self.flows: FlowRegistry = flows
        self.clock: Clock = clock
        self.counters = Counters()
        self.turns = turns_of(driver.store_id)
        self.backoff = Backoff(clock.sleep, rng)
        self.seen_keys = SeenKeys(driver.get_data)
        self._tail = tail_of(driver)
        self._watches: weakref.WeakValueDictionary[int, Watch] = weakref.WeakValueDictionary()
        self._stopping: Exception | None = None
        self._is_closed = False
        self.reader = Reader(driver)
        executed = executed_in(driver.store_id)
        self.committer = Committer(
            driver,
            flows,
            tokens=tokens or _unique_tokens(),
            monotonic=clock.monotonic,
            tail=self._tail,
            executed=executed,
            turns=self.turns,
            backoff=self.backoff,
        )
        self.heartbeats = Heartbeats(
            driver, clock, engine.name, self._renew, self.committer.is_writing
        )
        self.flow_loop = FlowLoop(
            engine,
            self.do,
            partial(self.committer.commit, is_here=True),
            self.heartbeats,
            failures=Failures(self.committer, flows, rng, clock.monotonic, self.counters),
            executed=executed,
            counters=self.counters,
            limits=limits,
            warn_blocked_after=warn_blocked_after,
        )

    def check_open(self) -> None:
        """Raise if the engine has stopped, for those who go on after they have waited."""
        if self._is_closed:
            raise EngineStoppedError("the engine has stopped")

    def can_execute(self, flow: str) -> bool:
        """Return whether what goes to a flow can be executed here."""
        return self._stopping is None and self.flows.can_run(flow)

    async def do(self, command: Command[R]) -> R:
        """Do one command, and return its result."""
        self.check_open()
        result: R
        if not logger.isEnabledFor(logging.DEBUG):
            # As mostly: flows go from one to the next by them.
            result = self._step(command) if type(command) in STEPS else await self._do(command)
            return result
        name = type(command).__name__
        extra = {"command": name, "what": _described(command)}
        try:
            result = await self._do(command)
        except Exception as error:
            logger.debug("%s failed: %s", name, error, extra=extra)
            raise
        logger.debug("did %s", name, extra=extra)
        return result

    def _step(self, command: Any) -> Any:
        """Take a step, if all is as usual without a plan, which would double its cost."""
        ctx = command.ctx
        if (
            type(ctx) is StateContext
            and (ctx._store_id or self._store_id) == self._store_id
            and (ctx.committed is ctx._known or frozen(ctx.committed) is ctx.committed)
        ):
            state = stepped(frozen(ctx.current), command, self.flows, ctx)
            take_steps(ctx, state, (state.transition,))
        else:
            plan = self.committer.plan()
            plan.step(command)
            plan.apply()

    async def _do(self, command: Command[Any]) -> Any:  # noqa: C901, PLR0912 - one place
        result: Any = None
        plan = self.committer.plan()
        match command:
            case Commit():
                await self.committer.commit(command)
            case Receive():
                await self.committer.commit(Commit(command))
            case _ if isinstance(command, OnDrafts):
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
                await self.flow_loop.submit(ctx)
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

    async def _renew(self, state: State) -> State:
        """Commit a state as it is, and return its new revision."""
        ctx = StateContext(state)
        await self.committer.commit(Commit(Retry(ctx)))
        return ctx.committed

    def watch(self, command: GetStates) -> Watch:
        """Return a watch that ends with the engine."""
        for field in ("latest_only", "committed_before"):
            if getattr(command, field):
                raise InvalidInputError(field, "is for pages, not for watches")
        watch = Watch(self.driver, self._tail, command, lambda: self._stopping)
        self._watches[id(watch)] = watch
        return watch

    async def stop(self, seconds: float) -> None:
        """Take no more, wait for what runs, and cancel and hand over the rest.

        Args:
            seconds: real ones, for what runs to end.
        """
        # Flows may open watches from now on, too, and must not wait in them.
        self._stopping = stopping = EngineStoppedError("the engine is stopping")
        watches = spawn(
            self._tail.stop(list(self._watches.values()), stopping), "flowstate watches"
        )
        try:
            await self.flow_loop.stop(self.loop.time() + seconds, CANCEL_GRACE)
        finally:
            await shielded(self._finish(watches, asyncio.current_task()))

    async def _finish(self, watches: asyncio.Task[None], own: asyncio.Task[Any] | None) -> None:
        ends_at = self.loop.time() + GRACE
        await self.heartbeats.close(GRACE, own)
        self._is_closed = True
        if not await self.committer.drain(ends_at - self.loop.time()):
            logger.warning("the outcome of commits that are on their way is unknown")
        await asyncio.wait([watches], timeout=max(0.0, ends_at - self.loop.time()))


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
