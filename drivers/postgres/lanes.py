"""Connections for one kind of work, so that no other kind keeps it waiting."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from flowstate.drivers.kit.resolving import Failed
from flowstate.drivers.postgres.errors import failed
from flowstate.drivers.postgres.links import Link, Source
from flowstate.errors import (
    DriverClosedError,
    DriverError,
    StoreBusyError,
    StoreUnavailableError,
)
from flowstate.tasks import preserve_cancellation

__all__ = ["Lane"]

LONGEST_REST = 600.0  # Seconds.
SHORTEST = 0.01


class Lane:
    """Lends up to ``size`` connections, and makes them when they are needed.

    Args:
        source: makes them.
        size: how many there are at most.
        keep: whether a connection that comes back waits here for the next use.
    """

    def __init__(self, source: Source, schema: str, *, size: int, keep: bool) -> None:
        self._source = source
        self._schema = schema
        self._size = size
        self._keep = keep
        self._loop = asyncio.get_running_loop()
        self._idle: list[tuple[Link, float]] = []  # With when each came back.
        self._lent: set[Link] = set()
        self._making = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._troubled_at = -1.0  # When the server was last found not to answer.
        self._is_closed = False

    def take(self) -> Link | None:
        """Return a connection that rests here, if there is one that is sound."""
        while self._idle:
            link, _ = self._idle.pop()
            pgconn = link.connection.pgconn
            try:
                # The first may find the server's last words, and only the second one the end. One
                # that has ended gets no statement, so that no outcome is ever in doubt.
                pgconn.consume_input()
                pgconn.consume_input()
            except psycopg.OperationalError:
                self._source.drop(link)
            else:
                self._lent.add(link)
                return link
        return None

    async def lend(self, seconds: float) -> Link:
        """Return a connection within so many seconds.

        Raises:
            Failed: none was to be had.
        """
        deadline = self._loop.time() + seconds
        while True:
            if self._is_closed:
                raise Failed(DriverClosedError(f"Postgres schema {self._schema} is not open"))
            if link := self.take():
                return link
            if len(self._lent) + self._making < self._size:
                return await self._make(deadline - self._loop.time())
            await self._wait(deadline)

    def _busy(self, began: float) -> DriverError:
        """Return why none was to be had since then."""
        if self._troubled_at >= began:
            text = "the server does not answer those before"
            return StoreUnavailableError(f"Postgres schema {self._schema}: {text}")
        text = "every connection was in use for too long"
        return StoreBusyError(f"Postgres schema {self._schema}: {text}")

    async def rows(
        self, statement: str, parameters: Sequence[Any], seconds: float
    ) -> list[TupleRow]:
        """Return what a statement returns, within so many seconds.

        Raises:
            Failed: the server refused it, or does not answer.
        """
        deadline = self._loop.time() + seconds
        link = self.take() or await self.lend(seconds)
        try:
            # Python 3.11's wait_for, which older clients use, can lose a cancellation.
            with preserve_cancellation():
                left = max(SHORTEST, deadline - self._loop.time())
                return await link.rows(statement, parameters, left)
        finally:
            self.give_back(link)

    async def _make(self, seconds: float) -> Link:
        self._making += 1
        try:
            link = await self._source.make(max(SHORTEST, seconds))
        except psycopg.Error as error:
            self._troubled_at = self._loop.time()
            # Nothing was asked yet, so nothing is lost.
            raise failed(error, self._schema) from error
        else:
            self._lent.add(link)
        finally:
            self._making -= 1
            self._wake()
        if self._is_closed:
            self.give_back(link)
            raise Failed(DriverClosedError(f"Postgres schema {self._schema} is not open"))
        return link

    async def _wait(self, deadline: float) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        began = self._loop.time()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout_at(deadline):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self._wake()  # Another one may go on, since this one does not.
            with contextlib.suppress(ValueError):
                self._waiters.remove(waiter)
            if not isinstance(error, TimeoutError):
                raise
            raise Failed(self._busy(began), passing=True) from None

    def give_back(self, link: Link) -> None:
        """Take a connection back."""
        self._lent.discard(link)
        is_idle = link.connection.pgconn.transaction_status == TransactionStatus.IDLE
        if self._keep and is_idle and not link.is_cut and not self._is_closed:
            self._idle.append((link, self._loop.time()))
            if self._sweep is None:
                self._sweep = self._loop.call_later(LONGEST_REST, self._swept)
        else:
            self._source.drop(link)
            if link.is_cut:
                self._troubled_at = self._loop.time()
                self._forget()  # The others lead to the same server.
        if self._waiters:
            self._wake()

    def _wake(self) -> None:
        free = self._size - len(self._lent) - self._making
        while self._waiters and free > 0:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1

    def _forget(self) -> None:
        while self._idle:
            self._source.drop(self._idle.pop()[0])

    def _swept(self) -> None:
        """Close what has rested for long."""
        self._sweep = None
        oldest = self._loop.time() - LONGEST_REST
        while self._idle and self._idle[0][1] <= oldest:
            self._source.drop(self._idle.pop(0)[0])
        if self._idle:
            wait = self._idle[0][1] - oldest
            self._sweep = self._loop.call_later(wait, self._swept)

    def close(self) -> None:
        """Close what rests here, and cut off what is lent, which is closed when it comes back."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        self._forget()
        for link in self._lent:
            link.cut()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
