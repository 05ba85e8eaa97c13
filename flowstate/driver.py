"""The storage contract: one write operation, a few reads, and a hint that something changed.

A driver knows nothing of commands, flows or logging. It takes plain writes, already checked and
encoded, makes them durable, and gives revisions; see ``docs/drivers.md`` for how to write one.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Literal, Protocol, Self

from msgspec import Struct

from flowstate.data import Data
from flowstate.errors import FlowstateError
from flowstate.frozen import FrozenDict, Value
from flowstate.state import State, Status

__all__ = [
    "Claim",
    "DamagedDelay",
    "DamagedRevision",
    "DelayedState",
    "Driver",
    "Drop",
    "DueKind",
    "DuePage",
    "DueQuery",
    "Durability",
    "Heartbeat",
    "Liveness",
    "NewDelay",
    "Seen",
    "StateQuery",
    "States",
    "Transaction",
    "Verdict",
    "Writes",
]

Durability = Literal["none", "process", "power"]
"""What an acknowledged commit survives: nothing, the death of the process, or a power cut."""

DueKind = Literal["delay", "stall"]
"""What is due: a delay that has to fire, or an active state that stands still."""


class NewDelay(Value, frozen=True, gc=False):
    """A delay to be stored: a :class:`DelayedState` with its stored form.

    Attributes:
        state: the state as it is to go on; at revision ``state.rev`` unless ``put`` is given.
        due: when it fires, UTC; or
        after: how long from the store's now.
        body: the stored form, JSON text: see :class:`flowstate.codec.DelayBody`.
        put: the index in ``Writes.puts`` of the state whose new revision the delay belongs to.
        references: checksums of data that must be kept for as long as the delay is there.
    """

    state: State
    to: str
    annotations: FrozenDict[str, str]
    due: datetime | None
    after: timedelta | None
    commit: bool
    body: str
    put: int | None = None
    references: tuple[str, ...] = ()


class Claim(Struct, frozen=True, gc=False):
    """Reserves a delay for one holder while the flow that it started runs.

    The claim is granted when the delay is there and is due by the store's now, or when ``holder``
    has claimed it already. The delay is then due ``seconds`` from the store's now. A claim that is
    refused refuses its whole commit with :class:`flowstate.ClaimLostError`.
    """

    id: str
    holder: str
    seconds: float


class Drop(Struct, frozen=True, gc=False):
    """Removes a delay that is there and was claimed by ``holder``; otherwise nothing happens."""

    id: str
    holder: str


class Writes(Value, frozen=True, gc=False):
    """One commit, as the driver sees it: all of it is stored, or nothing.

    Nothing in it can be refused for its form: the core has checked and encoded all of it.

    Attributes:
        token: unique to this commit. Stored with its revisions; the ids of its delays are the
            token, a dot, and their index. The same token is never applied twice.
        puts: new revisions. ``rev`` of each is the stored latest revision that it expects (0:
            there must be none). The ids differ from each other.
        bodies: the stored form of each put, JSON text. Empty for a driver whose
            ``stores_objects`` is true.
        checks: (id, rev) that must be the stored latest, without being written.
        data: to be stored under ``data.checksum``, unless that is stored already.
        delays: to be stored. A put drops all older delays of its state.
        needs: checksums that must be stored already, because a put or a delay newly refers to
            them.
        claims: delays to be claimed.
        drops: delays to be removed.
        size: bytes of all this, as far as it counts for ``Driver.max_batch_bytes``.
    """

    token: str
    puts: tuple[State, ...] = ()
    bodies: tuple[str, ...] = ()
    checks: tuple[tuple[str, int], ...] = ()
    data: tuple[Data, ...] = ()
    delays: tuple[NewDelay, ...] = ()
    needs: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    drops: tuple[Drop, ...] = ()
    size: int = 0


Verdict = tuple[State, ...] | FlowstateError
"""The committed revisions, one for each put, in order; or why nothing was written."""


class StateQuery(Value, frozen=True, gc=False):
    """A page of revisions above ``after``, in the order of the log.

    The fields say what :class:`flowstate.GetStates` says, apart from these.

    Attributes:
        labels: OR of ANDs; empty means every state.
        after: the cursor.
        since_latest: start at the newest matching revision instead.
        max_bytes: the page ends with the state whose stored form brings it to this many bytes.
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
    max_bytes: int = 16 * 1024 * 1024
    gaps_below: int | None = None


