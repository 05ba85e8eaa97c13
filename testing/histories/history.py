"""What processes did to a store and were told by it, in a form that survives their death.

Every process writes its own records, one JSON array a line, to a file of its own or to one that it
shares with others. A record is written in one call, so a process that is killed leaves whole
records, and at most one that is torn. Times are those of the monotonic clock in nanoseconds, which
all processes of a machine share.
"""

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
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
    "HistoryFile",
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
    "read_history",
    "read_records",
]


class Line(Struct, frozen=True, gc=False, array_like=True):
    """One record."""


T = TypeVar("T")


class Filter(Line, frozen=True):
    """Which revisions somebody wants to see; the default is all.

    Attributes:
        labels: OR of ANDs; empty means every state.
        status: only this one.
        since_time: committed at or after.
        committed_before: committed before.
    """

    labels: tuple[dict[str, str], ...] = ()
    status: Status | None = None
    since_time: datetime | None = None
    committed_before: datetime | None = None


class Invoked(Line, frozen=True, tag="commit"):
    """A commit is about to be sent. Without a record of how it ended, nobody knows.

    Attributes:
        op: names this attempt, and no other operation of any process.
        at: when.
        token: of the commit; repeated when the same commit is sent again.
        puts: (id, expected revision) of the states to be written.
        checks: (id, expected revision) of the states that are only compared.
        data: checksums of the data to be stored.
        delays: (id, revision) that each delay belongs to; -1 for the revision that the commit
            gives the state.
    """

    op: int
    at: int
    token: str
    puts: tuple[tuple[str, int], ...]
    checks: tuple[tuple[str, int], ...] = ()
    data: tuple[str, ...] = ()
    delays: tuple[tuple[str, int], ...] = ()


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
    """A commit ended, and nobody could say whether it happened."""

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
    """

    rev: int
    id: str
    token: str
    committed_at: datetime | None = None
    status: Status = Status.ACTIVE
    labels: dict[str, str] = {}
    data: tuple[str, ...] = ()


class Stored(Line, frozen=True, tag="stored"):
    """What else was stored in the end: checksums of data, and ids of delays."""

    data: tuple[str, ...]
    delays: tuple[str, ...]


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


class HistoryFile:
    """Appends records to a file; a context manager."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, record: Record) -> None:
        """Write a record; once this returns, it survives the death of the process.

        Raises:
            OSError: it is not written, or torn, as on a full disk.
        """
        # The line break is in front: a record that the death of its writer has torn spoils none
        # of those that others write behind it.
        line = b"\n" + msgspec.json.encode(record)
        if os.write(self._file, line) < len(line):
            raise OSError(errno.ENOSPC, "a record is torn", self._path)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def read_records(paths: Iterable[str | os.PathLike[str]]) -> tuple[list[Record], int]:
    """Return all records of some files, and how many are torn."""
    decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)
    records: list[Record] = []
    torn = 0
    for path in paths:
        text = Path(path).read_bytes()
        try:
            records += decoder.decode_lines(text)
        except msgspec.DecodeError:
            for line in filter(None, text.split(b"\n")):
                try:
                    records.append(decoder.decode(line))
                except msgspec.ValidationError:
                    raise
                except msgspec.DecodeError:
                    torn += 1
    return records, torn


def read_history(paths: Iterable[str | os.PathLike[str]]) -> History:
    """Return the history that some files tell together."""
    records, torn = read_records(paths)
    return History(records, torn=torn)
