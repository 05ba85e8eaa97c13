"""What processes did to a store and were told by it.

Times are those of the monotonic clock in nanoseconds, which all processes of a machine share.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from msgspec import Struct

from flowstate.state import Status

__all__ = [
    "Attempt",
    "Committed",
    "Compacted",
    "Delivered",
    "Dropped",
    "Failed",
    "Filter",
    "History",
    "Invoked",
    "LogRow",
    "PageRead",
    "Record",
    "Refused",
    "StateRead",
    "Stored",
    "Unknown",
    "WatchBegun",
    "WatchEnded",
    "WatchSession",
]


class Line(Struct, frozen=True, gc=False, array_like=True):
    """One record."""


T = TypeVar("T")


class Filter(Line, frozen=True):
    """Which revisions are to be seen; the default is all.

    Attributes:
        labels: OR of ANDs; empty means every state.
        status: only this one.
        since_time: committed at or after.
        committed_before: committed before.
        id: only this state.
    """

    labels: tuple[dict[str, str], ...] = ()
    status: Status | None = None
    since_time: datetime | None = None
    committed_before: datetime | None = None
    id: str | None = None


class Invoked(Line, frozen=True, tag="commit"):
    """A commit is about to be sent. Without a record of its end, its outcome is unknown.

    Attributes:
        op: names this attempt, and no other operation of any process.
        at: when.
        token: of the commit; repeated when the same commit is sent again.
        puts: (id, expected revision) of the states to be written.
        checks: (id, expected revision) of the states that are only compared.
        data: checksums of the data to be stored.
        delays: (id, revision) that each delay belongs to; -1 for the revision that the commit
            gives the state.
        timers: ids of the timers to be set.
        cancels: ids of the timers to be removed.
    """

    op: int
    at: int
    token: str
    puts: tuple[tuple[str, int], ...]
    checks: tuple[tuple[str, int], ...] = ()
    data: tuple[str, ...] = ()
    delays: tuple[tuple[str, int], ...] = ()
    timers: tuple[str, ...] = ()
    cancels: tuple[str, ...] = ()


class Committed(Line, frozen=True, tag="committed"):
    """A commit was acknowledged, with one revision for each put."""

    op: int
    at: int
    revs: tuple[int, ...]


class Refused(Line, frozen=True, tag="refused"):
    """A commit lost its compare-and-set, because of these ids."""

    op: int
    at: int
    ids: tuple[str, ...]


class Unknown(Line, frozen=True, tag="unknown"):
    """A commit ended, and it is unknown whether it happened."""

    op: int
    at: int


class Failed(Line, frozen=True, tag="failed"):
    """A commit failed, and it is known that nothing was written."""

    op: int
    at: int


class StateRead(Line, frozen=True, tag="get"):
    """One state was read.

    Attributes:
        op: names the operation.
        invoked: when it began.
        at: when it ended.
        id: of the state.
        rev: what was found; 0: nothing.
        wanted: the revision that was asked for; 0: the latest.
    """

    op: int
    invoked: int
    at: int
    id: str
    rev: int
    wanted: int = 0


class PageRead(Line, frozen=True, tag="page"):
    """A page of the log was read; the fields are those of ``StateQuery`` and ``States``."""

    op: int
    invoked: int
    at: int
    filter: Filter
    after: int
    since_latest: bool
    latest_only: bool
    revs: tuple[int, ...]
    scanned_to: int
    more: bool
    head: int
    floor: int


class WatchBegun(Line, frozen=True, tag="watch"):
    """A watch begins, or goes on where an earlier one of the same name has ended.

    Attributes:
        op: names this session of the watch.
        at: when.
        name: of the watch, across its sessions.
        filter: what it wants.
        after: the cursor that it begins with.
        since_latest: it begins with the newest match instead.
    """

    op: int
    at: int
    name: str
    filter: Filter
    after: int
    since_latest: bool = False


class Delivered(Line, frozen=True, tag="seen"):
    """A watch delivered a revision; ``op`` is that of its session."""

    op: int
    at: int
    rev: int
    id: str


class WatchEnded(Line, frozen=True, tag="unwatch"):
    """A session ended, with everything up to its cursor delivered."""

    op: int
    at: int
    cursor: int


class Dropped(Line, frozen=True, tag="drop"):
    """A delay is about to be removed."""

    id: str


class Compacted(Line, frozen=True, tag="compact"):
    """Revisions below one are about to be removed, except the latest of each state."""

    at: int
    before: int


class LogRow(Line, frozen=True, tag="log"):
    """One revision of the log, as it was in the end.

    Attributes:
        rev: the revision.
        id: of the state.
        token: of the commit that wrote it; empty when it was not recorded.
        committed_at: by the store's clock.
        status: for filters, as
        labels: are.
        data: checksums that it refers to.
        forgotten: it is the last revision of its state, which has no latest one any more.
    """

    rev: int
    id: str
    token: str
    committed_at: datetime | None = None
    status: Status = Status.ACTIVE
    labels: dict[str, str] = {}
    data: tuple[str, ...] = ()
    forgotten: bool = False


class Stored(Line, frozen=True, tag="stored"):
    """What else was stored in the end: checksums of data, ids of delays, and ids of timers."""

    data: tuple[str, ...]
    delays: tuple[str, ...]
    timers: tuple[str, ...] = ()


Outcome = Committed | Refused | Unknown | Failed
Record = (
    Invoked
    | Committed
    | Refused
    | Unknown
    | Failed
    | StateRead
    | PageRead
    | WatchBegun
    | Delivered
    | WatchEnded
    | Dropped
    | Compacted
    | LogRow
    | Stored
)


class Attempt(Struct, gc=False):
    """A commit that was sent, and how it ended; ``None``: its process died first."""

    invoked: Invoked
    outcome: Outcome | None = None


class WatchSession(Struct):
    """What a watch delivered between two connections; without an end, its process died."""

    begun: WatchBegun
    delivered: list[Delivered]
    ended: WatchEnded | None = None


class History:
    """All records, sorted by what they tell.

    Args:
        records: of any processes, those of each process in their order.

    Attributes:
        attempts: commits; one that was sent again is there again.
        reads: of states.
        pages: of the log.
        sessions: of watches, in the order in which they began.
        log: every revision at the end, in order.
        stored: what else there was at the end, if that was recorded.
        dropped: ids of delays that were removed.
        compactions: what may have been removed of the log.
        torn: how many records were not whole.
    """

    def __init__(self, records: Iterable[Record], *, torn: int = 0) -> None:
        self.attempts: list[Attempt] = []
        self.reads: list[StateRead] = []
        self.pages: list[PageRead] = []
        self.sessions: list[WatchSession] = []
        self.log: list[LogRow] = []
        self.stored: Stored | None = None
        self.dropped: set[str] = set()
        self.compactions: list[Compacted] = []
        self.torn = torn
        outcomes: list[Outcome] = []
        deliveries: list[Delivered] = []
        endings: list[WatchEnded] = []
        places: dict[type[Record], Callable[[Any], object]] = {
            Invoked: self._begin,
            Committed: outcomes.append,
            Refused: outcomes.append,
            Unknown: outcomes.append,
            Failed: outcomes.append,
            StateRead: self.reads.append,
            PageRead: self.pages.append,
            WatchBegun: lambda begun: self.sessions.append(WatchSession(begun, [])),
            Delivered: deliveries.append,
            WatchEnded: endings.append,
            Dropped: lambda dropped: self.dropped.add(dropped.id),
            Compacted: self.compactions.append,
            LogRow: self.log.append,
            Stored: self._keep,
        }
        for record in records:
            places[type(record)](record)
        self._pair(outcomes, deliveries, endings)

    def _begin(self, invoked: Invoked) -> None:
        self.attempts.append(Attempt(invoked))

    def _keep(self, stored: Stored) -> None:
        self.stored = stored

    def _pair(
        self,
        outcomes: Sequence[Outcome],
        deliveries: Sequence[Delivered],
        endings: Sequence[WatchEnded],
    ) -> None:
        """Put together what belongs to one operation, wherever it was written."""
        pending = {attempt.invoked.op: attempt for attempt in self.attempts}
        for outcome in outcomes:
            _begun(pending, outcome.op).outcome = outcome
        self.sessions.sort(key=lambda session: session.begun.at)
        sessions = {session.begun.op: session for session in self.sessions}
        for delivered in deliveries:
            _begun(sessions, delivered.op).delivered.append(delivered)
        for ended in endings:
            _begun(sessions, ended.op).ended = ended
        self.log.sort(key=lambda row: row.rev)


def _begun(operations: Mapping[int, T], op: int) -> T:
    """Return the operation with a number.

    Raises:
        ValueError: it has no beginning, as when only some of its files were read.
    """
    if op not in operations:
        raise ValueError(f"operation {op} ends in these records, and does not begin in them")
    return operations[op]
