"""What an engine asks of its driver: checked commands in, contexts brought up to date."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from flowstate.commands import (
    Command,
    Commit,
    Delay,
    DelayedPage,
    End,
    GetData,
    GetDelayedStates,
    GetState,
    GetStates,
    Page,
    Pause,
    Resume,
    Retry,
    StoreData,
    Transit,
    Unstack,
)
from flowstate.commit import Plan, Step, changed_writes, stepped
from flowstate.context import StateContext
from flowstate.data import Data, checksum_of
from flowstate.driver import DelayedState, Driver, StateQuery, Transaction, Verdict, Writes
from flowstate.errors import (
    CodecError,
    DataNotFoundError,
    InvalidCommandError,
    InvalidInputError,
    RevisionMismatchError,
    StateNotFoundError,
)
from flowstate.flow import FlowRegistry
from flowstate.group_commit import GroupCommit
from flowstate.limits import check_id, check_rev
from flowstate.query import delay_query, delayed_page, label_terms, page, state_query
from flowstate.state import State

__all__ = ["Store"]

STEPS_ALONE = frozenset({Transit, Pause, Resume, Retry, End})


class Store:
    """Plans commits and reads, and does them against one open driver."""

    def __init__(
        self,
        driver: Driver,
        flows: FlowRegistry,
        tokens: Callable[[], str],
        monotonic: Callable[[], float],
        tell: Callable[[Sequence[Verdict]], None],
    ) -> None:
        self._driver = driver
        self._flows = flows
        self._tokens = tokens
        self._monotonic = monotonic
        self._joined: WeakKeyDictionary[Transaction, set[StateContext]] = WeakKeyDictionary()
        self._group = GroupCommit(driver, tell) if driver.batch_limit > 1 else None

    def plan(self) -> Plan:
        """Return an empty plan."""
        return Plan(self._flows, self._driver.store_id, self._monotonic())

    async def commit(self, commit: Commit) -> None:
        """Do a commit.

        One step of one context is by far the most frequent commit. It goes without a plan,
        which would double its cost.
        """
        commands = commit._commands
        if len(commands) != 1 or type(commands[0]) not in STEPS_ALONE:
            await self._commit_plan(commands)
            return
        command: Step = commands[0]  # type: ignore[assignment]
        ctx = command.ctx
        store_id = self._driver.store_id
        if type(ctx) is not StateContext or (ctx._store_id or store_id) != store_id:
            await self._commit_plan(commands)
            return
        state = stepped(ctx.current, command, self._flows)
        if ctx.current is ctx.committed and ctx._store_id:
            # What the store gave needs no second check.
            writes = Writes(self._tokens(), (state,))
        else:
            writes = changed_writes(self._tokens(), state, ctx)
        if self._group is None:
            sent_at = self._monotonic()
            (verdict,) = await self._driver.commit((writes,))
            _settle_step(ctx, store_id, sent_at, verdict)
        else:
            settle = partial(_settle_step, ctx, store_id, self._monotonic())
            await self._group.commit(writes, settle)

    async def commit_in(self, tx: Transaction, commit: Commit) -> None:
        """Let a commit be done when a transaction ends."""
        if tx.store_id != self._driver.store_id:
            raise InvalidInputError("tx", "belongs to another store")
        plan = await self._planned(commit._commands)
        joined = self._joined.setdefault(tx, set())
        if not joined.isdisjoint(plan.contexts):
            # Drafted from what an earlier commit of the transaction is about to change.
            raise InvalidCommandError("ctx", "is part of this transaction already")
        tx.add(plan.writes(self._tokens()), plan.settle)
        joined |= plan.contexts

    async def _commit_plan(self, commands: Sequence[Command[Any]]) -> None:
        plan = await self._planned(commands)
        await self.write(plan.writes(self._tokens()), plan.settle)

    async def _planned(self, commands: Sequence[Command[Any]]) -> Plan:
        plan = self.plan()
        for command in commands:
            if isinstance(command, GetState | GetData | Unstack):
                await self.read_into(plan, command)
            else:
                plan.add(command)
        return plan

    async def write(self, writes: Writes, settle: Callable[[Verdict], None]) -> None:
        """Make ``writes`` durable, and hand the verdict over."""
        if self._group is None:
            (verdict,) = await self._driver.commit((writes,))
            settle(verdict)
        else:
            await self._group.commit(writes, settle)

    async def drain(self) -> None:
        """Wait until nothing is on its way to the driver."""
        if self._group is not None:
            await self._group.drain()

    async def commit_delay(self, delayed: DelayedState) -> StateContext:
        """Commit the step of a delay that is due."""
        plan = self.plan()
        ctx = plan.fire(delayed)
        await self.write(plan.writes(self._tokens()), plan.settle)
        return ctx

    async def delay(self, command: Delay) -> None:
        """Store a delay by itself."""
        plan = self.plan()
        await self.write(plan.delay_writes(command, self._tokens()), plan.settle)

    async def store_data(self, command: StoreData) -> None:
        """Store data by itself, unless the state refers to the same content already."""
        plan = self.plan()
        data = plan.store_data(command.ctx, command.alias)
        if data is None:
            plan.apply()
        else:
            await self.write(Writes(self._tokens(), data=(data,)), plan.settle)

    async def read_into(self, plan: Plan, command: GetState | GetData | Unstack) -> None:
        """Do the part of a plan for which the store has to be asked."""
        match command:
            case GetState():
                await self.get_state(command)
            case GetData():
                await self.get_data(plan, command)
            case Unstack():
                await self.unstack(plan, command)

    async def get_data(self, plan: Plan, command: GetData) -> Data:
        """Read data onto the draft of its context."""
        ref, data = plan.data(command.ctx, command.alias)
        if data is None:
            data = await self._driver.get_data(ref.checksum)
        if data is None:
            raise DataNotFoundError(f"data {command.alias!r} is no longer stored")
        if checksum_of(data) != ref.checksum:
            raise CodecError(f"data {command.alias!r} is damaged: its checksum differs")
        data = replace(data, rev=ref.rev, checksum=ref.checksum)
        plan.draft(command.ctx).set_data(command.alias, data)
        return data

    async def unstack(self, plan: Plan, command: Unstack) -> None:
        """Move a stacked context into its draft.

        A context that was stacked by the same commit that gave it its revision could not know
        that revision. The latest one is it, if it has the same content.
        """
        draft, stacked_with_commit = plan.unstack(command)
        if stacked_with_commit:
            stored = await self._driver.get_state(draft.current.id)
            if stored is None or _content(stored) != _content(draft.current):
                raise RevisionMismatchError([draft.current.id])
            draft.current = draft.committed = stored
            draft.transitions = ()

    async def get_state(self, command: GetState) -> State:
        """Read one state."""
        found = await self._find(command)
        if found is None:
            raise StateNotFoundError(f"no state for {command!r}")
        return found

    async def _find(self, command: GetState) -> State | None:
        if command.id is None:
            labels = label_terms(command.labels)
            if not labels or command.rev is not None:
                raise InvalidInputError("id", "is needed, or labels without a revision")
            query = StateQuery(labels=labels, since_latest=True, limit=1)
            found = await self._driver.get_states(query)
            return found.states[0] if found.states else None
        check_id("id", command.id)
        if command.labels:
            raise InvalidInputError("labels", "cannot be combined with an id")
        if command.rev is not None:
            check_rev("rev", command.rev)
        return await self._driver.get_state(command.id, command.rev)

    async def get_states(self, command: GetStates) -> Page:
        """Read a page of revisions."""
        return page(command, await self._driver.get_states(state_query(command)))

    async def get_delayed(self, command: GetDelayedStates) -> DelayedPage:
        """Read a page of delays."""
        return delayed_page(command, await self._driver.get_delayed(delay_query(command)))


def _content(state: State) -> State:
    return replace(state, rev=0, committed_at=None, delayed_until=None)


def _settle_step(ctx: StateContext, store_id: str, sent_at: float, verdict: Verdict) -> None:
    if type(verdict) is not tuple:
        raise verdict  # type: ignore[misc]
    before = ctx.committed
    ctx.current = ctx.committed = state = verdict[0]
    ctx.transitions = ()
    ctx._store_id = store_id
    ctx._sent_at = sent_at
    # Most commits leave the rules as they are, and the execution goes on with its next step.
    if ctx._execution is not None and (
        ctx._execution.seconds is None
        or state.annotations is not before.annotations
        or before.transition.annotations
    ):
        ctx._execution.committed(sent_at)
