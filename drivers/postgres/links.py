"""One connection, of which every use ends in time, and where connections come from."""

import asyncio
import contextlib
import os
import socket
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias

import attrs
import psycopg
from psycopg import AsyncConnection, AsyncCursor, capabilities
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow, tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from flowstate.drivers.postgres.arrays import register
from flowstate.drivers.postgres.errors import failed
from flowstate.errors import InvalidInputError, StoreUnavailableError
from flowstate.tasks import cancel_and_wait, note_outcome, spawn

__all__ = ["Link", "Pool", "PoolSource", "Source", "UrlSource", "check_store", "cursor_of", "cut"]

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[Any]]
KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
SHORTEST_CONNECT_TIMEOUT = 2  # Of libpq.
LONGEST_PATIENCE = 1.0


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


class Link:
    """A connection, and a cursor for commits.

    Attributes:
        connection: that commits each statement by itself.
        commits: sends the arrays of commits.
        is_cut: whether time was up for a statement.
    """

    def __init__(self, connection: AsyncConnection[Any], schema: str, patience: float) -> None:
        self.connection = connection
        # What psycopg calls when a task is cancelled that waits for a statement.
        vars(connection)["cancel_safe"] = partial(_cancel, connection, patience)
        self.commits = cursor_of(connection)
        self.is_cut = False
        self._schema = schema
        register(self.commits)

    @property
    def is_idle(self) -> bool:
        """Whether it can be used for the next statement."""
        pgconn = self.connection.pgconn
        try:
            # The first may find the server's last words, and only the second one the end.
            pgconn.consume_input()
            pgconn.consume_input()
        except psycopg.OperationalError:
            return False
        return pgconn.transaction_status == TransactionStatus.IDLE

    @property
    def is_sound(self) -> bool:
        """Whether the connection is there, as far as is known."""
        return not self.is_cut and not self.connection.closed

    def cut(self) -> None:
        """End it without waiting for the server."""
        self.is_cut = True
        cut(self.connection)

    @contextlib.contextmanager
    def limited(self, seconds: float) -> Iterator[None]:
        """Let what is done with the connection inside end within so many seconds.

        Raises:
            Failed: the server refused it, or does not answer.
        """
        timer = asyncio.get_running_loop().call_later(seconds, self.cut)
        try:
            with self.translated():
                yield
        finally:
            timer.cancel()

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """Raise ``Failed`` instead of errors of psycopg."""
        try:
            yield
        except psycopg.Error as error:
            raise failed(error, self._schema, connected=self.is_sound) from error

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


class Source(Protocol):
    """Where connections come from."""

    @abstractmethod
    async def make(self, seconds: float) -> Link:
        """Return a connection within so many seconds; raise ``Failed`` or ``psycopg.Error``."""

    @abstractmethod
    def drop(self, link: Link) -> None:
        """Take a connection back that is not wanted any more, sound or not."""

    @abstractmethod
    async def close(self, seconds: float) -> None:
        """Wait, so long at most, until all that was dropped is where it belongs."""


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


@attrs.define(eq=False)
class UrlSource:
    """Connects to a URL."""

    url: str = attrs.field(repr=False)
    schema: str
    prepare: bool
    timeout: float

    async def make(self, seconds: float) -> Link:
        try:
            async with asyncio.timeout(seconds):
                connection = await AsyncConnection.connect(
                    self.url,
                    autocommit=True,
                    prepare_threshold=5 if self.prepare else None,
                    client_encoding="UTF8",
                    **KEEPALIVE,
                    **self._limit(),
                )
        except TimeoutError:
            raise psycopg.errors.ConnectionTimeout(
                f"could not connect within {seconds:.1f} seconds"
            ) from None
        return Link(connection, self.schema, _patience(self.timeout))

    def _limit(self) -> dict[str, Any]:
        """Return a limit for each of several hosts, unless the user has set one."""
        if "PGCONNECT_TIMEOUT" in os.environ or "connect_timeout" in conninfo_to_dict(self.url):
            return {}
        return {"connect_timeout": max(SHORTEST_CONNECT_TIMEOUT, int(self.timeout / 2))}

    def drop(self, link: Link) -> None:
        link.connection.pgconn.finish()

    async def close(self, seconds: float) -> None:
        """Nothing is on its way."""


@attrs.define(eq=False)
class PoolSource:
    """Borrows connections of a user's pool, and gives them back as they were."""

    pool: Pool
    schema: str
    timeout: float
    _returning: set["asyncio.Task[None]"] = attrs.field(init=False, factory=set)
    _taste: dict[Link, bool] = attrs.field(init=False, factory=dict)

    async def make(self, seconds: float) -> Link:
        failures = self._failures()
        while True:
            try:
                connection = await self.pool.getconn(seconds)
            except PoolTimeout as error:
                if self._failures() == failures:
                    raise
                raise psycopg.OperationalError(f"the pool could not connect: {error}") from error
            link = Link(connection, self.schema, _patience(self.timeout))
            self._taste[link] = connection.autocommit
            if not link.is_idle:
                self.drop(link)  # The pool makes another one.
                continue
            try:
                return await self._prepared(link)
            except BaseException:
                self.drop(link)
                raise

    def _failures(self) -> int:
        """Return how often the pool could not connect."""
        return self.pool.get_stats().get("connections_errors", 0)

    async def _prepared(self, link: Link) -> Link:
        connection = link.connection
        encoding = connection.pgconn.parameter_status(b"client_encoding")
        if encoding != b"UTF8":
            raise StoreUnavailableError(
                "connections of the pool must have client_encoding UTF8, not "
                + (encoding or b"?").decode(errors="replace")
            )
        if not connection.autocommit:
            await connection.set_autocommit(True)
        return link

    def drop(self, link: Link) -> None:
        # In a task, because its user may be cancelled.
        task = spawn(self._give_back(link), "flowstate postgres returning a connection")
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)
        task.add_done_callback(note_outcome)

    async def _give_back(self, link: Link) -> None:
        connection = link.connection
        was_automatic = self._taste.pop(link)
        vars(connection).pop("cancel_safe")
        try:
            if not was_automatic and link.is_idle:
                await connection.set_autocommit(False)
        finally:
            await self.pool.putconn(connection)

    async def close(self, seconds: float) -> None:
        if self._returning:
            _, late = await asyncio.wait(self._returning, timeout=seconds)
            await cancel_and_wait(*late)


def _patience(timeout: float) -> float:
    """Return how many seconds a cancellation may take."""
    return min(LONGEST_PATIENCE, timeout / 4)


def check_store(_: object, __: object, store: Any) -> None:
    """Refuse what is neither a pool nor a URL that can be read, without showing it.

    Raises:
        InvalidInputError: it is neither.
    """
    if isinstance(store, AsyncConnectionPool):
        return
    if not isinstance(store, str):
        kind = type(store).__name__
        raise InvalidInputError("store", f"must be a URL or a psycopg pool, not {kind}")
    try:
        parts = conninfo_to_dict(store)
    except (psycopg.Error, ValueError):
        raise InvalidInputError("store", "is a URL that cannot be read") from None
    # A password that is not percent-encoded ends up in other parts, and those in messages.
    port = str(parts.get("port") or "")
    named = f"{parts.get('host') or ''}{parts.get('dbname') or ''}"
    if "@" in named or (port and not port.replace(",", "").isdecimal()):
        raise InvalidInputError(
            "store", "is a URL that cannot be read; percent-encode its user and password"
        )
