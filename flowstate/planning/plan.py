"""Decide purely: what commands change, what a commit writes, what its verdict means.

A :class:`Plan` collects the commands of one ``Commit`` (or a single command outside one) on
drafts, and leaves the contexts alone until :meth:`Plan.settle` or :meth:`Plan.apply`. A command
that is refused, or a commit that fails, therefore leaves every context as it was. All that a
commit writes is checked and encoded here, before it meets other commits in a batch.
"""

from collections.abc import Sequence
from typing import Any

import attrs
from msgspec import Raw
from msgspec.structs import replace

from flowstate import commands
from flowstate.codec import (
    ABSENT,
    commit_size,
    decode_context,
    encode_body,
    encode_context,
    encode_state,
)
from flowstate.commands import CancelTimer, Command, Delay, SetTimer, Unstack
from flowstate.context import StateContext, check_context, refusal
from flowstate.data import Data, DataRef, checked_data, checksum_of, newly_referred
from flowstate.driver import DelayedState, NewDelay, Verdict, Writes
from flowstate.effect_keys import origin_before
from flowstate.errors import DataNotFoundError, InvalidCommandError, InvalidInputError
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.ground.limits import (
    MAX_CHECKS_PER_COMMIT,
    MAX_DATA_PER_COMMIT,
    MAX_DELAYS_PER_COMMIT,
    MAX_ID_BYTES,
    MAX_STATES_PER_COMMIT,
    MAX_TIMERS,
    check_id,
    check_number,
    check_rev,
    check_text,
)
from flowstate.ground.options import check_flag
from flowstate.planning.delays import new_delay, new_timer, passed_on, placed, timer_writes
from flowstate.planning.draft import Draft
from flowstate.planning.steps import FORGET, STEPS, Step, check_forgotten, fired, forgotten, stepped
from flowstate.registry import FlowRegistry
from flowstate.state import STACK_PREFIX, State, Status, Transition
from flowstate.timers import changed_timers
from flowstate.validation import checked_ref, checked_whole

__all__ = ["PLANNED_AT_ONCE", "Plan", "STACK_PREFIX"]

# Commands that need no look into the store; a subclass of one is looked at more closely.
PLANNED_AT_ONCE = STEPS | {CancelTimer, Delay, SetTimer}
PLANNED_AT_ONCE |= {commands.Check, commands.Noop, commands.Put, commands.StoreData}

CHECKSUM_CHARACTERS = 64
MAX_STACK_NAME = MAX_ID_BYTES - len(STACK_PREFIX) - 1 - CHECKSUM_CHARACTERS