class DamagedRevision(Struct, frozen=True, gc=False):
    """A stored revision that cannot be read: damaged, or written by a newer library.

    ``id`` is that of the state, as far as that can be read, and ``error`` what is wrong with it.
    """

    rev: int
    id: str
    error: str


class States(Value, frozen=True, gc=False):
    """A page, read from one snapshot of the store.

    Attributes:
        states: the matches, in the order of the log.
        scanned_to: every match up to this revision is in this page or below the cursor. The
            head, once nothing more is to be had.
        more: whether a further page may have something.
        head: the highest revision in the store.
        floor: the lowest revision from which the log is complete.
        damaged: matches, as far as the store's indexes can tell, that cannot be read, in the
            order of the log. They count for the limit.
    """

    states: Sequence[State]
    scanned_to: int
    more: bool
    head: int
    floor: int
    damaged: Sequence[DamagedRevision] = ()


class DueQuery(Struct, frozen=True, gc=False):
    """A page of what is due, in the order of (due, id).

    Attributes:
        kind: delays, or states that stand still.
        flows: only what goes to one of these flows, or stands still in one; ``None`` means any.
            The cost follows the number of flows and the page, not what is due for other flows.
        until: due at or before; ``None`` means before the store's now.
        everything: also what is due later, whatever ``until`` says.
        after: (due, id) of the last one already seen.
        limit: at most so many. A page also ends with the one whose stored form brings it to
            ``MAX_PAGE_BYTES``; drivers that keep objects need not count them.
        others: also name flows outside ``flows`` for which something is due.
    """

    kind: DueKind
    flows: tuple[str, ...] | None = None
    until: datetime | None = None
    everything: bool = False
    after: tuple[datetime, str] | None = None
    limit: int = 100
    others: bool = False


class DelayedState(Value, frozen=True):
    """A delay that has not fired; or, on a page of stalled states, one of those.

    Attributes:
        id: names the delay; of a stalled state, its id.
        state: as it was delayed; ``state.rev`` is the revision that the delay belongs to.
        to: the flow that it goes to; of a stalled state, the flow that it is in.
        annotations: of the transition.
        due: when it fires, UTC; of a stalled state, since when it stands still for too long.
        commit: whether firing commits the transition first.
    """

    id: str
    state: State
    to: str
    annotations: FrozenDict[str, str]
    due: datetime
    commit: bool


class DamagedDelay(Struct, frozen=True, gc=False):
    """Something due that cannot be read: damaged, or written by a newer library.

    Attributes:
        id: names the delay; of a stalled state, its id.
        state_id: the state, as far as that can be read.
        due: when it was to fire, UTC; ``None`` when that is what is damaged.
        error: what is wrong with it.
    """

    id: str
    state_id: str
    due: datetime | None
    error: str


class DuePage(Value, frozen=True, gc=False):
    """A page of what is due.

    Attributes:
        due: in the order of (due, id). Stalled states are latest revisions.
        more: whether there are further ones that answer the query.
        now: the store's clock when the page was read.
        next_at: when the earliest one after this page is due, or ``None``. It is of the flows of
            the query.
        damaged: those of the page that cannot be read. They count for the limit, apart from
            those without a time, which have no place in the order and come with the first page.
            One whose flow cannot be read is on the pages of all flows.
        others: flows outside the query for which something is due, at most 100, in order; empty
            unless the query asked for them.
    """

    due: Sequence[DelayedState]
    more: bool
    now: datetime
    next_at: datetime | None
    damaged: Sequence[DamagedDelay] = ()
    others: Sequence[str] = ()

    @property
    def end(self) -> tuple[datetime, str] | None:
        """(due, id) of the last one of the page, for ``DueQuery.after``."""
        places = [(each.due, each.id) for each in self.due[-1:]]
        places += [(bad.due, bad.id) for bad in self.damaged if bad.due is not None]
        return max(places, default=None)


class Heartbeat(Value, frozen=True, gc=False):
    """A sign of life for one revision of a state, from the engine that executes or holds it.

    Attributes:
        id: of the state.
        rev: only while this is the state's latest revision.
        seconds: how long from the store's now the state may stand still; 0 hands it over, so that
            it is due at once; ``None`` changes nothing about that, nor does a number for a state
            that never stalls.
        note: for others to read, at most ``MAX_NOTE_BYTES`` of UTF-8; replaces the last one.
    """

    id: str
    rev: int
    seconds: float | None
    note: str


