"""What a driver has from its opening to its closing: connections, and tasks."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct

from flowstate.clock import Clock
from flowstate.driver import Durability
from flowstate.drivers.postgres import schema as schemas
from flowstate.drivers.postgres.commits import Commits
from flowstate.drivers.postgres.connections import Connections, cursor_of
from flowstate.drivers.postgres.heartbeats import Heartbeats
from flowstate.drivers.postgres.hints import Hints
from flowstate.drivers.postgres.pool import OwnPool, Pool
from flowstate.drivers.postgres.queries import Queries
from flowstate.errors import DriverError, StoreUnavailableError

__all__ = ["Options", "Session"]

SETTINGS = (
    "SELECT current_setting('fsync'), current_setting('full_page_writes'),"
    " current_setting('synchronous_commit'), current_setting('server_encoding'),"
    " current_setting('server_version_num')::integer, current_setting('transaction_isolation')"
)
OLDEST_VERSION = 140_000
POLL_INTERVAL = 0.1
POLL_INTERVAL_WHEN_LISTENING = 1.0


class Options(Struct, frozen=True, kw_only=True):
    """What the user chose; see :class:`PostgresDriver`."""

    listen: bool
    poll_interval: float | None
    timeout: float
    prepare: bool
    pool_size: int


class Session:
    """One opening of a store. Every opening gets a new one, for the event loop it is opened in.

    Attributes:
        connections: for reads.
        commits: one batch at a time.
        heartbeats: many at a time.
        hints: to and from other processes.
    """

    def __init__(
        self,
        store: str | Pool,
        queries: Queries,
        schema: str,
        *,
        options: Options,
        clock: Clock,
        look: Callable[[], Awaitable[None]],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._schema = schema
        self._own_pool: Pool | None = None
        if isinstance(store, str):
            self._own_pool = store = OwnPool(
                store, prepare=options.prepare, size=options.pool_size, timeout=options.timeout
            )
        self.connections = Connections(store, schema, options.timeout, clock)
        self.heartbeats = Heartbeats(self.connections, queries, schema)
        listen = options.listen and self.connections.listens
        default_interval = POLL_INTERVAL_WHEN_LISTENING if listen else POLL_INTERVAL
        self.hints = Hints(
            self.connections,
            queries,
            schema,
            listen=listen,
            poll_interval=options.poll_interval or default_interval,
            clock=clock,
            look=look,
        )
        self.commits = Commits(self.connections, queries, schema, self.hints.send)

    async def open(self, *, migrate: bool) -> tuple[str, Durability]:
        """Check server and schema; return the store's id, and what a commit survives."""
        if self._own_pool is not None:
            await self._own_pool.open()

        async def look() -> tuple[str, Durability]:
            async with self.connections.connection() as connection:
                row = await (await cursor_of(connection).execute(SETTINGS)).fetchone()
                durability = _durability(row) if row else "none"
                if migrate:
                    await schemas.migrate(connection, self._schema)
                return await schemas.check(connection, self._schema), durability

        return await self.connections.retried(look)

    def check_loop(self) -> None:
        """Raise, unless this is the event loop that the store was opened in."""
        if asyncio.get_running_loop() is not self._loop:
            raise DriverError("a Postgres driver belongs to the event loop that opened it")

    async def close(self) -> None:
        """Stop the tasks, and close what was opened."""
        await self.hints.close()
        await self.commits.close()
        if self._own_pool is not None:
            await self._own_pool.close()


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