@attrs.define(eq=False)
class Plan:
    """The drafts of one commit, or of one command outside a commit."""

    flows: FlowRegistry
    store_id: str
    sent_at: float  # By the monotonic clock.
    encodes: bool = True  # The driver is given the stored form of states.
    _drafts: dict[int, Draft] = attrs.Factory(dict)  # By identity: the class may be a user's own.
    _checks: list[tuple[str, int]] = attrs.Factory(list)
    _data: list[Data] = attrs.Factory(list)
    _delays: list[tuple[Draft, NewDelay]] = attrs.Factory(list)
    # Tuples where a plan rarely has any: a list would have to be made for each plan.
    _stacked: tuple[tuple[Draft, State], ...] = ()
    received: tuple[tuple[Draft, Transition], ...] = ()
    forgotten: tuple[Draft, ...] = ()
    _kept: tuple[Draft, ...] = ()
    _puts: Sequence[Draft] = ()  # Of the writes.
    _is_timed: bool = False  # Timers of one of them may have changed.

    @property
    def contexts(self) -> list[StateContext]:
        """The contexts that the plan has drafts of."""
        return [draft.ctx for draft in self._drafts.values()]

    def draft(self, ctx: StateContext) -> Draft:
        """Return the draft of ``ctx``."""
        draft = self._drafts.get(id(ctx))
        if draft is None:
            check_context(ctx)
            if ctx._store_id is not None and ctx._store_id != self.store_id:
                raise InvalidCommandError("ctx", "was committed to another store")
            draft = self._drafts[id(ctx)] = Draft.of(ctx)
        return draft

    def step(self, command: Step) -> None:
        """Take one step."""
        draft = self.draft(command.ctx)
        draft.step(stepped(draft.current, command, self.flows, draft))

    def add(self, command: Command[Any]) -> None:
        """Apply one command to the drafts."""
        match command:
            case _ if isinstance(command, Step):
                self.step(command)
            case Delay():
                self._delay(command)
            case SetTimer() | CancelTimer():
                self._change_timer(self.draft(command.ctx), command)
            case commands.Forget(ctx):
                self._forget(self.draft(ctx))
            case commands.Check(ctx):
                self.check(self.draft(ctx).committed)
            case commands.Put(ctx, keep):
                self._put(self.draft(ctx), keep)
            case commands.StoreData(ctx, alias):
                self.store_data(ctx, alias)
            case commands.Stack(carrier, stacked, name):
                self._stack(self.draft(carrier), self.draft(stacked), name)
            case commands.Noop():
                pass
            case _:
                name = type(command).__name__
                raise InvalidCommandError("commit", f"cannot contain {name}")

    def check(self, committed: State) -> None:
        """Let the commit be refused unless this is what the store has."""
        check_rev("committed.rev", committed.rev)
        self._checks.append((check_id("state.id", committed.id), committed.rev))
        check_number("checks", self._checks, MAX_CHECKS_PER_COMMIT)

    def _put(self, draft: Draft, keep: bool) -> None:
        check_flag("keep", keep)
        if draft.is_changed:
            draft.put = True
            self._kept += (draft,) if keep else ()
            self._note_forgotten(draft)  # By a command outside a commit.
        elif not draft.put:
            self.check(draft.committed)

    def _forget(self, draft: Draft) -> None:
        draft.step(forgotten(draft.current))
        draft.is_known = False  # Its flow may be a user's.
        self._note_forgotten(draft)

    def _note_forgotten(self, draft: Draft) -> None:
        if draft.current.transition.cause == FORGET and draft not in self.forgotten:
            self.forgotten += (draft,)

    def stay(self, draft: Draft) -> None:
        """Let no further step of the commit move on a state that receives."""
        self.received += ((draft, draft.current.transition),)

    def pass_on(self, ctx: StateContext) -> None:
        """Let another engine go on with a state, once it is committed."""
        draft = self.draft(ctx)
        self._delays.append((draft, passed_on(ctx, draft.current)))

    def _delay(self, command: Delay) -> None:
        draft = self.draft(command.ctx)
        draft.put = True
        delay = new_delay(command, self.flows, draft.current, ABSENT)
        self._delays.append((draft, delay))
        check_number("delays", self._delays, MAX_DELAYS_PER_COMMIT)

    def _change_timer(self, draft: Draft, command: SetTimer | CancelTimer) -> None:
        name, timers = check_id("name", command.name), dict(draft.current.timers)
        if isinstance(command, CancelTimer):
            timers.pop(name, None)
        elif draft.current.status is Status.ENDED:
            raise InvalidCommandError("ctx", f"{draft.current.id!r} has ended")
        else:
            timers[name] = new_timer(command, self.flows)
        if len(timers) > MAX_TIMERS:
            raise InvalidInputError("name", f"is one too many: a state has at most {MAX_TIMERS}")
        draft.current = replace(draft.current, timers=FrozenDict(timers))
        draft.put = True

    def fire(self, delayed: DelayedState) -> StateContext:
        """Take the step of a delay or timer that is due; return the context that takes it."""
        state, after = delayed.state, fired(delayed, self.flows)
        ctx = StateContext(state)
        draft = self.draft(ctx)
        if delayed.timer:
            draft.is_known = True
        else:
            # Only these of a delayed state are known to be what the store has.
            at, timers = state.committed_at, state.timers
            step = Transition(origin=after.transition.origin or origin_before(state, delayed.id))
            draft.committed = State(
                state.id, state.rev, transition=step, committed_at=at, timers=timers
            )
        if delayed.commit or not after.transition.origin:
            draft.step(after)
        else:  # It goes on in its step: those that follow count as after a commit of it.
            draft.current, draft.put = after, True
        return ctx

    def store_data(self, ctx: StateContext, alias: str) -> Data | None:
        """Refer to ``ctx.data[alias]``; return what has to be stored, if anything."""
        alias = check_id("alias", alias)
        draft = self.draft(ctx)
        found = dict.get(ctx.data, alias) if issubclass(type(ctx.data), dict) else None
        if found is None:
            raise DataNotFoundError(f"ctx.data has no {alias!r}")
        data = checked_data(f"data[{alias!r}]", found)
        checksum, ref = checksum_of(data), draft.current.data.get(alias)
        rev = 0 if ref is None else checked_ref(alias, ref).rev
        is_new = ref is None or ref.checksum != checksum
        data = replace(data, rev=rev + is_new, checksum=checksum)
        draft.put = True
        draft.set_data(alias, data)
        if not is_new:
            return None
        refs = {**draft.current.data, alias: DataRef(data.rev, checksum)}
        draft.hold(draft.current.annotations, refs)
        self._data.append(data)
        check_number("data", self._data, MAX_DATA_PER_COMMIT)
        commit_size((), (), self._data, ())  # Before more is made a checksum of.
        return data

    def data(self, ctx: StateContext, alias: str) -> tuple[DataRef, Data | None]:
        """Return what ``alias`` refers to, and the data itself if this plan stores it."""
        alias = check_id("alias", alias)
        ref = self.draft(ctx).current.data.get(alias)
        if ref is None:
            raise DataNotFoundError(f"the state has no data {alias!r}")
        ref = checked_ref(alias, ref)
        planned = (data for data in self._data if data.checksum == ref.checksum)
        return ref, next(planned, None)

    def _stack(self, carrier: Draft, stacked: Draft, name: str) -> None:
        key = STACK_PREFIX + check_text("name", check_id("name", name), MAX_STACK_NAME)
        if carrier is stacked:
            raise InvalidCommandError("stacked", "cannot be stacked into itself")
        annotations, data = carrier.current.annotations, carrier.current.data
        if key in annotations:
            raise InvalidCommandError("name", "is taken: unstack first what is stacked under it")
        if stacked.put:
            stacked.keep()  # Now: what is stacked must be what the commit stores.
        elif stacked.current.timers is not stacked.committed.timers:
            stacked.keep()  # Read again, a timer is another object: it must not look set again.
        current = checked_whole(stacked.current, stacked.current)
        committed = checked_whole(stacked.committed, stacked.committed)
        text = encode_context(
            current, committed, stacked.transitions, stacked.taken, with_commit=stacked.put
        )
        checksums = sorted({ref.checksum for ref in current.data.values()})
        refs = {f"{key}.{checksum}": DataRef(1, checksum) for checksum in checksums}
        carrier.hold({**annotations, key: text}, {**data, **refs} if refs else data)
        self._stacked += ((stacked, stacked.current),)

    def unstack(self, command: Unstack) -> tuple[Draft, bool]:
        """Move a stacked context into its draft.

        Returns the draft, and whether its revision is only known to the store, because the
        context was stacked by the commit that gave it that revision.
        """
        carrier, into = self.draft(command.carrier), self.draft(command.into)
        key = STACK_PREFIX + check_id("name", command.name)
        if carrier is into:
            raise InvalidCommandError("into", "must not be the carrier")
        annotations, refs = dict(carrier.current.annotations), carrier.current.data
        text = annotations.pop(key, None)
        if text is None:
            raise InvalidCommandError("name", "nothing is stacked under it")
        current, committed, steps, taken, with_commit = decode_context(text)
        into.replace(current, committed, steps, taken)
        carrier.hold(annotations, {a: ref for a, ref in refs.items() if not _is_of(key, a, ref)})
        return into, with_commit

    def writes(self, token: str) -> Writes:
        """Return what the driver has to store."""
        if self._stacked or self.received or self.forgotten:
            self._check_order()
        self._puts = [draft for draft in self._drafts.values() if draft.put]
        check_number("states", self._puts, MAX_STATES_PER_COMMIT)
        keeps = self._keeps() if self._kept else ()
        needs: set[str] = set()
        states = tuple([self._state(draft, needs) for draft in self._puts])
        if len({state.id for state in states}) < len(states):
            raise InvalidCommandError("commit", "changes one state through two contexts")
        if not states and not self._checks:
            raise InvalidCommandError("commit", "has nothing to commit")
        delays = placed(self._delays, self._puts, states) if self._delays else ()
        forgets = self._forgets(states, delays) if self.forgotten else ()
        timers, drops = timer_writes(self._puts, states) if self._is_timed else ((), ())
        bodies = tuple(map(encode_body, states)) if self.encodes else ()
        size = commit_size(states, bodies, self._data, delays, timers)
        checks, data = tuple(self._checks), tuple(self._data)
        return Writes(
            token,
            states,
            bodies,
            checks,
            data,
            delays,
            tuple(needs),
            (),  # Claims are commits by themselves.
            drops,
            size,
            timers,
            forgets,
            keeps,
        )

    def _state(self, draft: Draft, needs: set[str]) -> State:
        """Return the state to put; ``needs`` gets the checksums of data that must be there."""
        if not draft.begun or draft.current.timers:
            draft.keep()
            self._note_forgotten(draft)
        state = draft.state()
        if draft.keeps:
            state = draft.as_delayed(state)
        if draft.is_timed:
            self._is_timed = True
        if draft.current.data:
            needs |= newly_referred(draft.current.data, draft.committed.data)
            needs.difference_update([data.checksum for data in self._data])
        return state

    def _keeps(self) -> tuple[int, ...]:
        """Return the places of the states that keep their delays: those that get no others."""
        for draft in self._kept:
            draft.keeps = draft.stays
        for draft, _ in self._delays:
            draft.keeps = False
        return tuple([place for place, draft in enumerate(self._puts) if draft.keeps])

    def _forgets(self, states: Sequence[State], delays: Sequence[NewDelay]) -> tuple[int, ...]:
        """Return the places of the states that are forgotten."""
        places = [self._puts.index(draft) for draft in self.forgotten]
        for place in places:
            check_forgotten(states[place])
            if any(delay.put == place for delay in delays):
                raise InvalidCommandError(
                    "commit", f"delays {states[place].id!r}, which it forgets"
                )
        return tuple(places)

    def _check_order(self) -> None:
        for draft, state in self._stacked:
            if draft.current is not state:
                raise InvalidCommandError("stacked", f"{state.id!r} is changed after its Stack")
        for draft in self.forgotten:
            if draft.current.transition.cause != FORGET:
                raise InvalidCommandError(
                    "commit", f"changes {draft.current.id!r} after its Forget"
                )
        for draft, transition in self.received:
            if draft.current.transition is not transition:
                id = draft.current.id
                raise InvalidCommandError("receive", f"{id!r} is moved on after its Receive")

    def delay_writes(self, command: Delay, token: str) -> Writes:
        """Return what the driver has to store for a delay by itself."""
        draft = self.draft(command.ctx)
        if any(changed_timers(draft.current.timers, draft.committed)):
            reason = f"timers of {draft.current.id!r} were changed: make it part of a Commit"
            raise InvalidCommandError("delay", reason)
        if draft.taken:
            draft.keep()
        current = replace(draft.current, delayed_until=None)
        state = checked_whole(current, draft.committed)
        delay = new_delay(command, self.flows, state, Raw(encode_state(state)))
        needs = newly_referred(state.data, draft.committed.data)
        # What is only believed to be in the log may be in no revision at all.
        references = needs if draft.is_known else newly_referred(state.data, EMPTY)
        delay = replace(delay, references=tuple(references))
        checks, size = ((state.id, state.rev),), commit_size((), (), (), (delay,))
        return Writes(token, checks=checks, delays=(delay,), needs=tuple(needs), size=size)

    def settle(self, verdict: Verdict) -> None:
        """Change the contexts as the driver's verdict says, or raise what it is."""
        if type(verdict) is not tuple or len(verdict) != len(self._puts):
            raise refusal(verdict)
        if len(self._puts) < len(self._drafts):
            for draft in self._drafts.values():
                if not draft.put or not self._puts:  # Data may have been stored by itself.
                    draft.apply()
        for draft, state in zip(self._puts, verdict, strict=True):
            draft.settle(state, self.store_id, self.sent_at)

    def apply(self) -> None:
        """Make every context what was drafted."""
        for draft in self._drafts.values():
            draft.apply()


def _is_of(key: str, alias: str, ref: DataRef) -> bool:
    """Return whether ``alias`` keeps data of the context that is stacked as ``key``."""
    return alias == f"{key}.{getattr(ref, 'checksum', None)}"
