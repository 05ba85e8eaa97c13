"""What a commit must write, by the plainest reading of its commands."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from flowstate.commands import (
    CancelTimer,
    Check,
    Command,
    Commit,
    Delay,
    End,
    Forget,
    GetData,
    Noop,
    Pause,
    Resume,
    Retry,
    SetTimer,
    StoreData,
    Transit,
)
from flowstate.context import StateContext
from flowstate.data import Data, DataRef, checksum_of
from flowstate.driver import Drop, NewDelay, NewTimer, Writes
from flowstate.errors import DataNotFoundError, InvalidCommandError, UnknownFlowError
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.mailboxes.mailbox import mailbox_id
from flowstate.state import State, Status, Timer, Transition
from flowstate.testing.programs.model import LONG_AGO, StoredData
from flowstate.timers import timer_id

__all__ = ["Draft", "Planned", "sums"]


class Draft:
    """What becomes of one context.

    Attributes:
        state: its working copy.
        steps: those taken since the last commit.
        data: its blobs.
        put: whether it gets a new revision.
        begun: whether the revision that it gets begins the step that it is in then.
        forgotten: whether it was forgotten by a command of this commit.
    """

    def __init__(self, ctx: StateContext) -> None:
        self.ctx = ctx
        self.state = ctx.current
        self.steps = ctx.transitions
        self.data = dict(ctx.data)
        self.put = False
        self.begun = False
        self.forgotten = False

    @property
    def expected(self) -> int:
        """The revision that the store must have."""
        return self.ctx.committed.rev

    @property
    def origin(self) -> str:
        """What names the step that the state is in: where it began, and the steps since."""
        here, base = self.state.transition, self.ctx.committed
        if here.origin or self.begun or not here.to:
            return here.origin
        name = base.transition.origin or str(base.rev)
        if not self.steps:
            return name
        rev, _, number = name.partition(".")
        return f"{rev}.{int(number or 0) + len(self.steps)}"

    def step(self, transition: Transition, status: Status) -> None:
        """Take a step."""
        self.state = replace(self.state, transition=transition, status=status, delayed_until=None)
        if status is Status.ENDED:
            self.state = replace(self.state, timers=EMPTY)
        self.steps = (*self.steps, transition)
        self.begun = not transition.origin
        self.put = True

    def kept(self) -> State:
        """Return the working copy for a new revision: its step named, its timers with their times.

        A timer that counts from the last commit gets its time.
        """
        known = self.ctx.committed
        timers = {
            name: Timer(timer.to, _due(timer, known)) if known.timers.get(name) is timer else timer
            for name, timer in self.state.timers.items()
        }
        named = replace(self.state.transition, origin=self.origin)
        return replace(self.state, transition=named, timers=FrozenDict(timers))


class Planned:
    """Commands, one after the other, on drafts; contexts are only looked at.

    Attributes:
        drafts: by context.
        found: what ``GetData`` gave last.
    """

    def __init__(self, flows: Iterable[str], stored: Mapping[str, StoredData]) -> None:
        self.drafts: dict[StateContext, Draft] = {}
        self.found: Data | None = None
        self._flows = frozenset(flows)
        self._stored = stored
        self._checks: list[tuple[str, int]] = []
        self._mailboxes: dict[str, int] = {}
        self._data: list[Data] = []
        self._delays: list[tuple[Draft, Delay]] = []

    def draft(self, ctx: StateContext) -> Draft:
        """Return the draft of a context."""
        return self.drafts.setdefault(ctx, Draft(ctx))

    def add(self, command: Command[Any]) -> None:
        """Apply a command.

        Raises:
            UnknownFlowError: it leads nowhere.
            DataNotFoundError: there is no such data.
            InvalidCommandError: the state has not ended, or has, or is forgotten.
        """
        match command:
            case Transit() | Pause() | Resume() | End() | Retry():
                self._step(command)
            case Delay(ctx, to):
                self._check_flow(to)
                draft = self.draft(ctx)
                draft.put = True
                self._delays.append((draft, command))
            case SetTimer() | CancelTimer():
                self._set_timers(command)
            case Forget(ctx):
                self._forget(self.draft(ctx))
            case Check(ctx):
                self.draft(ctx)
                self._checks.append((ctx.committed.id, ctx.committed.rev))
            case StoreData(ctx, alias):
                self._store_data(self.draft(ctx), alias)
            case GetData(ctx, alias):
                self.found = self._get_data(self.draft(ctx), alias)
            case _ if not isinstance(command, Noop):
                raise NotImplementedError(type(command).__name__)

    def _check_flow(self, to: str) -> None:
        if to not in self._flows:
            raise UnknownFlowError(to)

    def _set_timers(self, command: SetTimer | CancelTimer) -> None:
        draft = self.draft(command.ctx)
        timers = dict(draft.state.timers)
        if isinstance(command, CancelTimer):
            timers.pop(command.name, None)
        else:
            if draft.state.status is Status.ENDED:
                raise InvalidCommandError("ctx", "has ended")
            self._check_flow(command.to)
            timers[command.name] = Timer(command.to, command.until, command.after)
        draft.state, draft.put = replace(draft.state, timers=FrozenDict(timers)), True

    def _forget(self, draft: Draft) -> None:
        state = draft.state
        if state.status is not Status.ENDED:
            raise InvalidCommandError("ctx", "has not ended")
        at = state.committed_at
        draft.state = State(state.id, state.rev, labels=state.labels, committed_at=at)
        draft.step(Transition(state.transition.to, EMPTY, "forget"), Status.ENDED)
        draft.forgotten = True
        # Its mailbox would be forgotten with it; here none has one, and none may come meanwhile.
        self._mailboxes[mailbox_id(state.id)] = 0

    def _step(self, command: Transit | Pause | Resume | End | Retry) -> None:
        draft = self.draft(command.ctx)
        here, notes, origin = draft.state.transition, FrozenDict(command.annotations), draft.origin
        match command:
            case Transit(_, to):
                self._check_flow(to)
                draft.step(Transition(to, notes), Status.ACTIVE)
            case Pause():
                draft.step(Transition(here.to, notes, "pause", origin=origin), Status.PAUSED)
            case Resume():
                draft.step(Transition(here.to, notes, "resume", origin=origin), Status.ACTIVE)
            case End():
                draft.step(Transition(here.to, notes, "end", origin=origin), Status.ENDED)
            case Retry():
                if here.cause == "forget":
                    raise InvalidCommandError("ctx", "is forgotten")
                both = FrozenDict({**here.annotations, **notes})
                again = Transition(here.to, both, here.cause, origin=origin)
                draft.step(again, Status.ACTIVE)

    def _store_data(self, draft: Draft, alias: str) -> None:
        if alias not in draft.ctx.data:
            raise DataNotFoundError(alias)
        data = draft.ctx.data[alias]
        ref, checksum = draft.state.data.get(alias), checksum_of(data)
        if ref is None or ref.checksum != checksum:
            ref = DataRef(ref.rev + 1 if ref else 1, checksum)
            refs = FrozenDict({**draft.state.data, alias: ref})
            draft.state = replace(draft.state, data=refs)
            self._data.append(replace(data, rev=ref.rev, checksum=checksum))
        draft.data[alias] = replace(data, rev=ref.rev, checksum=checksum)
        draft.put = True

    def _get_data(self, draft: Draft, alias: str) -> Data:
        ref = draft.state.data.get(alias)
        if ref is None:
            raise DataNotFoundError(alias)
        stored = {data.checksum: data for data in self._data}
        stored |= {checksum: each.data for checksum, each in self._stored.items()}
        if ref.checksum not in stored:
            raise DataNotFoundError(alias)
        found = replace(stored[ref.checksum], rev=ref.rev, checksum=ref.checksum)
        draft.data[alias] = found
        return found

    def do(self, command: Command[Any]) -> Writes | None:
        """Apply a command; return what it writes, if anything. Needs are the most there can be.

        Raises:
            FlowstateError: it is refused.
        """
        if isinstance(command, Commit):
            for each in command.commands:
                self.add(each)
            return self._together()
        self.add(command)
        if isinstance(command, StoreData):
            return Writes("", data=tuple(self._data)) if self._data else None
        if isinstance(command, Delay):
            draft = self.draft(command.ctx)
            if any(_timer_rows(draft, draft.state, 0)):
                raise InvalidCommandError("delay", "would lose what became of timers")
            state = _to_put(draft, draft.kept() if draft.steps else draft.state)
            delays = (_new_delay(command, state, None),)
            needs = tuple(sums(state) - sums(draft.ctx.committed))
            return Writes("", checks=((state.id, draft.expected),), delays=delays, needs=needs)
        return None

    def _together(self) -> Writes:
        puts = [draft for draft in self.drafts.values() if draft.put]
        ids = [draft.state.id for draft in puts]
        if len(set(ids)) < len(ids) or not (puts or self._checks):
            raise InvalidCommandError("commit", "names a state twice, or nothing at all")
        states = tuple(_to_put(draft, draft.kept()) for draft in puts)
        forgets = tuple(n for n, draft in enumerate(puts) if _is_forgotten(draft, states[n]))
        if any(puts.index(draft) in forgets for draft, _ in self._delays):
            raise InvalidCommandError("commit", "delays what it forgets")
        delays = tuple(
            _new_delay(command, states[puts.index(draft)], puts.index(draft))
            for draft, command in self._delays
        )
        brought = {data.checksum for data in self._data}
        needs = {
            checksum
            for draft in puts
            for checksum in sums(draft.state) - sums(draft.ctx.committed) - brought
        }
        timers, drops = list[NewTimer](), list[Drop]()
        for place, draft in enumerate(puts):
            new, gone = _timer_rows(draft, states[place], place)
            timers += new
            drops += gone
        return Writes(
            "",
            puts=states,
            checks=(*self._checks, *self._mailboxes.items()),
            data=tuple(self._data),
            delays=delays,
            needs=tuple(needs),
            drops=tuple(drops),
            timers=tuple(timers),
            forgets=forgets,
        )


def sums(state: State) -> set[str]:
    """Return the checksums that a state refers to."""
    return {ref.checksum for ref in state.data.values()}


def _to_put(draft: Draft, state: State) -> State:
    return replace(state, rev=draft.expected, delayed_until=None)


def _is_forgotten(draft: Draft, state: State) -> bool:
    is_last = state.transition.cause == "forget"
    has_more = state.annotations or state.values or state.data or state.timers
    if draft.forgotten > is_last or (is_last and (has_more or state.status is not Status.ENDED)):
        raise InvalidCommandError("commit", "changes a state after it was forgotten")
    return is_last


def _due(timer: Timer, known: State) -> datetime | None:
    """Return when a timer of a committed revision is due."""
    if timer.after is None:
        return timer.due
    return (known.committed_at or LONG_AGO) + timer.after


def _timer_rows(draft: Draft, put: State, place: int) -> tuple[list[NewTimer], list[Drop]]:
    """Return the rows of timers to be stored, and to be removed: what differs from the revision."""
    id, known = put.id, draft.ctx.committed
    before = {name: (timer.to, _due(timer, known)) for name, timer in known.timers.items()}
    new = [
        NewTimer(timer_id(id, name), name, place, timer.to, timer.due, timer.after, "")
        for name, timer in put.timers.items()
        if known.timers.get(name) is not timer and before.get(name) != (timer.to, timer.due)
    ]
    return new, [Drop(timer_id(id, name), "") for name in before if name not in put.timers]


def _new_delay(command: Delay, state: State, put: int | None) -> NewDelay:
    notes = FrozenDict(command.annotations)
    return NewDelay(
        state,
        command.to,
        notes,
        command.until,
        command.after,
        commit=command.commit,
        body="",
        put=put,
    )
