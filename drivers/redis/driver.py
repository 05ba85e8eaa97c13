"""The Redis driver."""

from collections.abc import Iterator, Sequence
from typing import Any, Self, TypeVar

import attrs

from flowstate.codec import decode_annotations
from flowstate.data import Data
from flowstate.driver import (
    DuePage,
    DueQuery,
    Durability,
    Heartbeat,
    Liveness,
    StateQuery,
    States,
    Verdict,
    Writes,
)
from flowstate.drivers.kit.base import BaseDriver, News
from flowstate.drivers.redis import reader
from flowstate.drivers.redis.commits import CommitResolver
from flowstate.drivers.redis.options import Options
from flowstate.drivers.redis.watcher import Watcher
from flowstate.state import State

__all__ = ["RedisDriver"]

CHUNK = 500
T = TypeVar("T")


class Session(CommitResolver):
    """A store that is open, and its watcher."""

    def __init__(self, options: Options, news: News) -> None:
        super().__init__(options)
        self.watcher = Watcher(self, news)

    async def close(self) -> None:
        """Close all of it."""
        await self.watcher.close()
        await super().close()


@attrs.define(eq=False, slots=False)
class RedisDriver(Options, BaseDriver[Session]):
    """Keeps every revision in one namespace of a Redis (6.2 or newer) or Valkey server.

    Any number of processes on any number of machines may use the same namespace. An open driver
    belongs to the event loop and the process that opened it. The server's clock stamps
    ``committed_at`` and judges what is due. What an acknowledged commit survives depends on the
    server's settings, see ``durability``; no setting makes a failover to a replica safe.

    Args:
        store: the URL of a server, or a client of your own (``redis.asyncio.Redis`` or
            ``RedisCluster``), which you close.
        namespace: where the keys are, all under the hash tag ``{namespace}``: on a cluster, one
            namespace is on one shard.
        require_durability: refuse a server that promises less.
        wait_aof: how many must have a commit on disk before it is acknowledged, (1 for this
            server or 0, replicas): needs Redis 7.2 and appendonly. A commit that too few have
            raises ``CommitUnknownError``.
        timeout: seconds for which an operation is tried again while the server cannot be
            reached, and to wait for a reply. An operation ends after little more than twice
            this time.
        clock: for timeouts and pauses.

    Raises:
        InvalidInputError: an option is refused.
    """

    durability: Durability = attrs.field(init=False, default="none")

    max_batch_size = 64
    shared = True

    def _make_session(self) -> Session:
        return Session(self, self._news)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.durability = self._opened().durability
        return self

    def _look(self, session: Session) -> None:
        session.watcher.start()

    # The contract

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        verdicts = await self._opened().commit(batch)
        self._news.note_commit(batch, verdicts)
        return verdicts

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        answer = await self._opened().run("state", id, "" if rev is None else rev)
        return reader.stored_state(id, answer)

    async def get_states(self, query: StateQuery) -> States:
        store = self._opened()
        found: States | Any = False
        while not isinstance(found, States):
            found = reader.states_of(query, await store.run(*reader.ask_page(query, found)))
        return found

    async def count(self, query: StateQuery) -> int:
        store = self._opened()
        count = 0
        found: Any = None
        while found is not False:
            answer = await store.run("count", reader.ask_count(query, found or False))
            with reader.decoding_errors():
                some, found = reader.unpacked(answer)
            count += some
        return count

    async def get_data(self, checksum: str) -> Data | None:
        blob, annotations = await self._opened().run("data", checksum)
        if blob is None:
            return None
        return Data(blob, decode_annotations(annotations), checksum=checksum)

    async def get_due(self, query: DueQuery) -> DuePage:
        return reader.due_of(query, await self._opened().run("due", *reader.ask_due(query)))

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        store = self._opened()
        return [
            is_latest
            for some in _chunks(heartbeats)
            for is_latest in reader.unpacked(await store.run("beat", reader.ask_beat(some)))
        ]

    async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        store = self._opened()
        return [
            reader.liveness_of(found)
            for some in _chunks(ids)
            for found in reader.unpacked(await store.run("liveness", *some))
        ]

    async def compact(self, before_rev: int) -> int:
        store = self._opened()
        removed = 0
        after: Any = 0
        while after is not False:
            answer = await store.run("compact", after, before_rev, CHUNK)
            with reader.decoding_errors():
                some, after = reader.unpacked(answer)
            removed += some
        while await store.run("orphans", before_rev, CHUNK) == CHUNK:
            pass
        return removed


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[start : start + CHUNK] for start in range(0, len(items), CHUNK))
