"""Decide purely: what commands change, and what a commit writes. Nothing here waits.

A :class:`Plan` collects the commands of one ``Commit`` (or a single command outside one) on
drafts, and leaves the contexts alone until :meth:`Plan.apply`. A command that is refused, or a
commit that fails, therefore leaves every context as it was.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from flowstate.codec import decode_context, encode_context
from flowstate.commands import (
    Check,
    Command,
    Delay,
    End,
    Noop,
    Pause,
    Resume,
    Retry,
    Stack,
    StoreData,
    Transit,
    Unstack,
)
from flowstate.context import StateContext
from flowstate.data import Data, DataRef, checksum_of
from flowstate.driver import DelayedState, NewDelay, Verdict, Writes
from flowstate.errors import DataNotFoundError, InvalidCommandError, InvalidInputError
from flowstate.flow import FlowRegistry
from flowstate.frozen import EMPTY, FrozenDict, freeze
from flowstate.limits import (
    MAX_BLOB_BYTES,
    MAX_ID_BYTES,
    MAX_STATES_PER_COMMIT,
    check_annotations,
    check_id,
    check_labels,
    check_rev,
    check_text,
    to_utc,
)
from flowstate.state import Cause, State, Status, Transition, frozen

__all__ = ["Draft", "Plan", "Step", "changed_writes", "checked", "draft_delay", "stepped"]

ACTIVE = Status.ACTIVE  # Enums look their members up slowly.
STACK_PREFIX = "flowstate.stack."
LONGEST_DELAY = timedelta(days=365_000)
Step = Transit | Pause | Resume | Retry | End
STEPS: dict[type[Step], tuple[Cause, Status]] = {
    Pause: ("pause", Status.PAUSED),
    Resume: ("resume", Status.ACTIVE),
    End: ("end", Status.ENDED),
}


def stepped(state: State, command: Step, flows: FlowRegistry) -> State:
    """Return the state after a step.

    Raises:
        UnknownFlowError: it leads to a flow that the registry does not know.
        InvalidInputError: bad annotations.
    """
    annotations = command.annotations
    if annotations is not EMPTY:
        annotations = freeze("annotations", annotations)
        check_annotations("annotations", annotations)
    if type(command) is Transit:
        to = command.to
        if type(to) is not str or to not in flows._flows:  # Nearly always known: spare a call.
            to = flows.check(to)
        transition = Transition(to, annotations)
        return replace(state, transition=transition, status=ACTIVE, delayed_until=None)
    if type(command) is Retry:
        transition = _retried(state.transition, annotations)
        return replace(state, transition=transition, status=ACTIVE, delayed_until=None)
    cause, status = STEPS[type(command)]
    transition = Transition(state.transition.to, annotations, cause)
    return replace(state, transition=transition, status=status, delayed_until=None)


def _retried(last: Transition, annotations: Mapping[str, str]) -> Transition:
    """Return a transition like the last one, with more annotations; always a new object."""
    merged = FrozenDict({**last.annotations, **annotations})
    check_annotations("annotations", merged)
    return replace(last, annotations=merged)


class Draft:
    """What becomes of one context.

    Attributes:
        put: whether the state gets a new revision.
        trusted: whether ``committed`` is known to have passed every check.
    """

    __slots__ = ("committed", "ctx", "current", "data", "put", "transitions", "trusted")

    def __init__(self, ctx: StateContext) -> None:
        self.ctx = ctx
        self.current = ctx.current
        self.committed = ctx.committed
        self.transitions = ctx.transitions
        self.data: dict[str, Data] | None = None
        self.put = False
        self.trusted = ctx._store_id is not None

    def step(self, command: Step, flows: FlowRegistry) -> None:
        """Take one step."""
        self.current = stepped(self.current, command, flows)
        self.transitions += (self.current.transition,)
        self.put = True

    def checked(self) -> State:
        """Return the state to put; see :func:`checked`."""
        stepped = self.transitions and self.current.transition is self.transitions[-1]
        return checked(self.current, self.committed, trusted=self.trusted and bool(stepped))

    def set_data(self, alias: str, data: Data) -> None:
        """Put ``data`` under ``alias``."""
        self.data = (self.ctx.data if self.data is None else self.data) | {alias: data}

    def apply(self) -> None:
        """Make the context what the draft is."""
        ctx = self.ctx
        ctx.current = self.current
        ctx.committed = self.committed
        ctx.transitions = self.transitions
        if self.data is not None:
            ctx.data = self.data


class More:
    """The rarer parts of a plan."""

    __slots__ = ("checks", "data", "delays", "stacked")

    def __init__(self) -> None:
        self.checks: list[tuple[str, int]] = []
        self.data: list[Data] = []
        self.delays: list[tuple[Draft, NewDelay]] = []
        self.stacked: list[tuple[Draft, State]] = []


class Plan:
    """The drafts of one commit, or of one command outside a commit."""

    __slots__ = ("_drafts", "_flows", "_more", "_sent_at", "_store_id")

    def __init__(self, flows: FlowRegistry, store_id: str, sent_at: float) -> None:
        self._flows = flows
        self._sent_at = sent_at
        self._store_id = store_id
        self._drafts: dict[StateContext, Draft] = {}
        self._more: More | None = None

    @property
    def contexts(self) -> frozenset[StateContext]:
        """Whatever the plan drafts."""
        return frozenset(self._drafts)

    @property
    def more(self) -> "More":
        """What the plan holds beside drafts; most plans hold nothing else."""
        if self._more is None:
            self._more = More()
        return self._more

    def draft(self, ctx: StateContext) -> Draft:
        """Return the draft of ``ctx``.

        Raises:
            InvalidInputError: not a context, or one that was committed to another store.
        """
        if not isinstance(ctx, StateContext):
            raise InvalidInputError("ctx", f"must be a StateContext, not {type(ctx).__name__}")
        draft = self._drafts.get(ctx)
        if draft is None:
            if ctx._store_id is not None and ctx._store_id != self._store_id:
                raise InvalidCommandError("ctx", "was committed to another store")
            draft = self._drafts[ctx] = Draft(ctx)
        return draft

    def add(self, command: Command[Any]) -> None:
        """Apply one command to the drafts.

        Raises:
            InvalidCommandError: not a command that can be part of a commit.
        """
        match command:
            case Transit() | Pause() | Resume() | Retry() | End():
                self.draft(command.ctx).step(command, self._flows)
            case Delay(ctx):
                self._delay(command)
            case Check(ctx):
                committed = self.draft(ctx).committed
                check_id("state.id", committed.id)
                check_rev("committed.rev", committed.rev)
                self.more.checks.append((committed.id, committed.rev))
            case StoreData(ctx, alias):
                self.store_data(ctx, alias)
            case Stack(carrier, stacked, name):
                self._stack(self.draft(carrier), self.draft(stacked), name)
            case Noop():
                pass
            case _:
                name = type(command).__name__
                raise InvalidCommandError("commit", f"cannot contain {name}")

    def _delay(self, command: Delay) -> None:
        draft = self.draft(command.ctx)
        self.more.delays.append((draft, draft_delay(command, self._flows, draft.current)))
        draft.put = True

    def fire(self, delayed: DelayedState) -> StateContext:
        """Take the step of a delay that is due; return the context that takes it."""
        state = delayed.state
        ctx = StateContext(state)
        draft = self.draft(ctx)
        # Only the revision of a delayed state is known to be what the store has.
        draft.committed = State(state.id, state.rev)
        transition = Transition(delayed.to, delayed.annotations, "delay")
        draft.current = replace(state, transition=transition, status=Status.ACTIVE)
        draft.transitions = (transition,)
        draft.put = True
        return ctx

    def store_data(self, ctx: StateContext, alias: str) -> Data | None:
        """Refer to ``ctx.data[alias]``; return what has to be stored, if anything."""
        check_id("alias", alias)
        draft = self.draft(ctx)
        data = _data_of(ctx, alias)
        checksum = checksum_of(data)
        ref = draft.current.data.get(alias)
        draft.put = True
        if ref is not None and ref.checksum == checksum:
            draft.set_data(alias, replace(data, rev=ref.rev, checksum=checksum))
            return None
        new_ref = DataRef(ref.rev + 1 if ref else 1, checksum)
        stored = replace(data, rev=new_ref.rev, checksum=checksum)
        refs = FrozenDict({**draft.current.data, alias: new_ref})
        draft.current = replace(draft.current, data=refs)
        draft.set_data(alias, stored)
        self.more.data.append(stored)
        return stored

    def data(self, ctx: StateContext, alias: str) -> tuple[DataRef, Data | None]:
        """Return what ``alias`` refers to, and the data itself if this plan stores it.

        Raises:
            DataNotFoundError: the state has no such alias.
        """
        check_id("alias", alias)
        ref = self.draft(ctx).current.data.get(alias)
        if ref is None:
            raise DataNotFoundError(f"state {ctx.current.id!r} has no data {alias!r}")
        planned = (data for data in self.more.data if data.checksum == ref.checksum)
        return ref, next(planned, None)

    def _stack(self, carrier: Draft, stacked: Draft, name: str) -> None:
        check_id("name", name)
        check_text("name", name, MAX_ID_BYTES - len(STACK_PREFIX))
        if carrier is stacked:
            raise InvalidCommandError("stacked", "cannot be stacked into itself")
        _check_whole(stacked.current)
        text = encode_context(
            stacked.current, stacked.committed, stacked.transitions, with_commit=stacked.put
        )
        _annotate(carrier, STACK_PREFIX + name, text)
        self.more.stacked.append((stacked, stacked.current))

    def unstack(self, command: Unstack) -> tuple[Draft, bool]:
        """Move a stacked context into its draft.

        Returns the draft, and whether its revision is only known to the store, because the
        context was stacked by the commit that gave it that revision.
        """
        carrier, into = self.draft(command.carrier), self.draft(command.into)
        check_id("name", command.name)
        if carrier is into:
            raise InvalidCommandError("into", "must not be the carrier")
        text = carrier.current.annotations.get(STACK_PREFIX + command.name)
        if text is None:
            raise InvalidCommandError("name", f"nothing is stacked as {command.name!r}")
        into.current, into.committed, into.transitions, with_commit = decode_context(text)
        into.trusted = False
        _annotate(carrier, STACK_PREFIX + command.name, None)
        return into, with_commit

    def writes(self, token: str) -> Writes:
        """Return what the driver has to store.

        Raises:
            InvalidInputError: a state that cannot be stored.
            InvalidCommandError: nothing to write, too many states, or one id twice.
        """
        puts = [draft for draft in self._drafts.values() if draft.put]
        states = tuple([draft.checked() for draft in puts])
        if len(states) > 1:
            _check_distinct(states)
        if self._more is not None:
            return _all_writes(token, puts, states, self._more)
        if not states:
            raise InvalidCommandError("commit", "has nothing to commit")
        referred = _newly_referred([(draft.current, draft.committed) for draft in puts])
        return Writes(token, states, needs=referred)

    def delay_writes(self, command: Delay, token: str) -> Writes:
        """Return what the driver has to store for a delay by itself."""
        draft = self.draft(command.ctx)
        state = draft.checked()
        delay = draft_delay(command, self._flows, state)
        return Writes(token, checks=((state.id, state.rev),), delays=(delay,))

    def settle(self, verdict: Verdict) -> None:
        """Change the contexts as the driver's verdict says, or raise what it is."""
        if not isinstance(verdict, tuple):
            raise verdict
        if not verdict:
            self.apply()
            return
        committed = iter(verdict)
        for draft in self._drafts.values():
            if draft.put:
                state = next(committed)
                # A driver may return an equal transition; a new object would look like a step.
                if state.transition is not draft.current.transition:
                    state = replace(state, transition=draft.current.transition)
                draft.current = draft.committed = state
                draft.transitions = ()
                draft.ctx._store_id = self._store_id
                draft.ctx._sent_at = self._sent_at
            draft.apply()
            if draft.put and draft.ctx._execution is not None:
                draft.ctx._execution.committed(self._sent_at)

    def apply(self) -> None:
        """Make every context what was drafted."""
        for draft in self._drafts.values():
            draft.apply()


