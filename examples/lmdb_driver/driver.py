"""The driver: it reads in the event loop, from the file's memory map, and writes in threads."""

import asyncio
import heapq
import itertools
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import attrs
import lmdb
from msgspec import msgpack

from examples.lmdb_driver import writing
from examples.lmdb_driver.store import (
    Delay,
    Latest,
    Revision,
    Tables,
    digest,
    place_of,
    rev_key,
    time_of,
)
from flowstate import driver as contract
from flowstate import errors
from flowstate.clock import Clock
from flowstate.data import Data
from flowstate.drivers.kit.base import BaseDriver, Session, clock_or_system, is_clock
from flowstate.drivers.kit.records import delay_of, due_page, page_of, state_of, state_or_raise
from flowstate.drivers.kit.times import from_micros, to_micros
from flowstate.frozen import FrozenDict
from flowstate.reading import matches
from flowstate.state import State

__all__ = ["LmdbDriver"]

T = TypeVar("T")
DATABASES = ("meta", "data", "index", "Revision", "Latest", "Delay")
MAX_BYTES = 2**36  # Of the file. It takes no more than it needs.
SCANNED = 2_000  # Revisions that are looked at for one page.
CHUNK = 500
OTHERS = 100
NOTHING = (None,) * 5


class Environment(Session):
    """An open file."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._env: Any = None
        self._thread = ThreadPoolExecutor(1, "lmdb")
        self._databases: dict[str, Any] = {}

    async def open(self) -> str:
        if self._env is None:
            try:
                self._env = lmdb.open(self._path, max_dbs=len(DATABASES), map_size=MAX_BYTES)
            except (lmdb.Error, OSError) as error:
                raise errors.StoreUnavailableError(f"LMDB: {error}") from error
            self._databases = {name: self._env.open_db(name.encode()) for name in DATABASES}
        return await self.write(_identify)

    async def close(self) -> None:
        self._thread.shutdown(wait=False)
        if self._env is not None:
            self._env.close()

    def now(self) -> int:
        return to_micros(self._clock.now())

    def read(self, do: Callable[..., T], *args: object) -> T:
        tables = Tables(self._env, self._databases)
        try:
            return do(tables, *args)
        finally:
            tables.txn.abort()

    async def write(self, do: Callable[..., T], *args: object) -> T:
        loop = asyncio.get_running_loop()
        with self._clock.working():
            return await loop.run_in_executor(self._thread, partial(self._write, do, *args))

    def _write(self, do: Callable[..., T], *args: object) -> T:
        tables = Tables(self._env, self._databases, write=True)
        try:
            result = do(tables, *args)
            tables.txn.commit()
        except lmdb.Error as error:
            is_full = isinstance(error, lmdb.MapFullError | lmdb.DiskError)
            kind = errors.StoreFullError if is_full else errors.StoreUnavailableError
            raise kind(f"LMDB: {error}") from error
        finally:
            tables.txn.abort()  # Does nothing after a commit.
        return result


def _identify(tables: Tables) -> str:
    found: bytes = tables.get("meta", b"store_id") or f"lmdb-{uuid.uuid4().hex}".encode()
    tables.put("meta", b"store_id", found)
    return found.decode()


@attrs.define(eq=False, slots=False)
class LmdbDriver(BaseDriver[Environment]):
    """Stores revisions in a folder, which is made, and that no other process has open."""

    _path: str = attrs.field(converter=os.fspath)
    _clock: Clock = attrs.field(default=None, converter=clock_or_system, validator=is_clock)

    durability = "power"
    max_batch_size = 256
    shared = False

    @property
    def _name(self) -> str:
        return "the LMDB driver"

    def _make_session(self) -> Environment:
        return Environment(self._path, self._clock)

    def _look(self, session: Environment) -> None:
        if self._news.seen is None:  # Later on, what this process commits is all the news.
            self._news.saw(session.read(lambda tables: tables.number("head")), 0, -1)

    async def commit(self, batch: Sequence[contract.Writes]) -> Sequence[contract.Verdict]:
        session = self._opened()
        try:
            verdicts = await session.write(_judge_all, batch, session.now)
        except errors.DriverError as error:
            if len(batch) == 1:
                return [error]
            return [verdict for writes in batch for verdict in await self.commit([writes])]
        self._news.note_commit(batch, verdicts)
        return verdicts

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        row = self._opened().read(_row, id, rev)
        return state_or_raise(row) if row[1] == id else None

    async def get_states(self, query: contract.StateQuery) -> contract.States:
        return self._opened().read(_read_page, query)

    async def get_data(self, checksum: str) -> Data | None:
        value = self._opened().read(lambda tables: tables.get("data", checksum.encode()))
        if value is None:
            return None
        _, annotations, blob = msgpack.decode(value)
        return Data(blob, FrozenDict(annotations), checksum=checksum)

    async def get_due(self, query: contract.DueQuery) -> contract.DuePage:
        session = self._opened()
        return session.read(_read_due, query, session.now())

    async def get_liveness(self, ids: Sequence[str]) -> Sequence[contract.Liveness | None]:
        session = self._opened()
        now = session.now()
        return session.read(lambda tables: [_liveness(tables, id, now) for id in ids])

    async def beat(self, heartbeats: Sequence[contract.Heartbeat]) -> Sequence[bool]:
        session = self._opened()
        return await session.write(
            lambda tables: [writing.beat(tables, each, session.now()) for each in heartbeats]
        )

    async def compact(self, before_rev: int) -> int:
        session, removed, after = self._opened(), 0, 0
        while after >= 0:
            some, after = await session.write(writing.compact_some, after, before_rev, CHUNK)
            removed += some
        await session.write(writing.drop_data, before_rev)
        return removed


def _judge_all(
    tables: Tables, batch: Sequence[contract.Writes], now: Callable[[], int]
) -> list[contract.Verdict]:
    return [writing.judge(tables, writes, now()) for writes in batch]


def _row(tables: Tables, id: str, rev: int | None = None) -> tuple[Any, ...]:
    """Return a revision as the kit takes it, or as many ``None``."""
    if rev is None:
        latest = tables.find(Latest, digest(id))
        rev = latest.rev if latest else 0
    found = tables.find(Revision, rev_key(rev))
    if found is None:
        return NOTHING
    return (rev, found.id, found.committed_at, found.delayed_until, found.body)


def _lists(query: contract.StateQuery) -> list[bytes]:
    """Return which lists of revisions together have all that may match a query."""
    which = b"latest " if query.latest_only else b""
    status = b"" if query.status is None else query.status.value.encode()
    if query.labels:
        is_both = query.latest_only and status
        which, tail = (b"latest both", status) if is_both else (which + b"label", b"")
        return [which + digest(*next(iter(each.items()))) + tail for each in query.labels]
    return [which + b"status" + status if status else which + b"every"]


def _revs(entries: Iterable[tuple[bytes, bytes]]) -> Iterator[int]:
    return (int.from_bytes(key[-8:], "big") for key, _ in entries)


def _read_page(tables: Tables, query: contract.StateQuery) -> contract.States:
    head, after = tables.number("head"), query.after
    if query.since_latest:
        scans = [tables.scan("index", prefix, back=True) for prefix in _lists(query)]
        newest = heapq.merge(*map(_revs, scans), reverse=True)
        after = max(after, next((r for r in newest if _match(tables, query, r)), head + 1) - 1)
    scans = [tables.scan("index", prefix, rev_key(after + 1)) for prefix in _lists(query)]
    revs = heapq.merge(*map(_revs, scans))
    rows: list[Any] = []
    stop, left = None, query.max_bytes
    for scanned, (rev, _) in enumerate(itertools.groupby(revs), 1):
        if row := _match(tables, query, rev):
            rows.append(row)
            if len(rows) > query.limit or left <= 0:
                break  # That was one too many, so the page knows that there are more.
            left -= len(row[4])
        if scanned == SCANNED:
            stop = rev
            break
    return page_of(query, rows, head=head, floor=tables.number("floor", 1), stop=stop)


def _match(tables: Tables, query: contract.StateQuery, rev: int) -> tuple[Any, ...] | None:
    row = _row(tables, "", rev)
    try:
        return row if matches(query, state_of(row)) else None
    except errors.CodecError:
        return row  # It matches as far as the lists can tell.


def _flows(tables: Tables, kind: str) -> Iterator[tuple[str, int]]:
    """Iterate over the flows with something due, and when the first of it is."""
    prefix, start = b"due " + kind.encode(), b""
    while entry := next(tables.scan("index", prefix, start), None):
        yield msgpack.decode(entry[1])[0], time_of(entry[0][16:])
        start = entry[0][:16] + b"\xff" * 9


def _read_due(tables: Tables, query: contract.DueQuery, now: int) -> contract.DuePage:
    until = now if query.until is None else to_micros(query.until)
    start = b"" if query.after is None else place_of(to_micros(query.after[0]), query.after[1])
    known = dict(_flows(tables, query.kind)) if query.flows is None else query.flows
    prefixes = [b"due " + query.kind.encode() + digest(flow) for flow in dict.fromkeys(known)]
    entries = heapq.merge(*(tables.scan("index", prefix, start) for prefix in prefixes))
    rows: list[Any] = []
    next_at, more = None, False
    for place, value in (entry for entry in entries if entry[0] != start):
        due = next_at = time_of(place)
        more = query.everything or due <= until
        if len(rows) == query.limit or not more:
            break
        rows.append(_due_row(tables, query.kind, msgpack.decode(value)[1], due))
        next_at, more = None, False
    flows = _flows(tables, query.kind) if query.others and query.flows is not None else ()
    due_flows = {flow for flow, due in flows if query.everything or due <= until}
    others = sorted(due_flows.difference(query.flows or ()))[:OTHERS]
    time = from_micros(now)
    return due_page(query, rows, more=more, now=time, next_at=next_at, others=others)


def _due_row(tables: Tables, kind: str, key: bytes, due: int) -> tuple[Any, ...]:
    found: Any = tables.find(Latest if kind == "stall" else Delay, key)
    if found is None:
        return ("", due, "", 0, None, *NOTHING)
    state_id, body = getattr(found, "state_id", found.id), getattr(found, "body", "")
    return (found.id, due, state_id, found.rev, body, *_row(tables, "", found.rev))


def _liveness(tables: Tables, id: str, now: int) -> contract.Liveness | None:
    latest = tables.find(Latest, digest(id))
    if latest is None:
        return None
    own = [delay for delay in tables.delays_of(id) if delay.rev == latest.rev]
    dues = [delay.due for delay in own if _is_readable(tables, delay)]
    times = (latest.stalls_at, latest.beat_at, min(dues, default=None))
    stalls_at, beat_at, due = (None if at is None else from_micros(at) for at in times)
    return contract.Liveness(latest.rev, stalls_at, beat_at, latest.note, from_micros(now), due)


def _is_readable(tables: Tables, delay: Delay) -> bool:
    try:
        delay_of(_due_row(tables, "delay", digest(delay.id), delay.due))
    except errors.CodecError:
        return False
    return True
