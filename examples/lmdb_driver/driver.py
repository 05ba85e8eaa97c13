"""The driver: it reads in the event loop, from the file's memory map, and writes in a thread."""

import asyncio
import heapq
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from typing import Any, TypeVar

import attrs
import lmdb

from examples.lmdb_driver.store import Blob, Delay, Revision, Tables, digest, place_of, rev_key
from flowstate import Clock, Data, State, errors
from flowstate import driver as contract
from flowstate.drivers.kit import records
from flowstate.drivers.kit.base import BaseDriver, Session, clock_or_system, is_clock
from flowstate.drivers.kit.times import from_micros, to_micros
from flowstate.frozen import FrozenDict
from flowstate.reading import matches

T = TypeVar("T")
MAX_BYTES = 2**36  # Of the file. It takes no more than it needs.
SCANNED = 2_000  # Revisions that are looked at for one page.
OTHERS = 100
TIMEOUT = 30.0  # Seconds for what is to be written.


class Reader(Tables):
    """Reads from one snapshot."""

    def state(self, id: str, rev: int | None = None) -> State | None:
        found = self.latest(id) if rev is None else self.find(Revision, rev_key(rev))
        return records.state_or_raise(self._row(found.rev)) if found and found.id == id else None

    def _row(self, rev: int) -> tuple[Any, ...]:
        r, body = self.find(Revision, rev_key(rev)), self.txn.get(b"body" + rev_key(rev))
        return (rev, r.id, r.committed_at, r.delayed_until, body) if r else (None,) * 5

    def data(self, checksum: str) -> Data | None:
        b = self.find(Blob, checksum.encode())
        return Data(b.blob, FrozenDict(b.annotations), checksum=checksum) if b else None

    def page(self, query: contract.StateQuery) -> contract.States:
        head, after = self.number(b"head"), query.after
        if query.since_latest:
            newest = (rev for rev in self._some(query, head, -1) if self._match(query, rev))
            after = max(after, next(newest, head + 1) - 1)
        rows: list[records.Row] = []
        stop, left = None, query.max_bytes
        for scanned, rev in enumerate(self._some(query, after + 1, 1), 1):
            if row := self._match(query, rev):
                rows.append(row)
                if len(rows) > query.limit or left <= 0:
                    break  # That was one too many, so the page knows that there are more.
                left -= len(row[4])
            if scanned == SCANNED:
                stop = rev
                break
        return records.page_of(query, rows, head=head, floor=self.number(b"floor", 1), stop=stop)

    def _match(self, query: contract.StateQuery, rev: int) -> records.Row | None:
        row = self._row(rev)
        try:
            return row if matches(query, records.state_of(row)) else None
        except errors.CodecError:
            return row  # It matches as far as the lists can tell.

    def _some(self, query: contract.StateQuery, rev: int, step: int) -> Iterator[int]:
        """Return revisions from one on, up or down; all that match are among them."""
        which = b"latest" if query.latest_only else b"every"
        status = "" if query.status is None else query.status.value
        every: list[list[Any]] = [[(), *each.items()] for each in query.labels or [FrozenDict()]]
        lists = [[which + digest(*pair, status) for pair in pairs] for pairs in every]
        found = heapq.merge(*(self._leap(each, rev, step) for each in lists), reverse=step < 0)
        return (rev for rev, _ in groupby(found))

    def _leap(self, lists: Sequence[bytes], rev: int, step: int) -> Iterator[int]:
        """Return some revisions of lists; what is in all of them is among these."""
        while rev > 0:
            nearest = [next(self.scan(name, rev_key(rev), step), None) for name in lists]
            revs = [int.from_bytes(entry[0], "big") for entry in nearest if entry]
            if len(revs) < len(lists):
                return
            rev = max(revs) if step > 0 else min(revs)
            yield rev
            rev += step

    def due(self, query: contract.DueQuery) -> contract.DuePage:
        kind, name = (Delay if query.kind == "delay" else Revision), b"due " + query.kind.encode()
        until = self.now if query.until is None else to_micros(query.until)
        start = b"" if query.after is None else place_of(to_micros(query.after[0]), query.after[1])
        known = dict(self._flows(kind, name)) if query.flows is None or query.others else {}
        flows = known if query.flows is None else dict.fromkeys(query.flows)
        entries = heapq.merge(*(self.scan(name + digest(flow), start) for flow in flows))
        rows: list[records.Row] = []
        next_at, more = None, False
        for _, key in (entry for entry in entries if entry[0] != start):
            found: Any = self.find(kind, key)
            next_at, more = found.due, query.everything or found.due <= until
            if len(rows) == query.limit or not more:
                break
            rows.append(self._due_row(found))
            next_at, more = None, False
        is_due = {flow for flow, due in known.items() if query.everything or due <= until}
        others = sorted(is_due.difference(flows))[:OTHERS]
        now = from_micros(self.now)
        return records.due_page(query, rows, more=more, now=now, next_at=next_at, others=others)

    def _flows(self, kind: type[Any], name: bytes) -> Iterator[tuple[str, int]]:
        """Return the flows with something due, and when the first of it is."""
        start = b""
        while entry := next(self.scan(name, start), None):
            first: Any = self.find(kind, entry[1])
            yield first.flow, first.due
            start = entry[0][:16] + b"\xff" * 9

    def _due_row(self, found: Any) -> records.Row:
        state_id, body = getattr(found, "state_id", found.id), getattr(found, "body", "")
        return (found.id, found.due, state_id, found.rev, body, *self._row(found.rev))

    def liveness(self, ids: Sequence[str]) -> list[contract.Liveness | None]:
        return [self._liveness(id) for id in ids]

    def _liveness(self, id: str) -> contract.Liveness | None:
        latest = self.latest(id)
        if latest is None:
            return None
        now, own = from_micros(self.now), self.delays_of(id)
        rows = [self._due_row(delay) for delay in own if delay.rev == latest.rev]
        page = records.due_page(contract.DueQuery("delay"), rows, more=False, now=now, next_at=None)
        first = min((delay.due for delay in page.due), default=None)
        stalls_at, beat_at = (records.readable_time(at) for at in (latest.due, latest.beat_at))
        return contract.Liveness(latest.rev, stalls_at, beat_at, latest.note, now, first)


class Environment(Session):
    """An open file, and the thread that writes to it."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._env: Any = None
        self._thread = ThreadPoolExecutor(1, "lmdb")

    async def open(self) -> str:
        return await self.write(Tables.identify)

    async def close(self) -> None:
        if self._env is not None:
            await self.write(Tables.identify)  # What was begun ends first.
            self._env.close()
        self._thread.shutdown(wait=False)

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
        write = partial(self.read, do, *args, write=True)
        work = asyncio.get_running_loop().run_in_executor(self._thread, write)
        with self._clock.working():
            await asyncio.wait({work}, timeout=TIMEOUT)
        if not work.done():
            raise errors.StoreUnavailableError("LMDB: the disk does not answer")
        return work.result()


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
    get_data = _reading(Reader.data)
    get_due = _reading(Reader.due)
    get_liveness = _reading(Reader.liveness)

    async def beat(self, heartbeats: Sequence[contract.Heartbeat]) -> Sequence[bool]:
        return await self._opened().write(Tables.beat, heartbeats)

    async def compact(self, before_rev: int) -> int:
        removed, after, kinds = 0, b"", [Revision, Blob]
        while kinds:
            some = Tables.compact_some, kinds[0], before_rev, after
            count, after = await self._opened().write(*some)
            removed += count
            kinds = kinds if after else kinds[1:]
        return removed
