"""What a driver has from its opening to its closing: connections, and tasks."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import attrs
from msgspec import Struct
from psycopg.rows import TupleRow

from flowstate.clock import Clock
from flowstate.driver import Durability
from flowstate.drivers.kit.base import News, Session
from flowstate.drivers.kit.resolving import Backoff, Failed, retried
from flowstate.drivers.postgres import schema as schemas
from flowstate.drivers.postgres.commits import Commits
from flowstate.drivers.postgres.heartbeats import Heartbeats
from flowstate.drivers.postgres.lanes import Lane
from flowstate.drivers.postgres.links import Link, Pool, PoolSource, Source, UrlSource
from flowstate.drivers.postgres.listener import Listener
from flowstate.drivers.postgres.queries import Queries
from flowstate.errors import StoreUnavailableError

__all__ = ["Options", "PostgresSession"]

T = TypeVar("T")
SETTINGS = (
    "SELECT current_setting('fsync'), current_setting('full_page_writes'),"
    " current_setting('synchronous_commit'), current_setting('server_encoding'),"
    " current_setting('server_version_num')::integer, current_setting('transaction_isolation')"
)
OLDEST_VERSION = 140_000
POLL_INTERVAL = 0.1
POLL_INTERVAL_WHEN_LISTENING = 1.0
SHORTEST = 0.05  # Seconds, for an attempt when time is all but up.
# Below this size all work shares the connections, and the driver does not listen. From it on one
# connection listens, and one is for heartbeats. Of a pool of the user's that one is reserved only
# if the pool is larger: it may have to do for several drivers, and for what else the user does.
LISTENING_SIZE = 4
RESERVING_SIZE = 8
CLOSING = 2.0  # Seconds, until a user's pool has its connections back.


class Options(Struct, frozen=True, kw_only=True):
    """What the user chose; see :class:`PostgresDriver`."""

    store: str | Pool
    schema: str
    migrate: bool
    listen: bool
    poll_interval: float | None
    timeout: float
    prepare: bool
    pool_size: int
    clock: Clock


class Lanes(Struct):
    """Connections by what they are for."""

    reads: Lane
    commits: Lane
    beats: Lane
    listening: Lane | None

    def close(self) -> None:
        """Close them all."""
        for lane in (self.reads, self.commits, self.beats, self.listening):
            if lane is not None:
                lane.close()


@attrs.define(eq=False)
class PostgresSession(Session):
    """One opening of a store. Every opening gets a new one, for the event loop it is opened in.

    Attributes:
        durability: what a commit survives; known once it is open.
        lanes: its connections.
        commits: give batches to the server.
        heartbeats: many at a time.
        listener: of news from other processes.
    """

    options: Options
    queries: Queries
    news: News
    durability: Durability = "power"
    lanes: Lanes = attrs.field(init=False)
    commits: Commits = attrs.field(init=False)
    heartbeats: Heartbeats = attrs.field(init=False)
    listener: Listener = attrs.field(init=False)
    _loop: asyncio.AbstractEventLoop = attrs.field(init=False, factory=asyncio.get_running_loop)
    _source: Source = attrs.field(init=False)
    _store_id: str = attrs.field(init=False, default="")

    def __attrs_post_init__(self) -> None:
        options, schema = self.options, self.options.schema
        if isinstance(options.store, str):
            self._source = UrlSource(options.store, schema, options.prepare, options.timeout)
            self.lanes = _own(self._source, schema, options.pool_size)
        else:
            self._source = PoolSource(options.store, schema, options.timeout)
            self.lanes = _borrowed(self._source, schema, options.store.max_size)
        self.listener = self._make_listener()
        self.commits = Commits(
            self.lanes.commits, self.queries, schema, options.timeout, options.clock, self.listener
        )
        self.heartbeats = Heartbeats(self._beat, self._backoff, schema)

    def _make_listener(self) -> Listener:
        options, lanes = self.options, self.lanes
        listens = options.listen and lanes.listening is not None
        default = POLL_INTERVAL_WHEN_LISTENING if listens else POLL_INTERVAL
        return Listener(
            lanes.beats,
            lanes.listening or lanes.reads,
            self.queries,
            options.schema,
            self.news,
            listens,
            isinstance(self._source, PoolSource),
            options.poll_interval or default,
            options.timeout,
            options.clock,
        )

    async def open(self) -> str:
        """Check server and schema, once."""
        if not self._store_id:
            began = self._loop.time()
            try:
                self._store_id = await self._look(self.options.timeout / 2)
            except Failed as error:
                self._store_id = await self._retried(self._look, error, began)
        return self._store_id

    async def _look(self, seconds: float) -> str:
        lane, schema = self.lanes.reads, self.options.schema
        link = lane.take() or await lane.lend(seconds)
        try:
            (row,) = await link.rows(SETTINGS, (), seconds)
            self.durability = _durability(row)
            if self.options.migrate and not await self._is_current(link, seconds):
                # It may take as long as the store is large.
                with link.translated():
                    await schemas.migrate(link.connection, schema)
            with link.limited(seconds):
                return await schemas.check(link.connection, schema)
        finally:
            lane.give_back(link)

    async def _is_current(self, link: Link, seconds: float) -> bool:
        with link.limited(seconds):
            return await schemas.is_current(link.connection, self.options.schema)

    async def _retried(
        self, attempt: Callable[[float], Awaitable[T]], error: Failed, began: float
    ) -> T:
        """Go on after a first attempt that failed, until the timeout since ``began``."""
        left = began + self.options.timeout - self._loop.time()
        deadline = self._loop.time() + left

        async def again() -> T:
            return await attempt(max(SHORTEST, deadline - self._loop.time()))

        return await retried(again, error, Backoff(self.options.clock, left))

    async def rows(self, statement: str, *parameters: Any) -> list[TupleRow]:
        """Return what a statement returns that may run more than once.

        Raises:
            DriverError: the server refused it, or does not answer.
        """
        return await self._rows(self.lanes.reads, statement, parameters)

    async def _rows(self, lane: Lane, statement: str, parameters: Sequence[Any]) -> list[TupleRow]:
        began = self._loop.time()
        try:
            return await lane.rows(statement, parameters, self.options.timeout / 2)
        except Failed as error:
            return await self._retried(partial(lane.rows, statement, parameters), error, began)

    async def ask_alive(self, statement: str, *parameters: Any) -> list[TupleRow]:
        """As ``rows``, but do not queue behind reads."""
        return await self._rows(self.lanes.beats, statement, parameters)

    async def _beat(self, *parameters: Any) -> list[TupleRow]:
        return await self.ask_alive(self.queries.beat, *parameters)

    def _backoff(self) -> Backoff:
        return Backoff(self.options.clock, self.options.timeout)

    async def close(self) -> None:
        """Stop the tasks, and close what was opened, without waiting for the server."""
        self.listener.stop()
        if isinstance(self._source, UrlSource):
            self.lanes.close()
        await self.listener.close()
        self.lanes.close()
        await self._source.close(CLOSING)


def _own(source: Source, schema: str, size: int) -> Lanes:
    """Share connections of our own out."""

    def lane(size: int) -> Lane:
        return Lane(source, schema, size=size, keep=True)

    if size < LISTENING_SIZE:
        shared = lane(size)
        return Lanes(shared, shared, shared, None)
    commits = 1 if size < RESERVING_SIZE else 2
    return Lanes(lane(size - commits - 2), lane(commits), lane(1), lane(1))


def _borrowed(source: Source, schema: str, size: int) -> Lanes:
    """Leave the sharing to the pool of the user, which keeps what has come back."""
    shared = Lane(source, schema, size=size, keep=False)
    listening = Lane(source, schema, size=1, keep=False) if size >= LISTENING_SIZE else None
    reserved = Lane(source, schema, size=1, keep=True) if size >= RESERVING_SIZE else shared
    return Lanes(shared, shared, reserved, listening)


def _durability(row: Sequence[Any]) -> Durability:
    """Return what an acknowledged commit survives.

    Raises:
        StoreUnavailableError: this server will not do.
    """
    fsync, full_page_writes, synchronous_commit, encoding, version, isolation = row
    if version < OLDEST_VERSION:
        raise StoreUnavailableError(f"Postgres 14 or newer is needed, this is {version}")
    if encoding != "UTF8":
        raise StoreUnavailableError(f"the database must be encoded in UTF8, not {encoding}")
    if isolation != "read committed":
        raise StoreUnavailableError(
            f"default_transaction_isolation must be read committed, not {isolation}"
        )
    if synchronous_commit == "off":
        return "none"
    return "power" if fsync == full_page_writes == "on" else "process"