def draft_delay(command: Delay, flows: FlowRegistry, state: State) -> NewDelay:
    """Return the delay that ``command`` asks for.

    Raises:
        InvalidInputError: not exactly one of ``after`` and ``until``, or a bad one.
    """
    to = flows.check(command.to)
    annotations = freeze("annotations", command.annotations)
    check_annotations("annotations", annotations)
    if (command.after is None) == (command.until is None):
        raise InvalidInputError("delay", "needs either after or until")
    if command.after is not None:
        if not isinstance(command.after, timedelta):
            kind = type(command.after).__name__
            raise InvalidInputError("after", f"must be a timedelta, not {kind}")
        if command.after < timedelta(0) or command.after > LONGEST_DELAY:
            raise InvalidInputError("after", "must be from 0 to 365,000 days")
    return NewDelay(
        state=state,
        to=to,
        annotations=annotations,
        due=None if command.until is None else to_utc("until", command.until),
        after=command.after,
        commit=bool(command.commit),
    )


def checked(state: State, known: State, *, trusted: bool) -> State:
    """Return the state to put, valid and with the revision that it expects to replace.

    Raises:
        InvalidInputError: it cannot be stored.
    """
    if not trusted:
        state = _check_whole(state)
        if known.id is not state.id:
            check_id("committed.id", known.id)
        check_rev("committed.rev", known.rev)
    elif (
        state.labels is not known.labels
        or state.annotations is not known.annotations
        or state.data is not known.data
        or type(state.status) is not Status
    ):
        state = _check_whole(state)
    if state.id is not known.id and known.rev and state.id != known.id:
        raise InvalidInputError("state.id", "cannot change; use ctx.fork")
    if state.rev != known.rev or state.delayed_until is not None:
        state = replace(state, rev=known.rev, delayed_until=None)
    return state


