"""Commands: frozen descriptions of what to do. An engine does them.

Because a command is data, it can be logged, compared, planned and checked before it is done.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.driver import DamagedDelay, DamagedRevision, DelayedState
from flowstate.ground.frozen import EMPTY, Value
from flowstate.state import State, Status

__all__ = [
    "CancelTimer",
    "Check",
    "Command",
    "Commit",
    "Delay",
    "DelayedPage",
    "End",
    "Execute",
    "Forget",
    "GetData",
    "GetDelayedStates",
    "GetState",
    "GetStates",
    "Labels",
    "Noop",
    "Page",
    "Pause",
    "Put",
    "Resume",
    "Retry",
    "SetTimer",
    "Stack",
    "StoreData",
    "Transit",
    "Unstack",
]

if TYPE_CHECKING:
    # A default, so that a flow may be annotated with a bare ``-> Command``. Type checkers know
    # this module without it being installed; ``typing`` has the default from 3.13 on.
    import typing_extensions

    R_co = typing_extensions.TypeVar("R_co", covariant=True, default=Any)
else:
    R_co = TypeVar("R_co", covariant=True)
Labels = Mapping[str, str] | Sequence[Mapping[str, str]]


class Command(Generic[R_co]):
    """The base of all commands; ``R_co`` is what ``engine.do`` returns for it.

    A subclass of a command does what its base does.
    """

    __slots__ = ()


class Transit(Value, Command[None], frozen=True, gc=False):
    """Move a state to flow ``to`` and make it active, also when it was paused or ended."""

    ctx: StateContext
    to: str
    annotations: Mapping[str, str] = EMPTY


class _Step(Value, Command[None], frozen=True):
    ctx: StateContext
    annotations: Mapping[str, str] = EMPTY


class Pause(_Step, frozen=True):
    """Set a state aside where it is: it is not executed until it is resumed or transited."""


class Resume(_Step, frozen=True):
    """Make a paused state active again, in the flow that it was in."""


class Retry(_Step, frozen=True):
    """Make a state active again in its flow, and leave its last transition as it is.

    The flow finds all that it found before: whether it was resumed or delayed, and the
    annotations of the transition, to which those given here are added.
    """


class End(_Step, frozen=True):
    """Finish a state where it is."""


class Forget(Value, Command[None], frozen=True):
    """Let the store forget an ended state.

    Within a ``Commit`` it writes the last revision of the state, which has nothing but its id,
    labels and flow: watches see it, with the cause ``"forget"``. From then on the store has no
    such state: pages of latest revisions do not show it, ``GetState`` does not find it, and the id
    may begin again at revision 0. ``compact`` removes all its revisions. The same commit may end
    the state first. Outside a ``Commit`` it only changes the working copy.
    """

    ctx: StateContext


class Delay(Value, Command[None], frozen=True):
    """Move a state to flow ``to`` later, unless it has moved on by then.

    Durable by itself outside a ``Commit``; within one it also commits the state. It belongs to
    the revision that the state has then: a state that moves on drops its delays. Data that the
    state refers to is kept for as long as the delay is there.

    In the flow that the state is in it is a pause within the step, so ``ctx.effect_key`` stays;
    ``Commit(Transit(ctx, to), Delay(ctx, to, ...))`` begins another step.

    Attributes:
        ctx: the state.
        to: the flow id.
        after: how long from now, by the store's clock. Either this or ``until``.
        until: when, with a time zone. A time in the past is due at once.
        commit: with ``False`` the state is executed in ``to`` without being committed first.
        annotations: of the transition that the delay makes when it fires.
    """

    ctx: StateContext
    to: str
    after: timedelta | None = None
    until: datetime | None = None
    commit: bool = True
    annotations: Mapping[str, str] = EMPTY


class SetTimer(Value, Command[None], frozen=True):
    """Set an alarm that sends a state to flow ``to``, however often it moves until then.

    A timer belongs to the state, and not to one revision as a ``Delay`` does: it survives every
    commit until it fires, is set again under its name, is cancelled, or the state ends. A
    ``Delayer`` fires it once, never early, by a commit at the latest revision, and makes a paused
    state active; what runs then is superseded. It postpones no recovery. ``ctx.timer`` is its name.

    Outside a ``Commit`` it only changes the working copy: the next commit sets the timer.

    Attributes:
        ctx: the state; not an ended one.
        name: of the timer, at most 512 bytes. A state has at most 64.
        to: the flow id.
        after: how long after the commit, by the store's clock. Either this or ``until``.
        until: when, with a time zone. A time in the past is due at once.
    """

    ctx: StateContext
    name: str
    to: str
    after: timedelta | None = None
    until: datetime | None = None


class CancelTimer(Value, Command[None], frozen=True):
    """Remove a timer, if the state has it; outside a ``Commit``, from the working copy only."""

    ctx: StateContext
    name: str


class Noop(Value, Command[None], frozen=True):
    """Do nothing: a flow returns it to stop executing its state and leave it as it is."""


class Execute(Value, Command[None], frozen=True):
    """Execute a copy of the context in the background; a flow that returns it goes on with it."""

    ctx: StateContext


class Check(Value, Command[None], frozen=True):
    """Within a ``Commit``: refuse it unless the stored revision is still the one in ``ctx``."""

    ctx: StateContext


class Put(Value, Command[None], frozen=True):
    """Within a ``Commit``: store the working copy as it is, without a step.

    If it is as it was committed, the stored revision is only checked.

    Attributes:
        ctx: the state.
        keep: a change from outside of the flow, as that of ``engine.update``: if the commit moves
            the state nowhere, the delays that were committed with it stay, and recovery comes no
            later than it would have. Otherwise a commit is progress, and drops the delays.
    """

    ctx: StateContext
    keep: bool = False


class Stack(Value, Command[None], frozen=True):
    """Put the whole of ``stacked`` into an annotation of ``carrier``.

    The carrier refers to the data of the stacked context, under aliases of its own, so that
    compaction keeps it. A name that is taken is refused: unstack it first.

    Attributes:
        carrier: gets the annotation.
        stacked: is left as it is.
        name: at most 400 bytes of UTF-8.
    """

    carrier: StateContext
    stacked: StateContext
    name: str


class Unstack(Value, Command[None], frozen=True):
    """Take a stacked context out of ``carrier`` and make ``into`` equal to it."""

    carrier: StateContext
    into: StateContext
    name: str


class StoreData(Value, Command[None], frozen=True):
    """Store ``ctx.data[alias]`` and refer to it from the working copy.

    Durable by itself outside a ``Commit``, but the reference is only stored when the state is
    committed; within a ``Commit`` the state is committed with it. Content that the state
    already refers to is not stored again.
    """

    ctx: StateContext
    alias: str


class GetData(Value, Command[Data], frozen=True):
    """Read the data that the working copy refers to, into ``ctx.data[alias]``.

    Raises:
        DataNotFoundError: the state has no such alias, or the data is no longer stored.
    """

    ctx: StateContext
    alias: str


class GetState(Value, Command[State], frozen=True):
    """Read the latest revision of a state, or revision ``rev`` of it.

    Without an id: the latest revision among all states with these labels.

    Raises:
        StateNotFoundError: there is none.
    """

    id: str | None = None
    rev: int | None = None
    labels: Labels = EMPTY


class GetStates(Value, Command["Page"], frozen=True):
    """Read a page of revisions, in the order of the log.

    Attributes:
        labels: a dict that a state's labels must contain, or a list of up to 100 dicts of which
            one must be contained. Empty: every state.
        since_rev: revisions above this one. ``None``: from the lowest that is still stored.
        since_latest: from the newest matching revision on.
        since_time: revisions committed at or after this time.
        latest_only: only revisions that are the latest of their state. A state that is
            committed while the pages are read can be on two of them, with rising revisions.
        status: revisions with this status.
        committed_before: revisions committed before this time.
        limit: at most so many, from 1 to 1,000.
        gaps_below: holes below this revision are accepted; set by ``page.next``.
        id: only revisions of this state.

    Raises:
        CompactedError: revisions above ``since_rev`` were removed (not with ``latest_only``).
        HistoryRewoundError: ``since_rev`` is above the head of the store.
    """

    labels: Labels = EMPTY
    since_rev: int | None = None
    since_latest: bool = False
    since_time: datetime | None = None
    latest_only: bool = False
    status: Status | None = None
    committed_before: datetime | None = None
    limit: int = 100
    gaps_below: int = 0
    id: str | None = None


class Page(Value, frozen=True):
    """Some of the revisions that were asked for.

    Attributes:
        states: in the order of the log. May be fewer than the limit although there is more.
        more: whether the log went on when the page was read.
        cursor: everything up to this revision has been looked at.
        next: the command that reads the next page.
        damaged: revisions of the page that cannot be read, in the order of the log. They count
            for the limit.
    """

    states: Sequence[State]
    more: bool
    cursor: int
    next: GetStates
    damaged: Sequence[DamagedRevision] = ()


class GetDelayedStates(Value, Command["DelayedPage"], frozen=True):
    """Read a page of delays and timers, the earliest first.

    Attributes:
        until: only delays due at or before this time. ``None``: all.
        limit: at most so many, from 1 to 1,000.
        cursor: where to go on; set by ``page.next``.
    """

    until: datetime | None = None
    limit: int = 100
    cursor: tuple[datetime, str] | None = None


class DelayedPage(Value, frozen=True):
    """Some of the delays that were asked for.

    Attributes:
        delayed: the earliest first. May be fewer than the limit although there is more.
        more: whether there were more when the page was read.
        next: the command that reads the next page.
        damaged: delays of the page that cannot be read. They count for the limit, apart from
            those whose time is damaged, which come with the first page.
    """

    delayed: Sequence[DelayedState]
    more: bool
    next: GetDelayedStates
    damaged: Sequence[DamagedDelay] = ()


class Commit(Command[None]):
    """Do several commands as one: all of them become durable together, or none of them.

    Every state that a command of it changes gets one new revision. ``Commit``, ``Execute``,
    ``GetStates`` and ``GetDelayedStates`` cannot be part of it. It may change 128 states, check
    1,000, and hold 1,000 delays, 128 data and 64 MiB.
    """

    __slots__ = ("_commands",)
    __match_args__ = ("commands",)

    def __init__(self, *commands: Command[object]) -> None:
        self._commands = commands

    @property
    def commands(self) -> tuple[Command[object], ...]:
        """The commands, in the order in which they apply."""
        return self._commands

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Commit) and self._commands == other._commands

    def __hash__(self) -> int:
        return hash(self._commands)

    def __repr__(self) -> str:
        return f"Commit({', '.join(map(repr, self._commands))})"
