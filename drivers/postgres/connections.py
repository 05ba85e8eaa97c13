"""Connections of one driver: where they come from, and what is tried again on a fresh one."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, tuple_row
from psycopg_pool import PoolTimeout

from flowstate.backoff import Backoff
from flowstate.cancellation import losing_no_cancellation, to_the_end
from flowstate.clock import Clock
from flowstate.drivers.postgres.errors import UnreachableError, is_passing, translation
from flowstate.drivers.postgres.pool import OwnPool, Pool

__all__ = ["Connections", "cursor_of", "is_alive"]

T = TypeVar("T")
# Below this size the pool is left to reads and commits; from it on one connection is kept for
# listening. Of a pool that is ours those that commit are kept too, which saves check-outs; one of
# the user may have to do for several drivers, and for whatever else the user does.
KEEPING_SIZE = 4


# How long to wait for the pool before it is asked again. One that we made gives up connecting when
# that fails, and tries again when it is asked; one of the user pauses for ever longer.
PATIENCE = 0.5


def cursor_of(connection: AsyncConnection[Any]) -> AsyncCursor[TupleRow]:
    """Return a cursor that is the same whatever cursors and rows the user prefers."""
    return AsyncCursor(connection, row_factory=tuple_row)


def is_alive(connection: AsyncConnection[Any]) -> bool:
    """Return whether an idle connection is not known to be closed by the server.

    One that is gets no statement, so that nobody has to wonder whether it was carried out.
    """
    try:
        # The first may find the server's last words, and only the second one the end.
        connection.pgconn.consume_input()
        connection.pgconn.consume_input()
    except psycopg.OperationalError:
        return False
    return True


class Connections:
    """Runs statements, and tries again what failed for a passing reason.

    Attributes:
        listens: whether the pool can do without a connection that listens.
        keeps: whether also without those that commit.
    """

    def __init__(self, pool: Pool, schema: str, timeout: float, clock: Clock) -> None:
        self._pool = pool
        self._schema = schema
        self._timeout = timeout
        self._clock = clock
        self.listens = pool.max_size >= KEEPING_SIZE
        self.keeps = self.listens and isinstance(pool, OwnPool)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Lend a connection that commits each statement by itself."""
        connection = await self._lent()
        autocommit = connection.autocommit
        try:
            if not autocommit:
                await connection.set_autocommit(True)
            yield connection
        finally:
            # Whoever is cancelled meanwhile must not keep it from all others.
            await to_the_end(self._give_back(connection, autocommit=autocommit))

    async def _give_back(self, connection: AsyncConnection[Any], *, autocommit: bool) -> None:
        try:
            if not autocommit and connection.info.transaction_status is TransactionStatus.IDLE:
                await connection.set_autocommit(False)
        finally:
            await self._pool.putconn(connection)

    async def _lent(self) -> AsyncConnection[Any]:
        failures = self._failures()
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                connection = await self._pool.getconn(PATIENCE)
            except PoolTimeout as error:
                if time.monotonic() < deadline:
                    continue
                if self._failures() == failures:
                    raise
                reason = self._pool.failure if isinstance(self._pool, OwnPool) else error
                raise UnreachableError(f"could not connect: {reason}") from error
            if is_alive(connection):
                return connection
            await to_the_end(self._pool.putconn(connection))  # Makes another one.

    def _failures(self) -> int:
        """Return how often the pool could not connect."""
        return self._pool.get_stats().get("connections_errors", 0)

    async def rows(self, statement: str, parameters: Sequence[Any]) -> list[TupleRow]:
        """Return what a statement returns that may run more than once."""

        async def ask() -> list[TupleRow]:
            async with self.connection() as connection:
                cursor = cursor_of(connection)
                await cursor.execute(statement.encode(), parameters)
                return await cursor.fetchall()

        return await self.retried(ask)

    async def row(self, statement: str, *parameters: Any) -> TupleRow | None:
        """Return the first row of what a statement returns that may run more than once."""
        rows = await self.rows(statement, parameters)
        return rows[0] if rows else None

    async def execute(self, statement: str, *parameters: Any) -> int:
        """Run a statement that may run more than once; return how many rows it touched."""

        async def run() -> int:
            async with self.connection() as connection:
                cursor = cursor_of(connection)
                return (await cursor.execute(statement.encode(), parameters)).rowcount

        return await self.retried(run)

    def backoff(self) -> Backoff:
        """Return pauses for as long as an operation may take."""
        return Backoff(self._clock, self._timeout)

    async def retried(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do something that may be done more than once, until it works or time is up.

        Raises:
            DriverError: it does not work.
        """
        backoff = self.backoff()
        while True:
            try:
                with losing_no_cancellation():
                    return await action()
            except psycopg.Error as error:
                if not is_passing(error) or not await backoff.pause():
                    raise translation(error, self._schema) from error
