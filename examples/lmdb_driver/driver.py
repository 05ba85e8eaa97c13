"""The driver: it reads in the event loop, from the file's memory map, and writes in a thread."""

import heapq
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import attrs
import lmdb
from msgspec.structs import replace

from examples.lmdb_driver.store import Blob, Delay, Revision, Tables, digest, place_of, rev_key
from flowstate import Clock, Data, State, errors
from flowstate import driver as contract
from flowstate.drivers.kit import records
from flowstate.drivers.kit.base import BaseDriver, Session, clock_or_system, is_clock
from flowstate.drivers.kit.scanning import in_lists, scanned_due_page, scanned_page
from flowstate.drivers.kit.threads import Worker
from flowstate.drivers.kit.times import from_micros, to_micros
from flowstate.ground.frozen import FrozenDict

T = TypeVar("T")
MAX_BYTES = 2**36  # Of the file. It takes no more than it needs.


class Reader(Tables):
    """Reads from one snapshot."""

    def state(self, id: str, rev: int | None = None) -> State | None:
        found = self.latest(id) if rev is None else self.find(Revision, rev_key(rev))
        return records.state_or_raise(self._row(found)) if found and found.id == id else None

    def _row(self, of: Revision | None) -> tuple[Any, ...]:
        if of is None:
            return (None,) * 5
        return of.rev, of.id, of.committed_at, of.delayed_until, self.txn.get(b"body" + of.key)

    def data(self, checksum: str) -> Data | None:
        b = self.find(Blob, checksum.encode())
        return Data(b.blob, FrozenDict(b.annotations), checksum=checksum) if b else None

    def page(self, query: contract.StateQuery) -> contract.States:
        head, floor = self.number(b"head"), self.number(b"floor", 1)
        return scanned_page(query, partial(self._candidates, query), head=head, floor=floor)

    def _candidates(self, query: contract.StateQuery, rev: int, step: int) -> Iterator[records.Row]:
        """Return revisions from one on, up or down; all that match are among them."""
        revs = in_lists(self._lists(query), self._nearest, rev, step)
        found = (self.find(Revision, rev_key(rev)) for rev in revs)
        return (self._row(each) for each in found if each and each.is_latest >= query.latest_only)

    def _nearest(self, name: bytes, rev: int, step: int) -> int | None:
        entry = next(self.scan(name, rev_key(rev), step), None)
        return int.from_bytes(entry[0], "big") if entry else None

    def _lists(self, query: contract.StateQuery) -> list[list[bytes]]:
        """Return the lists that a query is about: OR of ANDs."""
        which = b"latest" if query.latest_only else b"every"
        status = "" if query.status is None else query.status.value
        own = [] if query.id is None else [b"id" + digest(query.id)]
        every: list[list[Any]] = [[(), *each.items()] for each in query.labels or [FrozenDict()]]
        return [[*own, *(which + digest(*pair, status) for pair in pairs)] for pairs in every]

    def count(self, query: contract.StateQuery) -> int:
        found: set[bytes] = set()
        for lists in self._lists(replace(query, latest_only=True)):
            found |= set.intersection(*({key for _, key in self.scan(name)} for name in lists))
        return len(found)

    def due(self, query: contract.DueQuery) -> contract.DuePage:
        kind, name = (Delay if query.kind == "delay" else Revision), b"due " + query.kind.encode()
        start = b"" if query.after is None else place_of(to_micros(query.after[0]), query.after[1])
        firsts = dict(self._flows(kind, name)) if query.flows is None or query.others else {}
        flows = firsts if query.flows is None else dict.fromkeys(query.flows)
        entries = heapq.merge(*(self.scan(name + digest(flow), start) for flow in flows))
        rows = (self._due_row(self.find(kind, key)) for place, key in entries if place != start)
        return scanned_due_page(query, rows, now=self.now, firsts=firsts)

    def _flows(self, kind: type[Any], name: bytes) -> Iterator[tuple[str, int]]:
        """Return the flows with something due, and when the first of it is."""
        start = b""
        while entry := next(self.scan(name, start), None):
            first: Any = self.find(kind, entry[1])
            yield first.flow, first.due
            start = entry[0][:16] + b"\xff" * 9

    def _due_row(self, found: Any) -> records.Row:
        if isinstance(found, Revision):
            return (found.id, found.due, found.id, found.rev, "", *self._row(found))
        is_timer, rev = found.rev == records.TIMER_REV, rev_key(found.rev)
        of = self.latest(found.state_id) if is_timer else self.find(Revision, rev)
        return (found.id, found.due, found.state_id, found.rev, found.body, *self._row(of))

    def liveness(self, ids: Sequence[str]) -> list[contract.Liveness | None]:
        return [self._liveness(latest) if (latest := self.latest(id)) else None for id in ids]

    def _liveness(self, latest: Revision) -> contract.Liveness:
        delays = (self._due_row(d) for d in self.delays_of(latest.id) if d.rev == latest.rev)
        due = None if latest.stalls_after is None else latest.due
        row = (latest.rev, due, latest.beat_at, latest.note)
        return records.liveness_of(row, delays, from_micros(self.now))


