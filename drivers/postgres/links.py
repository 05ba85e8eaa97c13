"""One connection, of which every use ends in time."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from math import inf
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncCursor, capabilities
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, tuple_row

from flowstate.drivers.postgres.batch import register
from flowstate.drivers.postgres.errors import fail

__all__ = ["Link", "cursor_of", "cut"]

LONGEST_PATIENCE = 1.0  # Seconds that a cancellation may take.


def cursor_of(connection: AsyncConnection[Any]) -> AsyncCursor[TupleRow]:
    """Return a cursor that is the same whatever cursors and rows the user prefers."""
    return AsyncCursor(connection, row_factory=tuple_row)


def cut(connection: AsyncConnection[Any]) -> None:
    """End a connection without waiting for the server: whatever waits for it fails at once."""
    # A copy of its number, because libpq closes that one itself.
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.pgconn.socket)) as same,
    ):
        same.shutdown(socket.SHUT_RDWR)


async def _cancel(
    connection: AsyncConnection[Any],
    patience: float,
    *,
    timeout: float = 1.0,  # noqa: ASYNC109 - psycopg has it
) -> None:
    """Ask the server to cancel a statement; without an end to that, a cancelled task would wait."""
    if capabilities.has_cancel_safe():
        await type(connection).cancel_safe(connection, timeout=min(timeout, patience))
    else:
        cut(connection)  # That of older clients blocks a thread.


class Link:
    """A connection, and a cursor for commits.

    Attributes:
        connection: that commits each statement by itself.
        commits: sends the arrays of commits.
        is_cut: whether time was up for a statement.
        ends_at: when it will be cut, by the event loop's time; infinity while nothing is asked.
    """

    def __init__(self, connection: AsyncConnection[Any], name: str, timeout: float) -> None:
        self.connection = connection
        # What psycopg calls when a task is cancelled that waits for a statement.
        patience = min(LONGEST_PATIENCE, timeout / 4)
        vars(connection)["cancel_safe"] = partial(_cancel, connection, patience)
        self.commits = cursor_of(connection)
        self.is_cut = False
        self._name = name
        self._loop = asyncio.get_running_loop()
        self.ends_at = inf
        self._timer: asyncio.TimerHandle | None = None
        register(self.commits)

    def release(self) -> None:
        """Leave the connection as it was."""
        if self._timer is not None:
            self._timer.cancel()
        vars(self.connection).pop("cancel_safe", None)

    @property
    def is_idle(self) -> bool:
        """Whether it can be used for the next statement, after a look at it."""
        pgconn = self.connection.pgconn
        try:
            # The first may find the server's last words, and only the second one the end.
            pgconn.consume_input()
            pgconn.consume_input()
        except psycopg.OperationalError:
            return False
        return pgconn.transaction_status == TransactionStatus.IDLE and not self.is_cut

    @property
    def is_sound(self) -> bool:
        """Whether the connection is there, as far as is known."""
        return not self.is_cut and not self.connection.closed

    def cut(self) -> None:
        """End it without waiting for the server."""
        self.is_cut = True
        cut(self.connection)

    def begin(self, seconds: float) -> None:
        """Cut the connection so many seconds from now, unless ``ends_at`` is moved before."""
        self.ends_at = self._loop.time() + seconds
        # The timer stays from one use to the next, since making one for each takes its time.
        if self._timer is not None and self._timer.when() > self.ends_at:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and self.ends_at < inf:
            self._timer = self._loop.call_at(self.ends_at, self._watch)

    def _watch(self) -> None:
        self._timer = None
        if self.ends_at <= self._loop.time():
            self.cut()
        elif self.ends_at < inf:
            self._timer = self._loop.call_at(self.ends_at, self._watch)

    @contextlib.contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """Let what is done with the connection inside end within so many seconds.

        Raises:
            Failed: the server refused it, or does not answer.
        """
        self.begin(seconds)
        try:
            yield
        except psycopg.Error as error:
            fail(error, self._name, connected=self.is_sound)
        finally:
            self.ends_at = inf

    async def rows(
        self, statement: str, parameters: Sequence[Any], seconds: float
    ) -> list[TupleRow]:
        """Return what a statement returns, within so many seconds.

        Raises:
            Failed: the server refused it, or does not answer.
        """
        with self.limited(seconds):
            cursor = cursor_of(self.connection)
            await cursor.execute(statement.encode(), parameters)
            return await cursor.fetchall() if cursor.description else []