def changed_writes(token: str, state: State, ctx: StateContext) -> Writes:
    """Return the writes that put ``state`` for a context that is not what the store has.

    Raises:
        InvalidInputError: it cannot be stored.
    """
    known = ctx.committed
    put = checked(state, known, trusted=False)
    needs = () if put.data is known.data else _newly_referred([(put, known)])
    return Writes(token, (put,), needs=needs)


def _check_whole(state: State) -> State:
    state = frozen(state)
    check_id("state.id", state.id)
    if state.labels:
        check_labels("state.labels", state.labels)
    if state.annotations:
        check_annotations("state.annotations", state.annotations)
    check_text("state.transition.to", state.transition.to, MAX_ID_BYTES)
    if state.transition.annotations:
        check_annotations("state.transition.annotations", state.transition.annotations)
    if not isinstance(state.status, Status):
        raise InvalidInputError("state.status", f"must be a Status, not {state.status!r}")
    for alias, ref in state.data.items():
        check_id("state.data key", alias)
        if not isinstance(ref, DataRef):
            kind = type(ref).__name__
            raise InvalidInputError(f"state.data[{alias!r}]", f"must be a DataRef, not {kind}")
    return state


def _check_distinct(states: tuple[State, ...]) -> None:
    if len(states) > MAX_STATES_PER_COMMIT:
        limit = f"at most {MAX_STATES_PER_COMMIT} states, not {len(states)}"
        raise InvalidCommandError("commit", f"may change {limit}")
    seen: set[str] = set()
    for state in states:
        if state.id in seen:
            raise InvalidCommandError("commit", f"changes {state.id!r} through two contexts")
        seen.add(state.id)


