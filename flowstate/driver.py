"""The storage contract: one write operation, a few reads, and a hint that something changed.

A driver knows nothing of commands, flows or logging. It takes plain writes, already checked and
encoded, makes them durable, and gives revisions; see ``docs/drivers.md`` for how to write one.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal, Protocol, Self

from msgspec.structs import replace

from flowstate.data import Data
from flowstate.queries import (
    DamagedDelay,
    DamagedRevision,
    DelayedState,
    DueKind,
    DuePage,
    DueQuery,
    Liveness,
    Seen,
    StateQuery,
    States,
)
from flowstate.state import State
from flowstate.writes import Claim, Drop, Heartbeat, NewDelay, NewTimer, Verdict, Writes

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
    "NewTimer",
    "Seen",
    "StateQuery",
    "States",
    "Transaction",
    "Verdict",
    "Writes",
]

Durability = Literal["none", "process", "power"]
"""What an acknowledged commit survives: nothing, the death of the process, or a power cut."""


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

    async def count(self, query: StateQuery) -> int:
        """Return how many states have a latest revision with the labels and status of a query.

        The query is as for :meth:`get_states` with ``latest_only``; nothing else of it is given.
        What cannot be read counts as far as the store's indexes can tell. This reads all of them:
        a driver that has an index to count in does that instead.
        """
        count, more = 0, True
        while more:
            page = await self.get_states(query)
            count += len(page.states) + len(page.damaged)
            query, more = replace(query, after=page.scanned_to), page.more
        return count

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