class Liveness(Value, frozen=True, gc=False):
    """What is known about the latest revision of a state.

    Attributes:
        rev: that revision.
        stalls_at: when it counts as stalled; ``None``: never.
        beat_at: when the last heartbeat came for it, by the store's clock; ``None``: none came.
        note: of that heartbeat.
        now: the store's clock.
        delay_due: when the earliest delay of that revision that can be read is due; ``None`` when
            there is none, or all of them are damaged.
    """

    rev: int
    stalls_at: datetime | None
    beat_at: datetime | None
    note: str
    now: datetime
    delay_due: datetime | None


class Seen(Struct, frozen=True, gc=False):
    """What a caller of :meth:`Driver.changed` has seen."""

    head: int = -1
    """The highest revision in the store."""
    due: int = -1
    """A number that changes when delays may have been written, by any process."""


class Transaction(Protocol):
    """A transaction of the user's own, which commits can be part of; some drivers have it."""

    store_id: str

    @abstractmethod
    def add(self, writes: Writes, settle: Callable[[Verdict], None]) -> None:
        """Let ``writes`` be stored when the transaction is committed, and ``settle`` be called."""


class Driver(Protocol):
    """Stores every revision. One driver object serves any number of engines.

    Every operation raises :class:`flowstate.DriverError` when the store fails, and
    :class:`flowstate.DriverClosedError` when the driver is not open. Every operation ends within
    a bounded time, also when it is cancelled and when the store stands still.

    Attributes:
        durability: what an acknowledged commit survives.
        max_batch_size: how many commits the engine may give to one call of :meth:`commit`; 1
            means that the driver gains nothing from batches and never waits.
        max_batch_bytes: how many bytes (``Writes.size``) a batch of more than one commit may have.
        max_concurrent_batches: how many calls of :meth:`commit` an engine may have going on at a
            time.
        stores_objects: whether the driver keeps the states themselves, so that the core need not
            encode them.
        shared: whether other processes may write to the same store.
        store_id: the same for every driver object on the same store; known once it is open.
    """

    durability: Durability
    max_batch_size: int
    max_batch_bytes: int = 32 * 1024 * 1024
    max_concurrent_batches: int = 1
    stores_objects: bool = False
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
        verdict. A commit of the batch that the store cannot take fails alone. With a
        ``max_batch_size`` above 1 the caller never cancels this call; with 1 it may, so there must
        be no ``await`` between the judgement and the end.
        """

    @abstractmethod
    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        """Return the latest revision of a state, or exactly revision ``rev`` of it.

        Raises:
            DamagedRevisionError: it is there and cannot be read.
        """

    @abstractmethod
    async def get_states(self, query: StateQuery) -> States:
        """Return a page of revisions; one that cannot be read is ``damaged``, and hides no other.

        Raises:
            CompactedError: revisions that the query insists on are compacted.
        """

    @abstractmethod
    async def get_data(self, checksum: str) -> Data | None:
        """Return stored data (with ``rev`` 0), or ``None``."""

    @abstractmethod
    async def get_due(self, query: DueQuery) -> DuePage:
        """Return a page of what is due; what cannot be read is ``damaged``, and hides nothing else.

        A state stalls when :func:`flowstate.recovery_rules.stalls_after` its latest revision has
        passed since the store's now at the commit, or since the earliest delay that was committed
        with it is due; a delay that is stored for that revision later, and a heartbeat, move that
        time.
        """

    @abstractmethod
    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        """Note signs of life; return for each whether its revision is the latest of its state.

        The ids differ from each other. What was noted may be lost when the store crashes, and is
        forgotten when the state gets its next revision.
        """

    @abstractmethod
    async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        """Return what is known about the latest revision of each state, ``None`` if it has none.

        The ids differ from each other.
        """

    @abstractmethod
    async def compact(self, before_rev: int) -> int:
        """Remove revisions below ``before_rev`` that are not the latest of their state.

        Data that no remaining revision and no delay refers to goes with them. Returns how many
        revisions were removed. The floor never goes down and never passes the head.
        """

    @abstractmethod
    async def changed(self, seen: Seen) -> Seen:
        """Return what the store has, once that may differ from what was ``seen``.

        It is a hint: it may return early, with what was seen, and the reads are the truth. The
        head may be lower than what was seen, which says that the store was rewound. Commits of
        other processes count; the driver polls for them if it has to. ``Seen()`` returns at once.

        Raises:
            DriverError: the store could not be asked; the caller asks again later.
        """
