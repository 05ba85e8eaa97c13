"""Decide purely: what commands change, what a commit writes, what its verdict means.

A :class:`Plan` collects the commands of one ``Commit`` (or a single command outside one) on
drafts, and leaves the contexts alone until :meth:`Plan.settle` or :meth:`Plan.apply`. A command
that is refused, or a commit that fails, therefore leaves every context as it was. All that a
commit writes is checked and encoded here, before it meets other commits in a batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from msgspec import Raw
from msgspec.structs import replace

from flowstate import commands
from flowstate.codec import (
    ABSENT,
    DelayBody,
    commit_size,
    decode_context,
    encode_body,
    encode_context,
    encode_delay,
    encode_state,
)
from flowstate.commands import Command, Delay, End, Pause, Resume, Retry, Transit, Unstack
from flowstate.context import Draft, StateContext, refusal
from flowstate.data import Data, DataRef, checked_data, checksum_of, newly_referred
from flowstate.driver import DelayedState, NewDelay, Verdict, Writes
from flowstate.errors import DataNotFoundError, InvalidCommandError, InvalidInputError
from flowstate.frozen import EMPTY, FrozenDict
from flowstate.limits import (
    MAX_CHECKS_PER_COMMIT,
    MAX_DATA_PER_COMMIT,
    MAX_DELAYS_PER_COMMIT,
    MAX_ID_BYTES,
    MAX_STATES_PER_COMMIT,
    check_annotations,
    check_duration,
    check_id,
    check_number,
    check_rev,
    check_text,
    to_utc,
)
from flowstate.options import check_flag
from flowstate.registry import FlowRegistry
from flowstate.state import (
    STACK_PREFIX,
    Cause,
    State,
    Status,
    Transition,
    checked_ref,
    checked_whole,
)

__all__ = ["Plan", "STACK_PREFIX", "STEPS", "Step", "stepped"]

ACTIVE = Status.ACTIVE  # Enums look their members up slowly.
CHECKSUM_CHARACTERS = 64
MAX_STACK_NAME = MAX_ID_BYTES - len(STACK_PREFIX) - 1 - CHECKSUM_CHARACTERS

Step = Transit | Pause | Resume | Retry | End
STEPS = frozenset({Transit, Pause, Resume, Retry, End})
CAUSES: dict[type[Any], tuple[Cause, Status]] = {
    Pause: ("pause", Status.PAUSED),
    Resume: ("resume", Status.ACTIVE),
    End: ("end", Status.ENDED),
}


def stepped(state: State, command: Step, flows: FlowRegistry) -> State:
    """Return the state after a step."""
    annotations = command.annotations
    if annotations is not EMPTY:
        annotations = check_annotations("annotations", annotations)
    kind = type(command)
    if kind is Transit or isinstance(command, Transit):
        to: Any = command.to  # type: ignore[union-attr]
        if type(to) is not str or to not in flows._flows:  # Nearly always known: spare a call.
            to = flows.check(to)
        transition, status = Transition(to, annotations), ACTIVE
    elif isinstance(command, Retry):
        transition, status = _retried(state.transition, annotations), ACTIVE
    else:
        cause, status = CAUSES.get(kind) or CAUSES[_base_of(kind)]
        transition = Transition(state.transition.to, annotations, cause)
    return replace(state, transition=transition, status=status, delayed_until=None)


def _base_of(kind: type[Any]) -> type[Any]:
    return next(base for base in kind.__mro__ if base in CAUSES)


def _retried(last: Transition, annotations: Mapping[str, str]) -> Transition:
    """Return a transition like the last one, with more annotations; always a new object."""
    merged = FrozenDict({**last.annotations, **annotations})
    return replace(last, annotations=check_annotations("annotations", merged))


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
    _stacked: list[tuple[Draft, State]] = attrs.Factory(list)
    _puts: list[Draft] = attrs.Factory(list)  # Of the writes.

    @property
    def contexts(self) -> list[StateContext]:
        """The contexts that the plan has drafts of."""
        return [draft.ctx for draft in self._drafts.values()]

    def draft(self, ctx: StateContext) -> Draft:
        """Return the draft of ``ctx``."""
        draft = self._drafts.get(id(ctx))
        if draft is None:
            if not issubclass(type(ctx), StateContext):
                raise InvalidInputError("ctx", f"must be a StateContext, not {type(ctx).__name__}")
            if ctx._store_id is not None and ctx._store_id != self.store_id:
                raise InvalidCommandError("ctx", "was committed to another store")
            draft = self._drafts[id(ctx)] = Draft.of(ctx)
        return draft

    def step(self, command: Step) -> None:
        """Take one step."""
        draft = self.draft(command.ctx)
        draft.step(stepped(draft.current, command, self.flows))

    def add(self, command: Command[Any]) -> None:
        """Apply one command to the drafts."""
        match command:
            case Transit() | Pause() | Resume() | Retry() | End():
                self.step(command)
            case Delay():
                self._delay(command)
            case commands.Check(ctx):
                self._check(self.draft(ctx).committed)
            case commands.StoreData(ctx, alias):
                self.store_data(ctx, alias)
            case commands.Stack(carrier, stacked, name):
                self._stack(self.draft(carrier), self.draft(stacked), name)
            case commands.Noop():
                pass
            case _:
                name = type(command).__name__
                raise InvalidCommandError("commit", f"cannot contain {name}")

    def _check(self, committed: State) -> None:
        check_rev("committed.rev", committed.rev)
        self._checks.append((check_id("state.id", committed.id), committed.rev))
        check_number("checks", self._checks, MAX_CHECKS_PER_COMMIT)

    def _delay(self, command: Delay) -> None:
        draft = self.draft(command.ctx)
        draft.put = True
        delay = _new_delay(command, self.flows, draft.current, ABSENT)
        self._delays.append((draft, delay))
        check_number("delays", self._delays, MAX_DELAYS_PER_COMMIT)

    def fire(self, delayed: DelayedState) -> StateContext:
        """Take the step of a delay that is due; return the context that takes it."""
        state = delayed.state
        ctx = StateContext(state)
        draft = self.draft(ctx)
        # Only the revision of a delayed state is known to be what the store has.
        draft.committed = State(state.id, state.rev)
        transition = Transition(delayed.to, delayed.annotations, "delay")
        draft.step(replace(state, transition=transition, status=ACTIVE))
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
        current = checked_whole(stacked.current, stacked.current)
        committed = checked_whole(stacked.committed, stacked.committed)
        text = encode_context(current, committed, stacked.transitions, with_commit=stacked.put)
        checksums = sorted({ref.checksum for ref in current.data.values()})
        refs = {f"{key}.{checksum}": DataRef(1, checksum) for checksum in checksums}
        carrier.hold({**annotations, key: text}, {**data, **refs} if refs else data)
        self._stacked.append((stacked, stacked.current))

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
        current, committed, steps, with_commit = decode_context(text)
        into.replace(current, committed, steps)
        carrier.hold(annotations, {a: ref for a, ref in refs.items() if not _is_of(key, a, ref)})
        return into, with_commit

    def writes(self, token: str) -> Writes:
        """Return what the driver has to store."""
        self._puts = puts = [draft for draft in self._drafts.values() if draft.put]
        check_number("states", puts, MAX_STATES_PER_COMMIT)
        states = tuple([draft.state() for draft in puts])
        if len({state.id for state in states}) < len(states):
            raise InvalidCommandError("commit", "changes one state through two contexts")
        if not states and not self._checks:
            raise InvalidCommandError("commit", "has nothing to commit")
        for draft, state in self._stacked:
            if draft.current is not state:
                raise InvalidCommandError("stacked", f"{state.id!r} is changed after its Stack")
        delays = _placed(self._delays, puts, states) if self._delays else ()
        needs: set[str] = set()
        for draft in puts:
            if draft.current.data:
                needs |= newly_referred(draft.current.data, draft.committed.data)
        needs -= {data.checksum for data in self._data}
        bodies = tuple(map(encode_body, states)) if self.encodes else ()
        size = commit_size(states, bodies, self._data, delays)
        checks, data = tuple(self._checks), tuple(self._data)
        return Writes(token, states, bodies, checks, data, delays, tuple(needs), size=size)

    def delay_writes(self, command: Delay, token: str) -> Writes:
        """Return what the driver has to store for a delay by itself."""
        draft = self.draft(command.ctx)
        current = replace(draft.current, delayed_until=None)
        state = checked_whole(current, draft.committed)
        delay = _new_delay(command, self.flows, state, Raw(encode_state(state)))
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


def _new_delay(command: Delay, flows: FlowRegistry, state: State, own: Raw) -> NewDelay:
    """Return the delay that ``command`` asks for.

    ``own`` is the encoded state, or ``ABSENT`` when a commit stores it together with the delay.
    """
    to = flows.check(command.to)
    annotations = check_annotations("annotations", command.annotations)
    check_flag("commit", command.commit)
    after, until = command.after, command.until
    if (after is None) == (until is None):
        raise InvalidInputError("delay", "needs either after or until")
    return NewDelay(
        state=state,
        to=to,
        annotations=annotations,
        due=None if until is None else to_utc("until", until),
        after=None if after is None else check_duration("after", after),
        commit=command.commit,
        body=encode_delay(DelayBody(to, annotations, command.commit, own)),
    )


def _placed(
    delays: Sequence[tuple[Draft, NewDelay]], puts: Sequence[Draft], states: Sequence[State]
) -> tuple[NewDelay, ...]:
    """Return the delays with the states that the commit puts for them."""
    places = {id(draft): place for place, draft in enumerate(puts)}
    placed = [(places[id(draft)], delay) for draft, delay in delays]
    return tuple([replace(delay, state=states[place], put=place) for place, delay in placed])


def _is_of(key: str, alias: str, ref: DataRef) -> bool:
    """Return whether ``alias`` keeps data of the context that is stacked as ``key``."""
    return alias == f"{key}.{getattr(ref, 'checksum', None)}"
