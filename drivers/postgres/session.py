"""What a driver has from its opening to its closing: connections, and tasks."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import attrs
import psycopg
from psycopg.rows import TupleRow

from flowstate.clock import Clock
from flowstate.driver import Durability, Heartbeat
from flowstate.drivers.kit.base import News, Session, clock_or_system, is_clock
from flowstate.drivers.kit.resolving import Backoff, Failed
from flowstate.drivers.postgres import schema as schemas
from flowstate.drivers.postgres.commits import Commits
from flowstate.drivers.postgres.heartbeats import beat
from flowstate.drivers.postgres.lanes import Lane, persisted
from flowstate.drivers.postgres.links import Link
from flowstate.drivers.postgres.listener import Listener
from flowstate.drivers.postgres.queries import Queries
from flowstate.drivers.postgres.sources import Pool, PoolSource, Source, UrlSource, check_store
from flowstate.errors import StoreUnavailableError
from flowstate.ground.options import count, flag, optional, seconds
from flowstate.ground.tasks import cancel_and_wait, preserve_cancellation, spawn

__all__ = ["Options", "PostgresSession"]

SETTINGS = (
    "SELECT current_setting('fsync'), current_setting('full_page_writes'),"
    " current_setting('synchronous_commit'), current_setting('server_encoding'),"
    " current_setting('server_version_num')::integer, current_setting('transaction_isolation')"
)
OLDEST_VERSION = 140_000
POLL_INTERVAL = 0.1
POLL_INTERVAL_WHEN_LISTENING = 1.0
# Below this size all work shares the connections, and the driver does not listen. From it on one
# connection listens, and one is for heartbeats. Of a pool of the user's that one is reserved only
# if the pool is larger: it may have to do for several drivers, and for what else the user does.
LISTENING_SIZE = 4
RESERVING_SIZE = 8
CLOSING = 2.0  # Seconds, until a user's pool has its connections back.
LONGEST = 1_000_000.0
LARGEST_POOL = 1_000


@attrs.define(eq=False, slots=False)
class Options:
    """What the user chose; see :class:`PostgresDriver`."""

    store: str | Pool = attrs.field(repr=False, validator=check_store)
    schema: str = attrs.field(default="flowstate", kw_only=True)
    migrate: bool = attrs.field(default=True, kw_only=True, validator=flag)
    listen: bool = attrs.field(default=True, kw_only=True, validator=flag)
    poll_interval: float | None = attrs.field(
        default=None, kw_only=True, validator=optional(seconds(0.001, LONGEST))
    )
    timeout: float = attrs.field(default=10.0, kw_only=True, validator=seconds(0.0, LONGEST))
    prepare: bool = attrs.field(default=True, kw_only=True, validator=flag)
    pool_size: int = attrs.field(default=8, kw_only=True, validator=count(1, LARGEST_POOL))
    clock: Clock = attrs.field(
        default=None, kw_only=True, repr=False, converter=clock_or_system, validator=is_clock
    )
    queries: Queries = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.queries = Queries(schemas.quoted(self.schema))

    @property
    def name(self) -> str:
        """What the store is called in errors."""
        return f"Postgres schema {self.schema}"


class PostgresSession(Session):
    """One opening of a store. Every opening gets a new one, for the event loop it is opened in.

    Attributes:
        durability: what a commit survives; known once it is open.
        reads: connections for reads.
        beats: connections for heartbeats and liveness, which do not queue behind reads.
        commits: give batches to the server.
        listener: of news from other processes.
    """

    def __init__(self, options: Options, news: News) -> None:
        self.durability: Durability = "power"
        self._options = options
        self._store_id = ""
        name, store = options.name, options.store
        self._source: Source
        if isinstance(store, str):
            self._source = UrlSource(store, name, options.prepare, options.timeout)
            self._lanes = _own(self._source, options.pool_size)
        else:
            self._source = PoolSource(store, name, options.timeout)
            self._lanes = _borrowed(self._source, store.max_size)
        self.reads, commits, self.beats, listening = self._lanes
        listens = options.listen and listening is not self.reads
        default = POLL_INTERVAL_WHEN_LISTENING if listens else POLL_INTERVAL
        self.listener = Listener(
            lane=self.beats,
            listening=listening,
            queries=options.queries,
            schema=options.schema,
            news=news,
            listens=listens,
            leaves_deaf=isinstance(self._source, PoolSource),
            poll_interval=options.poll_interval or default,
            timeout=options.timeout,
            clock=options.clock,
        )
        self.commits = Commits(
            commits, options.queries, name, options.timeout, options.clock, self.listener
        )

    async def open(self) -> str:
        """Check server and schema, once."""
        if not self._store_id:
            options = self._options
            self._store_id = await persisted(self._look, options.timeout, options.clock)
        return self._store_id

    async def _look(self, seconds: float) -> str:
        link, schema = await self.reads.lend(seconds), self._options.schema
        try:
            (row,) = await link.rows(SETTINGS, (), seconds)
            self.durability = _durability(row)
            if self._options.migrate:
                with link.limited(seconds):
                    is_current = await schemas.is_current(link.connection, schema)
                if not is_current:
                    await self._migrate(link, seconds)
            with link.limited(seconds):
                return await schemas.check(link.connection, schema)
        finally:
            self.reads.give_back(link)

    async def _migrate(self, link: Link, seconds: float) -> None:
        """Bring the schema up to date: for as long as that takes, while the server answers."""
        with link.limited(seconds):
            extending = spawn(self._extend(link, seconds), "flowstate postgres migration")
            try:
                await schemas.migrate(link.connection, self._options.schema)
            finally:
                await cancel_and_wait(extending)

    async def _extend(self, link: Link, seconds: float) -> None:
        """Move the end of what is done with a connection, until the server stands still."""
        loop = asyncio.get_running_loop()
        while True:
            with preserve_cancellation():
                if not await self._answers(seconds / 2):
                    return
            link.ends_at = loop.time() + seconds
            await asyncio.sleep(seconds / 4)

    async def _answers(self, seconds: float) -> bool:
        try:
            link = await self._source.make(seconds)
        except psycopg.errors.ConnectionTimeout:
            return False
        except psycopg.Error:  # A server, or a pool, that has none to give.
            return True
        try:
            await link.rows("SELECT 1", (), seconds)
        except Failed:
            return not link.is_cut
        finally:
            self._source.drop(link)
        return True

    async def rows(
        self, statement: str, *parameters: Any, lane: Lane | None = None
    ) -> list[TupleRow]:
        """Return what a statement returns that may run more than once.

        Raises:
            DriverError: the server refused it, or does not answer.
        """
        attempt = partial((lane or self.reads).rows, statement, parameters)
        return await persisted(attempt, self._options.timeout, self._options.clock)

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> list[bool]:
        """Note heartbeats; return for each whether its revision is the latest of its state."""
        options = self._options
        ask = partial(self.rows, options.queries.beat, lane=self.beats)
        backoff = partial(Backoff, options.clock, options.timeout)
        return await beat(heartbeats, ask, backoff, options.name)

    async def close(self) -> None:
        """Stop the tasks, and close what was opened, without waiting for the server."""
        self.listener.stop()
        if isinstance(self._source, UrlSource):
            self._close_lanes()
        await self.listener.close()
        self._close_lanes()
        await self._source.close(CLOSING)

    def _close_lanes(self) -> None:
        for lane in self._lanes:
            lane.close()


def _own(source: Source, size: int) -> tuple[Lane, Lane, Lane, Lane]:
    """Share connections of our own out: for reads, commits, heartbeats and listening."""
    if size < LISTENING_SIZE:
        shared = Lane(source, size, keep=True)
        return shared, shared, shared, shared
    commits = 1 if size < RESERVING_SIZE else 2
    reads, *others = [Lane(source, n, keep=True) for n in (size - commits - 2, commits, 1, 1)]
    return reads, others[0], others[1], others[2]


def _borrowed(source: Source, size: int) -> tuple[Lane, Lane, Lane, Lane]:
    """Leave the sharing to the pool of the user, which keeps what has come back."""
    shared = Lane(source, size, keep=False)
    listening = Lane(source, 1, keep=False) if size >= LISTENING_SIZE else shared
    reserved = Lane(source, 1, keep=True) if size >= RESERVING_SIZE else shared
    return shared, shared, reserved, listening


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
