"""From commands to durable writes: plan, write, settle."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from threading import get_ident
from typing import Any
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from flowstate.codec import data_size, encode_body
from flowstate.commands import (
    Command,
    Commit,
    Delay,
    GetData,
    GetState,
    Put,
    StoreData,
    Transit,
    Unstack,
)
from flowstate.context import StateContext, check_context, next_alone, refusal, settle
from flowstate.data import Data, checksum_of, newly_referred
from flowstate.driver import Claim, DelayedState, Driver, Drop, Transaction, Verdict, Writes
from flowstate.effect_keys import alone
from flowstate.errors import (
    CodecError,
    CommitUnknownError,
    DataNotFoundError,
    EngineStoppedError,
    InvalidCommandError,
    InvalidInputError,
    RevisionMismatchError,
)
from flowstate.executed import Executed
from flowstate.ground.batching import Batcher
from flowstate.ground.limits import check_id, text_bytes
from flowstate.log.log_tail import LogTail
from flowstate.log.reading import Reader
from flowstate.mailboxes.mailbox import mailbox_id
from flowstate.mailboxes.receiving import Receive, forget_mailbox, mailboxes_of, receive
from flowstate.planning.plan import PLANNED_AT_ONCE, Plan
from flowstate.planning.puts import Checks, check_beside, put_alone, settle_put
from flowstate.planning.steps import STEPS, Step, stepped
from flowstate.registry import FlowRegistry
from flowstate.state import State
from flowstate.turns import Backoff, Turns
from flowstate.validation import checked, frozen

__all__ = ["Committer", "OTHER_LOOP"]

ALONE = STEPS | {Put}  # What may go without a plan.
MOST_LOST = 1_000  # Races with mailboxes; a context of one that is stale loses all of them.
OTHER_LOOP = "is open in another event loop; see asyncio.run_coroutine_threadsafe"


class Committer:
    """Plans commits, gives them to an open driver in batches, and settles their contexts.

    The ``tail`` is given the revisions of each batch, in the order of the log; ``executed`` tells
    executions that their states have moved on. Those who receive messages take ``turns``.
    """

    def __init__(
        self,
        driver: Driver,
        flows: FlowRegistry,
        *,
        tokens: Callable[[], str],
        monotonic: Callable[[], float],
        tail: LogTail,
        executed: Executed,
        turns: Turns,
        backoff: Backoff,
    ) -> None:
        self._driver = driver
        self._store_id = driver.store_id
        self._flows = flows
        self._tokens = tokens
        self._monotonic = monotonic
        self._tail = tail
        self._executed = executed
        self._turns = turns
        self._backoff = backoff
        self._executions = executed.by_id
        self._thread = get_ident()
        self._loop = asyncio.get_running_loop()
        self._encodes = not driver.stores_objects
        self._joined: WeakKeyDictionary[Transaction, list[StateContext]] = WeakKeyDictionary()
        self._batcher: Batcher[Writes, Verdict] | None = None
        if driver.max_batch_size > 1:
            self._batcher = Batcher(
                driver.commit,
                limit=driver.max_batch_size,
                max_bytes=driver.max_batch_bytes,
                size=attrgetter("size"),
                concurrency=driver.max_concurrent_batches,
                unknown=lambda writes: CommitUnknownError(writes.token),
                after=self._take,
                name="flowstate commits",
            )

    def plan(self) -> Plan:
        """Return an empty plan."""
        return Plan(self._flows, self._store_id, self._monotonic(), self._encodes)

    async def commit(  # noqa: C901, PLR0912 - a call for each branch would slow it down
        self, commit: Commit, *, is_here: bool = False
    ) -> None:
        """Do a commit.

        One step or one ``Put`` of one context, perhaps with a ``Check`` of another one, is by far
        the most frequent one. It goes without a plan, which would double its cost.

        Args:
            commit: to be done.
            is_here: this is known to be the event loop of the engine.
        """
        # To ask which event loop runs costs a call of the system; a thread runs one at a time.
        if not is_here and (get_ident() != self._thread or not self._loop.is_running()):
            raise InvalidInputError("engine", OTHER_LOOP)
        commands, store_id = commit._commands, self._store_id
        step: Any
        checks: Checks = ()
        if (
            (len(commands) != 1 and not (checks := check_beside(commands, store_id)))
            or (kind := type(step := commands[0])) not in ALONE
            or type(ctx := step.ctx) is not StateContext
            or (ctx._store_id or store_id) != store_id
        ):
            await self._commit_plan(commands)
            return
        current = ctx.current
        needs: tuple[str, ...] = ()
        settle_it = settle
        if kind is Put:
            made = put_alone(ctx) if step.keep is False else None
            if made is None:
                await self._commit_plan(commands)
                return
            put, settle_it = made, partial(settle_put, made.transition)
        elif current is ctx._known is ctx.committed and not current.timers:
            put = stepped(current, step, self._flows, ctx)  # What the store gave needs no check.
        else:
            put, needs = _checked_step(ctx, step, self._flows)
            if put.timers or ctx.committed.timers:
                await self._commit_plan(commands)
                return
        if self._encodes:
            body = encode_body(put)
            size = len(body) if body.isascii() else text_bytes(body)
            writes = Writes(self._tokens(), (put,), (body,), checks, needs=needs, size=size)
        else:
            writes = Writes(self._tokens(), (put,), (), checks, needs=needs)
        sent_at = self._monotonic()
        if self._batcher is None:
            verdicts = await self._driver.commit((writes,))
            try:
                (verdict,) = verdicts
            except (TypeError, ValueError):
                raise refusal(verdicts) from None
            settle_it(ctx, store_id, sent_at, verdict)
            if self._tail.watches:
                self._tail.take(verdict)  # type: ignore[arg-type]
            if self._executions and ctx._on_commit is None:  # Else this is the execution itself.
                self._executed.tell(ctx.committed)
        else:
            pending = self._batcher.put(writes, partial(settle_it, ctx, store_id, sent_at))
            try:
                await pending.done
            except asyncio.CancelledError:
                await self._batcher.withdraw(pending)
                raise

    async def _commit_plan(self, commands: Sequence[Command[Any]]) -> None:
        is_plain = PLANNED_AT_ONCE.issuperset(map(type, commands))  # As mostly.
        if not is_plain and (mailboxes := mailboxes_of(commands)):
            await self._commit_with(mailboxes, commands)
        else:
            await self.write(await self._planned(commands))

    async def _commit_with(self, mailboxes: list[str], commands: Sequence[Command[Any]]) -> None:
        """Do a commit that depends on mailboxes; plan it again if nothing else has changed."""
        async with contextlib.AsyncExitStack() as turns:
            for id in mailboxes:  # In order: two that wait for each other would never end.
                line = await turns.enter_async_context(self._turns.take(id))
                line.state = None
            for lost in itertools.count():
                plan = await self._planned(commands)
                try:
                    await self.write(plan)
                except RevisionMismatchError as error:
                    # Unstacked by this commit, a state was not known by its id before.
                    unstacked = [mailbox_id(draft.current.id) for draft, _ in plan.received]
                    if lost == MOST_LOST or not {*mailboxes, *unstacked}.issuperset(error.ids):
                        raise
                else:
                    return
                await self._backoff.pause(lost)

    async def _planned(self, commands: Sequence[Command[Any]]) -> Plan:
        plan = self.plan()
        for command in commands:
            if type(command) in STEPS:
                plan.step(command)  # type: ignore[arg-type]
            elif type(command) in PLANNED_AT_ONCE:
                plan.add(command)
            else:
                await self._add(plan, command)
        if plan.forgotten:  # Perhaps by a command outside of the commit.
            await self._forget_mailboxes(plan)
        return plan

    async def _forget_mailboxes(self, plan: Plan) -> None:
        """Let the mailboxes of states be forgotten with them, so that none finds old messages."""
        ids = [mailbox_id(draft.current.id) for draft in plan.forgotten]
        for id, found in zip(ids, await self._driver.get_liveness(ids), strict=True):
            forget_mailbox(plan, id, 0 if found is None else found.rev)

    async def write(self, plan: Plan) -> None:
        """Make what is planned durable, and change the contexts."""
        await self._write(plan.writes(self._tokens()), plan.settle)

    async def _add(self, plan: Plan, command: Command[Any]) -> None:
        if not issubclass(type(command), Command):
            name = type(command).__name__
            raise InvalidCommandError("commit", f"cannot contain {name}")
        match command:
            case Unstack():
                await self.unstack(plan, command)
            case GetData():
                await self.get_data(plan, command)
            case GetState():
                await Reader(self._driver).get_state(command)
            case Receive(ctx):
                id = check_id("state.id", plan.draft(ctx).current.id)
                receive(plan, command, await self._driver.get_state(mailbox_id(id)))
            case _:
                plan.add(command)

    async def _write(self, writes: Writes, settle: Callable[[Verdict], None]) -> None:
        """Make ``writes`` durable, and hand the verdict over."""
        if self._batcher is not None:
            await self._batcher.submit(writes, settle)
        else:
            verdicts = await self._driver.commit((writes,))
            try:
                (verdict,) = verdicts
            except (TypeError, ValueError):
                raise refusal(verdicts) from None
            settle(verdict)
            self._take(verdicts)

    async def commit_from(
        self, ctx: StateContext, state: State, taken: int, commands: Sequence[Command[Any]]
    ) -> None:
        """Do a commit that leaves out what ``ctx`` has become, and goes on from ``state`` instead.

        Args:
            ctx: becomes what is committed.
            state: of the same revision.
            taken: how many steps led from that revision to ``state``.
            commands: of the commit.
        """
        plan = self.plan()
        plan.draft(ctx).replace(state, ctx.committed, taken=taken)
        for command in commands:
            plan.add(command)
        await self.write(plan)

    def is_writing(self, id: str) -> bool:
        """Return whether a commit of a state is on its way from here."""
        writes = self._batcher.on_their_way() if self._batcher is not None else ()
        joined = [ctx for contexts in self._joined.values() for ctx in contexts]
        return any(put.id == id for each in writes for put in each.puts) or any(
            ctx.current.id == id for ctx in joined
        )

    def _take(self, verdicts: Sequence[Verdict]) -> None:
        """Hand over the revisions of a batch."""
        if self._tail.watches or self._executions:
            told = [state for states in verdicts if type(states) is tuple for state in states]
            if self._tail.watches:
                self._tail.take(told)
            for state in told:
                if state.id in self._executions:
                    self._executed.tell(state)

    async def commit_in(self, tx: Transaction, commit: Commit) -> None:
        """Let a commit be done when a transaction ends."""
        if getattr(tx, "store_id", None) != self._store_id:
            raise InvalidInputError("tx", "is no transaction of this store")
        plan = await self._planned(commit._commands)
        joined = self._joined.setdefault(tx, [])
        if {*map(id, joined)} & {*map(id, plan.contexts)}:
            # Drafted from what an earlier commit of the transaction is about to change.
            raise InvalidCommandError("ctx", "is part of this transaction already")
        tx.add(plan.writes(self._tokens()), partial(self._settle_joined, joined, plan))
        joined += plan.contexts

    def _settle_joined(self, joined: list[StateContext], plan: Plan, verdict: Verdict) -> None:
        for ctx in plan.contexts:
            joined.remove(ctx)
        plan.settle(verdict)
        for ctx in plan.contexts if self._executions else ():
            self._executed.tell(ctx.committed)

    async def delay(self, command: Delay) -> None:
        """Store a delay by itself."""
        plan = self.plan()
        check_context(command.ctx)
        ctx, place = command.ctx, next_alone(command.ctx)
        await self._write(plan.delay_writes(command, alone(self._tokens(), place[1])), plan.settle)
        ctx._alone = place

    async def store_data(self, command: StoreData) -> None:
        """Store data by itself, unless the state refers to the same content already."""
        plan = self.plan()
        data = plan.store_data(command.ctx, command.alias)
        if data is None:
            plan.apply()
        else:
            writes = Writes(self._tokens(), data=(data,), size=data_size(data))
            await self._write(writes, plan.settle)

    async def commit_delay(self, delayed: DelayedState) -> StateContext:
        """Commit the step of a delay or timer that is due; return the context to execute."""
        plan = self.plan()
        ctx = plan.fire(delayed)
        await self.write(plan)
        return ctx

    async def claim(self, claim: Claim) -> None:
        """Reserve a delay."""
        await self._write(Writes(self._tokens(), claims=(claim,)), self.plan().settle)

    async def drop(self, drop: Drop, state: State | None = None) -> None:
        """Remove a delay or timer; of a state, only while that is its latest revision."""
        checks = () if state is None else ((state.id, state.rev),)
        await self._write(Writes(self._tokens(), checks=checks, drops=(drop,)), self.plan().settle)

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
            draft.replace(stored, stored)

    async def drain(self, seconds: float) -> bool:
        """Take no more commits; return whether all on their way had their verdicts in time.

        The others are told: ``EngineStoppedError`` if they were never given to the driver, else
        ``CommitUnknownError``.
        """
        if self._batcher is None:
            return True
        return await self._batcher.close(EngineStoppedError("the engine has stopped"), seconds)


def _checked_step(
    ctx: StateContext, step: Step, flows: FlowRegistry
) -> tuple[State, tuple[str, ...]]:
    """Return the state to put, and the checksums of data that it newly refers to."""
    current, known = ctx.current, ctx.committed
    is_transit = type(step) is Transit
    if not is_transit or type(current) is not State:
        current, known = frozen(current), frozen(known)  # Other steps look into them.
    put = stepped(current, step, flows, ctx)
    own = put.transition if is_transit else None
    is_frozen, is_known = not is_transit or current is ctx._frozen, known is ctx._known
    put = checked(put, known, own, is_frozen=is_frozen, is_known=is_known)
    return put, tuple(newly_referred(put.data, frozen(known).data)) if put.data else ()


def _content(state: State) -> State:
    return replace(state, rev=0, committed_at=None, delayed_until=None)
