"""The driver: it reads in the event loop, from the file's memory map, and writes in a thread."""

import asyncio
import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import attrs
import lmdb

from examples.lmdb_driver.reading import Reader
from examples.lmdb_driver.store import Blob, Revision, Writer
from flowstate import driver as contract
from flowstate import errors
from flowstate.clock import Clock
from flowstate.data import Data
from flowstate.drivers.kit.base import BaseDriver, Session, clock_or_system, is_clock
from flowstate.drivers.kit.times import to_micros
from flowstate.state import State

T = TypeVar("T")
MAX_BYTES = 2**36  # Of the file. It takes no more than it needs.
TIMEOUT = 30.0  # Seconds for what is to be written.


class Environment(Session):
    """An open file, and the thread that writes to it."""

    def __init__(self, path: str, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._env: Any = None
        self._thread = ThreadPoolExecutor(1, "lmdb")

    async def open(self) -> str:
        return await self.write(_identify)

    async def close(self) -> None:
        await self._in_thread(lambda: self._env and self._env.close())
        self._thread.shutdown(wait=False)

    def read(self, do: Callable[..., T], *args: object, write: bool = False) -> T:
        try:
            if self._env is None:
                self._env = lmdb.open(self._path, map_size=MAX_BYTES)
            with self._env.begin(write=write) as txn:
                tables = (Writer if write else Reader)(txn, to_micros(self._clock.now()))
                return do(tables, *args)
        except (lmdb.Error, OSError) as error:
            is_full = isinstance(error, lmdb.MapFullError | lmdb.DiskError)
            kind = errors.StoreFullError if is_full else errors.StoreUnavailableError
            raise kind(f"LMDB: {error}") from error

    async def write(self, do: Callable[..., T], *args: object) -> T:
        return await self._in_thread(partial(self.read, do, *args, write=True))

    async def _in_thread(self, do: Callable[[], T]) -> T:
        work = asyncio.get_running_loop().run_in_executor(self._thread, do)
        with self._clock.working():
            await asyncio.wait({work}, timeout=TIMEOUT)
        if not work.done():
            raise errors.StoreUnavailableError("LMDB: the disk does not answer")
        return work.result()


def _identify(tables: Writer) -> str:
    found: bytes = tables.txn.get(b"store_id") or f"lmdb-{uuid.uuid4().hex}".encode()
    tables.txn.put(b"store_id", found)
    return found.decode()


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
            self._news.saw(session.read(Reader.number, b"head"), 0, -1)

    async def commit(self, batch: Sequence[contract.Writes]) -> Sequence[contract.Verdict]:
        try:
            verdicts = await self._opened().write(Writer.judge, batch)
        except errors.StoreFullError as error:
            if len(batch) == 1:
                return [error]
            return [verdict for writes in batch for verdict in await self.commit([writes])]
        except errors.StoreUnavailableError:  # Who knows what the disk has.
            return [errors.CommitUnknownError(writes.token) for writes in batch]
        self._news.note_commit(batch, verdicts)
        return verdicts

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        return self._opened().read(Reader.state, id, rev)

    async def get_states(self, query: contract.StateQuery) -> contract.States:
        return self._opened().read(Reader.page, query)

    async def get_data(self, checksum: str) -> Data | None:
        return self._opened().read(Reader.data, checksum)

    async def get_due(self, query: contract.DueQuery) -> contract.DuePage:
        return self._opened().read(Reader.due, query)

    async def get_liveness(self, ids: Sequence[str]) -> Sequence[contract.Liveness | None]:
        return self._opened().read(lambda tables: [Reader.liveness(tables, id) for id in ids])

    async def beat(self, heartbeats: Sequence[contract.Heartbeat]) -> Sequence[bool]:
        return await self._opened().write(
            lambda tables: [Writer.beat(tables, each) for each in heartbeats]
        )

    async def compact(self, before_rev: int) -> int:
        removed = {Revision: 0, Blob: 0}
        for kind in removed:
            after: bytes | None = b""
            while after is not None:
                some = Writer.compact_some, kind, before_rev, after
                count, after = await self._opened().write(*some)
                removed[kind] += count
        return removed[Revision]
