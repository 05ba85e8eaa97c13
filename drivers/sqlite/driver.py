"""The SQLite driver: keeps blocking work in threads of its own."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import attrs

from flowstate.clock import Clock
from flowstate.data import Data
from flowstate.driver import (
    DuePage,
    DueQuery,
    Heartbeat,
    Liveness,
    StateQuery,
    States,
    Verdict,
    Writes,
)
from flowstate.drivers.kit.base import BaseDriver, clock_or_system, is_clock
from flowstate.drivers.sqlite import compaction, due, liveness, reader, writer
from flowstate.drivers.sqlite.file import File
from flowstate.drivers.sqlite.session import FileSession
from flowstate.errors import InvalidInputError
from flowstate.ground.options import choice, count, seconds
from flowstate.state import State

__all__ = ["SQLiteDriver"]


def _real_path(path: Any) -> str:
    name = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(name, str) or name in ("", ":memory:") or "\0" in name:
        raise InvalidInputError("path", "must name a file; use MemoryDriver for memory")
    # Not absolute(): one that comes through a symbolic link must meet the same lock files.
    return os.path.realpath(name)


@attrs.define(eq=False, slots=False)
class SQLiteDriver(BaseDriver[FileSession]):
    """Keeps every revision in one file, which several processes may have open at once.

    All processes must run on one machine, and the file must be on a local disk. Any event loop
    of the process may use the open driver. A driver that is open during a ``fork`` refuses to
    work in the child. When the file is moved, removed or replaced while it is open, every
    operation raises ``StoreUnavailableError``.

    Args:
        path: the file; made if there is none. Next to it appear ``-wal`` and ``-shm`` files of
            SQLite, and ``-lock`` and ``-turn`` files by which writers take turns.
        synchronous: ``"FULL"`` makes an acknowledged commit survive a power cut; ``"NORMAL"`` is
            several times faster, and a power cut may take the newest commits.
        timeout: seconds to wait for other writers.
        readers: how many reads run at the same time, from 1 to 100.
        poll_interval: seconds between two looks for commits of other processes, while a task
            waits for them.
        clock: stamps ``committed_at`` and judges delays.
    """

    max_batch_size = 128
    max_batch_bytes = 4 * 1024 * 1024
    shared = True
    loop_bound = False

    _path: str = attrs.field(converter=_real_path)
    _synchronous: Literal["FULL", "NORMAL"] = attrs.field(
        default="FULL", kw_only=True, validator=choice("FULL", "NORMAL")
    )
    _timeout: float = attrs.field(default=5.0, kw_only=True, validator=seconds(0, 1_000_000))
    _readers: int = attrs.field(default=2, kw_only=True, validator=count(1, 100))
    _poll_interval: float = attrs.field(
        default=0.02, kw_only=True, validator=seconds(0.001, 1_000_000)
    )
    _clock: Clock = attrs.field(
        default=None, kw_only=True, converter=clock_or_system, validator=is_clock
    )

    def __attrs_post_init__(self) -> None:
        self.durability = "power" if self._synchronous == "FULL" else "process"

    @property
    def _name(self) -> str:
        return self._path

    def _make_session(self) -> FileSession:
        open_file = partial(
            File,
            self._path,
            readers=self._readers,
            timeout=self._timeout,
            synchronous=self._synchronous,
        )
        return FileSession(open_file, self._readers, self._clock)

    def _look(self, session: FileSession) -> None:
        session.poll(self._poll_interval, self._news)

    async def _close(self, session: FileSession) -> None:
        await session.close()  # If this is cancelled, the threads go on.

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        verdicts = await self._opened().in_writer(writer.commit, batch, self._clock.now)
        self._news.note_commit(batch, verdicts)
        return verdicts

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        return await self._opened().read(lambda c: reader.get_state(c, id, rev))

    async def get_states(self, query: StateQuery) -> States:
        return await self._opened().read(lambda c: reader.get_states(c, query))

    async def count(self, query: StateQuery) -> int:
        return await self._opened().read(lambda c: reader.count(c, query))

    async def get_data(self, checksum: str) -> Data | None:
        return await self._opened().read(lambda c: reader.get_data(c, checksum))

    async def get_due(self, query: DueQuery) -> DuePage:
        return await self._opened().read(lambda c: due.get_due(c, query, self._clock.now()))

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        return await self._opened().write(lambda c: liveness.beat(c, heartbeats, self._clock.now()))

    async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        return await self._opened().read(lambda c: liveness.get_liveness(c, ids, self._clock.now()))

    async def compact(self, before_rev: int) -> int:
        write = self._opened().write
        removed = 0
        after: int | None = 0
        while after is not None:
            some = partial(compaction.compact_some, after=after, before_rev=before_rev)
            removed_now, after = await write(some)
            removed += removed_now
        after = 0
        while after is not None:
            after = await write(partial(compaction.drop_some, after=after, before_rev=before_rev))
        return removed
