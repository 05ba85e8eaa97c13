"""Connections of one driver: where they come from, and what is tried again on a fresh one."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, tuple_row
from psycopg_pool import AsyncConnectionPool

from flowstate.clock import Clock
from flowstate.drivers.postgres.errors import is_passing, translation

__all__ = ["Backoff", "Connections", "Pool", "make_pool"]

T = TypeVar("T")
Pool = AsyncConnectionPool[AsyncConnection[Any]]
FIRST_PAUSE = 0.02
LAST_PAUSE = 1.0
# Below this size the pool is left to reads and commits; from it on two connections are kept, one
# for commits and one for listening, which saves a check-out for each commit.
KEEPING_SIZE = 4


def make_pool(url: str, *, prepare: bool, size: int, timeout: float) -> Pool:
    """Return a pool for a URL, not open yet, whose connections notice a dead server."""
    return AsyncConnectionPool(
        url,
        open=False,
        min_size=0,
        max_size=size,
        timeout=timeout,
        name="flowstate",
        kwargs={
            "autocommit": True,
            "prepare_threshold": 5 if prepare else None,
            "connect_timeout": max(2, int(timeout)),
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        },
    )


@contextlib.contextmanager
def losing_no_cancellation() -> Iterator[None]:
    """Raise the cancellation of a task also if something inside has swallowed it.

    Python 3.11's ``asyncio.wait_for`` does, when what it waits for comes at the same moment, and
    psycopg waits with it (github.com/python/cpython/issues/86296).
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    yield
    if task and task.cancelling() > before:
        raise asyncio.CancelledError


class Connections:
    """Runs statements, and tries again what failed for a passing reason.

    Attributes:
        keeps: whether the pool is large enough to keep a connection for longer.
    """

    def __init__(self, pool: Pool, schema: str, timeout: float, clock: Clock) -> None:
        self._pool = pool
        self._schema = schema
        self._timeout = timeout
        self._clock = clock
        self.keeps = pool.max_size >= KEEPING_SIZE

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """Lend a connection that commits each statement by itself."""
        connection = await self._pool.getconn(self._timeout)
        autocommit = connection.autocommit
        try:
            if not autocommit:
                await connection.set_autocommit(True)
            yield connection
        finally:
            if not autocommit and connection.info.transaction_status is TransactionStatus.IDLE:
                await connection.set_autocommit(False)
            await self._pool.putconn(connection)

    async def rows(self, statement: str, parameters: Sequence[Any]) -> list[TupleRow]:
        """Return what a statement returns that may run more than once."""

        async def ask() -> list[TupleRow]:
            async with self.connection() as connection:
                cursor = connection.cursor(row_factory=tuple_row)
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
                return (await connection.execute(statement.encode(), parameters)).rowcount

        return await self.retried(run)

    def backoff(self) -> "Backoff":
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


class Backoff:
    """Pauses that grow, of random length so that many do not come back at once."""

    def __init__(self, clock: Clock, timeout: float) -> None:
        self._clock = clock
        self._deadline = clock.monotonic() + timeout
        self._length = FIRST_PAUSE

    async def pause(self) -> bool:
        """Wait a little, and return whether there is time for another attempt."""
        if self._clock.monotonic() > self._deadline:
            return False
        await self.wait()
        return True

    async def wait(self) -> None:
        """Wait, each time up to twice as long as before."""
        length = self._length * random.uniform(0.5, 1.5)  # noqa: S311 - to be spread is enough
        self._length = min(2 * self._length, LAST_PAUSE)
        await self._clock.sleep(length)