def _all_writes(token: str, puts: list[Draft], states: tuple[State, ...], more: More) -> Writes:
    for draft, state in more.stacked:
        if draft.current is not state:
            raise InvalidCommandError("stacked", f"{state.id!r} is changed after its Stack")
    if not states and not more.checks:
        raise InvalidCommandError("commit", "has nothing to commit")
    places = {id(draft): place for place, draft in enumerate(puts)}
    delays = [
        replace(delay, state=states[places[id(draft)]], put=places[id(draft)])
        for draft, delay in more.delays
    ]
    stored = {data.checksum for data in more.data}
    referred = _newly_referred([(draft.current, draft.committed) for draft in puts])
    needs = tuple(checksum for checksum in referred if checksum not in stored)
    return Writes(token, states, tuple(more.checks), tuple(more.data), tuple(delays), needs)


def _newly_referred(changes: list[tuple[State, State]]) -> tuple[str, ...]:
    """Return the checksums of data that must be stored for the changed states to be whole."""
    needed: set[str] = set()
    for state, known in changes:
        if state.data is not known.data:
            needed.update(ref.checksum for ref in state.data.values())
            needed.difference_update(ref.checksum for ref in known.data.values())
    return tuple(needed)


def _annotate(draft: Draft, key: str, value: str | None) -> None:
    annotations = {k: v for k, v in draft.current.annotations.items() if k != key}
    if value is not None:
        annotations[key] = value
    draft.current = replace(draft.current, annotations=FrozenDict(annotations))
    draft.put = True


def _data_of(ctx: StateContext, alias: str) -> Data:
    data: Mapping[str, Data] = ctx.data
    found = data.get(alias)
    if found is None:
        raise DataNotFoundError(f"ctx.data has no {alias!r}")
    if not isinstance(found, Data):
        raise InvalidInputError(f"data[{alias!r}]", f"must be Data, not {type(found).__name__}")
    if not isinstance(found.blob, bytes):
        kind = type(found.blob).__name__
        raise InvalidInputError(f"data[{alias!r}].blob", f"must be bytes, not {kind}")
    if len(found.blob) > MAX_BLOB_BYTES:
        raise InvalidInputError(
            f"data[{alias!r}].blob",
            f"must be at most {MAX_BLOB_BYTES} bytes, not {len(found.blob)}",
        )
    check_annotations(f"data[{alias!r}].annotations", found.annotations)
    return found
