"""What a commit must write, by the plainest reading of its commands."""

from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from flowstate.commands import (
    Check,
    Command,
    Commit,
    Delay,
    End,
    GetData,
    Noop,
    Pause,
    Resume,
    Retry,
    StoreData,
    Transit,
)
from flowstate.context import StateContext
from flowstate.data import Data, DataRef, checksum_of
from flowstate.driver import NewDelay, Writes
from flowstate.errors import DataNotFoundError, InvalidCommandError, UnknownFlowError
from flowstate.frozen import FrozenDict
from flowstate.state import State, Status, Transition
from flowstate.testing.programs.model import StoredData

__all__ = ["Draft", "Planned", "sums"]


class Draft:
    """What becomes of one context.

    Attributes:
        state: its working copy.
        steps: those taken since the last commit.
        data: its blobs.
        put: whether it gets a new revision.
    """

    def __init__(self, ctx: StateContext) -> None:
        self.ctx = ctx
        self.state = ctx.current
        self.steps = ctx.transitions
        self.data = dict(ctx.data)
        self.put = False

    @property
    def expected(self) -> int:
        """The revision that the store must have."""
        return self.ctx.committed.rev

    def step(self, transition: Transition, status: Status) -> None:
        """Take a step."""
        self.state = replace(self.state, transition=transition, status=status, delayed_until=None)
        self.steps = (*self.steps, transition)
        self.put = True


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
        """
        match command:
            case Transit() | Pause() | Resume() | End() | Retry():
                self._step(command)
            case Delay(ctx, to):
                self._check_flow(to)
                draft = self.draft(ctx)
                draft.put = True
                self._delays.append((draft, command))
            case Check(ctx):
                self.draft(ctx)
                self._checks.append((ctx.committed.id, ctx.committed.rev))
            case StoreData(ctx, alias):
                self._store_data(self.draft(ctx), alias)
            case GetData(ctx, alias):
                self.found = self._get_data(self.draft(ctx), alias)
            case Noop():
                pass
            case _:
                raise NotImplementedError(type(command).__name__)

    def _check_flow(self, to: str) -> None:
        if to not in self._flows:
            raise UnknownFlowError(to)

    def _step(self, command: Transit | Pause | Resume | End | Retry) -> None:
        draft = self.draft(command.ctx)
        here, notes = draft.state.transition, FrozenDict(command.annotations)
        match command:
            case Transit(_, to):
                self._check_flow(to)
                draft.step(Transition(to, notes), Status.ACTIVE)
            case Pause():
                draft.step(Transition(here.to, notes, "pause"), Status.PAUSED)
            case Resume():
                draft.step(Transition(here.to, notes, "resume"), Status.ACTIVE)
            case End():
                draft.step(Transition(here.to, notes, "end"), Status.ENDED)
            case Retry():
                both = FrozenDict({**here.annotations, **notes})
                draft.step(Transition(here.to, both, here.cause), Status.ACTIVE)

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
            state = _to_put(draft)
            delays = (_new_delay(command, state, None),)
            needs = tuple(sums(state) - sums(draft.ctx.committed))
            return Writes("", checks=((state.id, draft.expected),), delays=delays, needs=needs)
        return None

    def _together(self) -> Writes:
        puts = [draft for draft in self.drafts.values() if draft.put]
        ids = [draft.state.id for draft in puts]
        if len(set(ids)) < len(ids) or not (puts or self._checks):
            raise InvalidCommandError("commit", "names a state twice, or nothing at all")
        states = tuple(_to_put(draft) for draft in puts)
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
        return Writes(
            "",
            puts=states,
            checks=tuple(self._checks),
            data=tuple(self._data),
            delays=delays,
            needs=tuple(needs),
        )


def sums(state: State) -> set[str]:
    """Return the checksums that a state refers to."""
    return {ref.checksum for ref in state.data.values()}


def _to_put(draft: Draft) -> State:
    return replace(draft.state, rev=draft.expected, delayed_until=None)


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
