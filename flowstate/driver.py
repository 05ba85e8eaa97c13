"""The storage contract: one write operation, a few reads, and hints that something changed.

A driver knows nothing of commands, flows or logging. It takes plain writes, makes them durable,
and gives revisions; see ``docs/drivers.md`` for how to write one.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Literal, Protocol, Self

from msgspec import Struct

from flowstate.data import Data
from flowstate.errors import FlowstateError
from flowstate.frozen import FrozenDict
from flowstate.state import State, Status

__all__ = [
    "DamagedDelay",
    "DamagedState",
    "DelayQuery",
    "DelayedState",
    "DelayedStates",
    "Driver",
    "Durability",
    "Heartbeat",
    "Liveness",
    "NewDelay",
    "StalledQuery",
    "StalledStates",
    "StateQuery",
    "States",
    "Transaction",
    "Verdict",
    "Writes",
]

Durability = Literal["none", "process", "power"]
"""What an acknowledged commit survives: nothing, the death of the process, or a power cut."""


class NewDelay(Struct, frozen=True, gc=False):
    """A delay to be stored.

    Attributes:
        state: the state as it is to go on; at revision ``state.rev`` unless ``put`` is given.
        to: the flow that it goes to.
        annotations: of the transition.
        due: when; or
        after: how long from the store's now.
        commit: whether firing commits the transition first.
        put: the index in ``Writes.puts`` of the state whose new revision the delay belongs to.
    """

    state: State
    to: str
    annotations: FrozenDict[str, str]
    due: datetime | None
    after: timedelta | None
    commit: bool
    put: int | None = None


class Writes(Struct, frozen=True, gc=False):
    """One commit, as the driver sees it: all of it is stored, or nothing.

    Attributes:
        token: unique to this commit. Stored with its revisions; the ids of its delays are the
            token, a dot, and their index. The same token is never applied twice.
        puts: new revisions. ``rev`` of each is the stored latest revision that it expects (0:
            there must be none). The ids differ from each other.
        checks: (id, rev) that must be the stored latest, without being written.
        data: to be stored under ``data.checksum``, unless that is stored already.
        delays: to be stored. A put drops all older delays of its state.
        needs: checksums that must be stored already, because a put newly refers to them.
    """

    token: str
    puts: tuple[State, ...] = ()
    checks: tuple[tuple[str, int], ...] = ()
    data: tuple[Data, ...] = ()
    delays: tuple[NewDelay, ...] = ()
    needs: tuple[str, ...] = ()


Verdict = tuple[State, ...] | FlowstateError
"""The committed revisions, one for each put, in order; or why nothing was written."""


class StateQuery(Struct, frozen=True, gc=False):
    """A page of revisions above ``after``, in the order of the log.

    Attributes:
        labels: OR of ANDs; empty means every state.
        after: the cursor.
        since_latest: start at the newest matching revision instead.
        since_time: committed at or after.
        committed_before: committed before.
        latest_only: only the latest revision of each state.
        status: only this status.
        limit: at most so many states.
        gaps_below: raise ``CompactedError`` when the log is incomplete between the cursor and
            the floor, unless the floor is at most this; ``None`` accepts any hole.
    """

    labels: tuple[FrozenDict[str, str], ...] = ()
    after: int = 0
    since_latest: bool = False
    since_time: datetime | None = None
    committed_before: datetime | None = None
    latest_only: bool = False
    status: Status | None = None
    limit: int = 100
    gaps_below: int | None = None


class States(Struct, frozen=True, gc=False):
    """A page, read from one snapshot of the store.

    Attributes:
        states: the matches, in the order of the log.
        scanned_to: every match up to this revision is in this page or below the cursor. The
            head, once nothing more is to be had.
        more: whether a further page may have something.
        head: the highest revision in the store.
        floor: the lowest revision from which the log is complete.
    """

    states: Sequence[State]
    scanned_to: int
    more: bool
    head: int
    floor: int


class DelayQuery(Struct, frozen=True, gc=False):
    """A page of delays in the order of (due, id).

    Attributes:
        until: due at or before; ``None`` means before the store's now.
        everything: also those that are due later, whatever ``until`` says.
        after: (due, id) of the last delay already seen.
        limit: at most so many.
    """

    until: datetime | None = None
    everything: bool = False
    after: tuple[datetime, str] | None = None
    limit: int = 100


class DelayedState(Struct, frozen=True, gc=False):
    """A delay that has not fired.

    Attributes:
        id: names the delay.
        state: as it was delayed; ``state.rev`` is the revision that the delay belongs to.
        to: the flow that it goes to.
        annotations: of the transition.
        due: when it fires, UTC.
        commit: whether firing commits the transition first.
    """

    id: str
    state: State
    to: str
    annotations: FrozenDict[str, str]
    due: datetime
    commit: bool


class DamagedDelay(Struct, frozen=True, gc=False):
    """A delay that has not fired and cannot be read: damaged, or written by a newer library.

    Attributes:
        id: names the delay.
        state_id: the state that is delayed, as far as that can be read.
        due: when it was to fire, UTC; ``None`` when that is what is damaged.
        error: what is wrong with it.
    """

    id: str
    state_id: str
    due: datetime | None
    error: str


class DelayedStates(Struct, frozen=True, gc=False):
    """A page of delays.

    Attributes:
        delayed: in the order of (due, id).
        more: whether there are further ones that answer the query.
        now: the store's clock when the page was read.
        next_due: when the earliest delay after this page is due, or ``None``.
        damaged: those of the page that cannot be read. They count for the limit, apart from
            those without a time, which have no place in the order and come with the first page.
    """

    delayed: Sequence[DelayedState]
    more: bool
    now: datetime
    next_due: datetime | None
    damaged: Sequence[DamagedDelay] = ()

    @property
    def end(self) -> tuple[datetime, str] | None:
        """(due, id) of the last delay of the page, for ``DelayQuery.after``."""
        places = [(delay.due, delay.id) for delay in self.delayed[-1:]]
        places += [(bad.due, bad.id) for bad in self.damaged if bad.due is not None]
        return max(places, default=None)


class Heartbeat(Struct, frozen=True, gc=False):
    """A sign of life for one revision of a state, from whoever executes or holds it.

    Attributes:
        id: of the state.
        rev: only while this is the state's latest revision.
        seconds: how long from the store's now the state may stand still; ``None`` changes nothing
            about that, nor does a number for a state that never stalls.
        note: for others to read, at most ``MAX_NOTE_BYTES`` of UTF-8; replaces the last one.
    """

    id: str
    rev: int
    seconds: float | None
    note: str


class Liveness(Struct, frozen=True, gc=False):
    """What is known about the latest revision of a state.

    Attributes:
        rev: that revision.
        stalls_at: when it counts as stalled; ``None``: never.
        beat_at: when the last heartbeat came for it, by the store's clock; ``None``: none came.
        note: of that heartbeat.
        now: the store's clock.
        delay_due: when the earliest delay of that revision that has not fired is due.
    """

    rev: int
    stalls_at: datetime | None
    beat_at: datetime | None
    note: str
    now: datetime
    delay_due: datetime | None


class StalledQuery(Struct, frozen=True, gc=False):
    """A page of stalled states, those that stalled first in front.

    Attributes:
        after: (time, id) of the end of the page before.
        limit: at most so many.
    """

    after: tuple[datetime, str] | None = None
    limit: int = 100


class DamagedState(Struct, frozen=True, gc=False):
    """A stalled state that cannot be read: damaged, or written by a newer library.

    Attributes:
        id: of the state.
        rev: its latest revision.
        error: what is wrong with it.
    """

    id: str
    rev: int
    error: str


class StalledStates(Struct, frozen=True, gc=False):
    """A page of stalled states.

    Attributes:
        states: latest revisions, in the order of (when they stalled, id).
        more: whether there are further ones.
        now: the store's clock when the page was read.
        next_at: when the earliest state after this page stalls, or ``None``.
        end: (time, id) of the last state of the page, for ``StalledQuery.after``; ``None`` when
            it is empty.
        damaged: those that cannot be read. They count for the limit.
    """

    states: Sequence[State]
    more: bool
    now: datetime
    next_at: datetime | None
    end: tuple[datetime, str] | None
    damaged: Sequence[DamagedState] = ()


class Transaction(Protocol):
    """A transaction of the user's own, which commits can be part of; some drivers have it.

    Attributes:
        store_id: of the store that it writes to.
    """

    store_id: str

    @abstractmethod
    def add(self, writes: Writes, settle: Callable[[Verdict], None]) -> None:
        """Let ``writes`` be stored when the transaction is committed, and ``settle`` be called."""


class Driver(Protocol):
    """Stores every revision. One driver object serves any number of engines.

    Every operation raises :class:`flowstate.DriverError` when the store fails, and
    :class:`flowstate.DriverClosedError` when the driver is not open.

    Attributes:
        durability: what an acknowledged commit survives.
        batch_limit: how many commits the engine may give to one call of :meth:`commit`; 1 means
            that the driver gains nothing from batches and never waits.
        batches_at_once: how many calls of :meth:`commit` an engine may have going on at a time.
        shared: whether other processes may write to the same store.
        store_id: the same for every driver object on the same store; known once it is open.
    """

    durability: Durability
    batch_limit: int
    batches_at_once: int = 1
    shared: bool
    store_id: str

    @abstractmethod
    async def __aenter__(self) -> Self:
        """Open, or count one more user of the open driver."""

    @abstractmethod
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close when the last user leaves."""

    @abstractmethod
    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Judge independent commits one after the other; return one verdict for each.

        Those that are not refused become durable, with dense revisions in the order of the
        batch. Raises only when the outcome of the whole batch is known to be "nothing was
        written"; a commit whose outcome cannot be found out has ``CommitUnknownError`` as its
        verdict. With a ``batch_limit`` above 1 the caller never cancels this call; with 1 it
        may, so there must be no ``await`` between the judgement and the end.
        """

    @abstractmethod
    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        """Return the latest revision of a state, or exactly revision ``rev`` of it."""

    @abstractmethod
    async def get_states(self, query: StateQuery) -> States:
        """Return a page of revisions."""

    @abstractmethod
    async def get_data(self, checksum: str) -> Data | None:
        """Return stored data (with ``rev`` 0), or ``None``."""

    @abstractmethod
    async def get_delayed(self, query: DelayQuery) -> DelayedStates:
        """Return a page of delays; one that cannot be read is ``damaged``, and fails no other."""

    @abstractmethod
    async def claim_delay(self, id: str, due: datetime, seconds: float) -> datetime | None:
        """Move a delay that is still due at ``due`` to ``seconds`` from the store's now.

        Returns the new time, or ``None`` when it is gone or somebody else has claimed it.
        """

    @abstractmethod
    async def drop_delay(self, id: str) -> None:
        """Remove a delay, if it is still there."""

    @abstractmethod
    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        """Note signs of life; return for each whether its revision is the latest of its state.

        The ids differ from each other. What was noted may be lost when the store crashes, and is
        forgotten when the state gets its next revision.
        """

    @abstractmethod
    async def get_liveness(self, id: str) -> Liveness | None:
        """Return what is known about the latest revision of a state, if there is one."""

    async def get_liveness_of(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        """Return what :meth:`get_liveness` returns for each of some ids, which all differ.

        A driver that can ask for many at once has a better one than this.
        """
        return [await self.get_liveness(id) for id in ids]

    @abstractmethod
    async def get_stalled(self, query: StalledQuery) -> StalledStates:
        """Return a page of states that stall at or before the store's now.

        A state stalls when :func:`flowstate.stalling.stalls_after` its latest revision has passed
        since the commit, or since the earliest delay that was committed with it is due; a delay
        that is stored for that revision later, and a heartbeat, move that time.
        """

    @abstractmethod
    async def compact(self, before_rev: int) -> int:
        """Remove revisions below ``before_rev`` that are not the latest of their state.

        Data that no remaining revision refers to goes with them. Returns how many revisions
        were removed. The floor never goes down and never passes the head.
        """

    @abstractmethod
    async def head(self) -> int:
        """Return the highest revision in the store; 0 when it is empty."""

    @abstractmethod
    async def wait(self, rev: int) -> None:
        """Return when the head may have passed ``rev``; early returns are allowed."""

    @abstractmethod
    async def wait_delay(self, seen: int) -> int:
        """Return a number that changes when delays may have been written, once it is not ``seen``.

        Delays of other processes count too; the driver polls for them if it has to.
        """