class Environment(Session):
    """An open file, and the thread that writes to it."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._env: Any = None
        self._thread = Worker("LMDB", clock)

    async def open(self) -> str:
        return await self.write(Tables.identify)

    async def close(self) -> None:
        if self._env is not None:
            await self.write(Tables.identify)  # What was begun ends first.
            self._env.close()
        self._thread.stop()

    def read(self, do: Callable[..., T], *args: object, write: bool = False) -> T:
        try:
            if self._env is None:
                self._env = lmdb.open(self._path, map_size=MAX_BYTES)
            with self._env.begin(write=write) as txn:
                return do(Reader(txn, to_micros(self._clock.now())), *args)
        except (lmdb.Error, OSError) as error:
            is_full = isinstance(error, lmdb.MapFullError | lmdb.DiskError)
            kind = errors.StoreFullError if is_full else errors.StoreUnavailableError
            raise kind(f"LMDB: {error}") from error

    async def write(self, do: Callable[..., T], *args: object) -> T:
        return await self._thread.do(partial(self.read, do, *args, write=True))


def _reading(do: Callable[..., T]) -> Callable[..., Coroutine[Any, Any, T]]:
    async def read(self: "LmdbDriver", *args: Any) -> T:
        return self._opened().read(do, *args)

    return read


@attrs.define(eq=False, slots=False)
class LmdbDriver(BaseDriver[Environment]):
    """Stores revisions in a folder, which is made, and that no other process has open."""

    _path: str = attrs.field(converter=os.fspath)
    _clock: Clock = attrs.field(default=None, converter=clock_or_system, validator=is_clock)

    durability = "power"
    max_batch_size = 256
    shared = False
    _name = "the LMDB driver"

    def _make_session(self) -> Environment:
        return Environment(self._path, self._clock)

    def _look(self, session: Environment) -> None:
        if self._news.seen is None:  # Later on, what this process commits is all the news.
            self._news.saw(session.read(Tables.number, b"head"), 0, -1)

    async def commit(self, batch: Sequence[contract.Writes]) -> Sequence[contract.Verdict]:
        try:
            verdicts = await self._opened().write(Tables.judge, batch)
        except errors.StoreFullError as error:
            if len(batch) == 1:
                return [error]
            return [verdict for writes in batch for verdict in await self.commit([writes])]
        except errors.StoreUnavailableError:  # Who knows what the disk has.
            return [errors.CommitUnknownError(writes.token) for writes in batch]
        self._news.note_commit(batch, verdicts)
        return verdicts

    get_state = _reading(Reader.state)
    get_states = _reading(Reader.page)
    count = _reading(Reader.count)
    get_data = _reading(Reader.data)
    get_due = _reading(Reader.due)
    get_liveness = _reading(Reader.liveness)

    async def beat(self, heartbeats: Sequence[contract.Heartbeat]) -> Sequence[bool]:
        return await self._opened().write(lambda tables: [*map(tables.beat, heartbeats)])

    async def compact(self, before_rev: int) -> int:
        removed = 0
        for kind in (Revision, Blob):
            after = b"\0"
            while after:
                some = Tables.compact_some, kind, before_rev, after
                count, after = await self._opened().write(*some)
                removed += count
        return removed
