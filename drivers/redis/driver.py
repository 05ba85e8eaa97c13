"""The Redis driver."""

from collections.abc import Sequence
from typing import Any, Self

import attrs
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import parse_url

from flowstate.clock import Clock, SystemClock
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
from flowstate.drivers.redis.answers import decoding_errors, unpacked
from flowstate.drivers.redis.resolver import CommitResolver
from flowstate.drivers.redis.settings import DURABILITIES, Client
from flowstate.drivers.redis.store import OpenStore, Settings
from flowstate.drivers.redis.watcher import Watcher
from flowstate.errors import InvalidInputError
from flowstate.options import choice, has, optional, seconds
from flowstate.state import State

__all__ = ["RedisDriver"]

CHUNK = 500
LONGEST_NAMESPACE = 200
LONGEST_TIMEOUT = 1_000_000.0
MOST_REPLICAS = 1_000


class Session:
    """A store that is open, and its watcher."""

    def __init__(self, settings: Settings, news: News) -> None:
        self.store = OpenStore(settings)
        self.resolver = CommitResolver(self.store)
        self.watcher = Watcher(self.store, news, settings.timeout)
        self._store_id = ""

    async def open(self) -> str:
        """Open the store, unless it is open; return its id."""
        if not self._store_id:
            self._store_id = await self.store.open()
        return self._store_id

    async def close(self) -> None:
        """Close all of it."""
        await self.watcher.close()
        await self.store.close()


def _check_store(_self: object, _field: Any, value: Any) -> None:
    if isinstance(value, str):
        try:
            parse_url(value)
        except ValueError:  # It may repeat a password.
            raise InvalidInputError("store", "is not the URL of a Redis server") from None
    elif not isinstance(value, Redis | RedisCluster):
        raise InvalidInputError("store", "must be a URL, or an asyncio client of redis-py")


def _check_namespace(_self: object, _field: Any, value: Any) -> None:
    if not isinstance(value, str) or not value or set(value) & set("{}\0"):
        raise InvalidInputError("namespace", "must be a text without braces")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidInputError("namespace", "must be valid Unicode") from None
    if length > LONGEST_NAMESPACE:
        raise InvalidInputError("namespace", f"is longer than {LONGEST_NAMESPACE} bytes")


def _check_wait(_self: object, _field: Any, value: Any) -> None:
    match value:
        case (int(local), int(replicas)) if 0 <= local <= 1 and 0 <= replicas <= MOST_REPLICAS:
            return
    raise InvalidInputError("wait_aof", "must be two numbers of servers, at most 1 and 1,000")


@attrs.define(eq=False, slots=False)
class RedisDriver(BaseDriver[Session]):
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

    store: "str | Client" = attrs.field(validator=_check_store, repr=False)
    namespace: str = attrs.field(default="flowstate", kw_only=True, validator=_check_namespace)
    require_durability: Durability = attrs.field(
        default="none", kw_only=True, validator=choice(*DURABILITIES)
    )
    wait_aof: tuple[int, int] | None = attrs.field(
        default=None, kw_only=True, validator=optional(_check_wait)
    )
    timeout: float = attrs.field(
        default=10.0, kw_only=True, validator=seconds(minimum=0.001, maximum=LONGEST_TIMEOUT)
    )
    clock: Clock | None = attrs.field(
        default=None,
        kw_only=True,
        repr=False,
        validator=optional(has("a Clock", "now", "monotonic", "sleep")),
    )
    durability: Durability = attrs.field(init=False, default="none")

    max_batch_size = 64
    shared = True

    @property
    def _name(self) -> str:
        return f"Redis namespace {self.namespace}"

    @property
    def _watcher(self) -> Watcher:
        return self._opened().watcher

    def _make_session(self) -> Session:
        settings = Settings(
            self.store,
            self.namespace,
            self.require_durability,
            self.wait_aof,
            self.timeout,
            self.clock or SystemClock(),
        )
        return Session(settings, self._news)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.durability = self._opened().store.durability
        return self

    def _look(self, session: Session) -> None:
        session.watcher.start()

    # The contract

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        verdicts = await self._opened().resolver.commit(batch)
        self._news.note_commit(batch, verdicts)
        return verdicts

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        answer = await self._opened().store.run("state", id, "" if rev is None else rev)
        return reader.stored_state(id, answer)

    async def get_states(self, query: StateQuery) -> States:
        store = self._opened().store
        found: States | int | None = None
        while not isinstance(found, States):
            found = reader.states_of(query, await store.run("page", reader.ask_page(query, found)))
        return found

    async def get_data(self, checksum: str) -> Data | None:
        blob, annotations = await self._opened().store.run("data", checksum)
        if blob is None:
            return None
        return Data(blob, decode_annotations(annotations), checksum=checksum)

    async def get_due(self, query: DueQuery) -> DuePage:
        return reader.due_of(query, await self._opened().store.run("due", *reader.ask_due(query)))

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        store = self._opened().store
        found: list[bool] = []
        for start in range(0, len(heartbeats), CHUNK):
            some = heartbeats[start : start + CHUNK]
            found += unpacked(await store.run("beat", reader.ask_beat(some)))
        return found

    async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        store = self._opened().store
        found: list[Liveness | None] = []
        for start in range(0, len(ids), CHUNK):
            answers = unpacked(await store.run("liveness", *ids[start : start + CHUNK]))
            found += map(reader.liveness_of, answers)
        return found

    async def compact(self, before_rev: int) -> int:
        store = self._opened().store
        removed = 0
        after: Any = 0
        while after is not False:
            answer = await store.run("compact", after, before_rev, CHUNK)
            with decoding_errors():
                some, after = unpacked(answer)
            removed += some
        while await store.run("orphans", before_rev, CHUNK) == CHUNK:
            pass
        return removed
