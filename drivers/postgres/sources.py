"""Where connections come from: a URL, or a pool of the user's.

A source makes a connection within some seconds, or raises ``Failed`` or ``psycopg.Error``. It takes
back one that is not wanted any more, sound or not. When it is closed it waits, so long at most,
until all that it took back is where it belongs.
"""

import asyncio
import os
from typing import Any, TypeAlias

import attrs
import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, timeout_from_conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from flowstate.drivers.postgres.links import Link
from flowstate.errors import InvalidInputError, StoreUnavailableError
from flowstate.ground.tasks import cancel_and_wait, note_outcome, spawn

__all__ = ["Pool", "PoolSource", "Source", "UrlSource", "check_store"]

Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[Any]]
KEEPALIVE: dict[str, Any] = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
SHORTEST_CONNECT_TIMEOUT = 2  # Of libpq.


@attrs.define(eq=False)
class UrlSource:
    """Connects to a URL."""

    url: str = attrs.field(repr=False)
    name: str  # Of the store, in errors.
    prepare: bool
    timeout: float
    _failure: str = ""  # Of the latest attempt that told a reason.

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
            text = f"could not connect within {seconds:.1f} seconds"
            if self._failure:
                text += f"; before that: {self._failure}"
            raise psycopg.errors.ConnectionTimeout(text) from None
        except psycopg.Error as error:
            self._failure = str(error)
            raise
        self._failure = ""
        return Link(connection, self.name, self.timeout)

    def _limit(self) -> dict[str, Any]:
        """Return a limit for each of several hosts, unless the user has set one."""
        if "PGCONNECT_TIMEOUT" in os.environ or "connect_timeout" in conninfo_to_dict(self.url):
            return {}
        return {"connect_timeout": max(SHORTEST_CONNECT_TIMEOUT, int(self.timeout / 2))}

    def drop(self, link: Link) -> None:
        link.release()
        link.connection.pgconn.finish()

    async def close(self, seconds: float) -> None:
        """Nothing is on its way."""


@attrs.define(eq=False)
class PoolSource:
    """Borrows connections of a user's pool, and gives them back as they were."""

    pool: Pool
    name: str
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
            link = Link(connection, self.name, self.timeout)
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
        link.release()
        try:
            if not was_automatic and link.is_idle:
                await connection.set_autocommit(False)
        finally:
            await self.pool.putconn(connection)

    async def close(self, seconds: float) -> None:
        if self._returning:
            _, late = await asyncio.wait(self._returning, timeout=seconds)
            await cancel_and_wait(*late)


Source: TypeAlias = UrlSource | PoolSource


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
    parts = _parsed(store)
    if parts is None:
        raise InvalidInputError("store", "is a URL that cannot be read")
    if "connect_timeout" not in parts and _parsed("") is None:
        raise InvalidInputError("PGCONNECT_TIMEOUT", "must be a number of seconds")
    # A password that is not percent-encoded ends up in other parts, and those in messages.
    port, host = str(parts.get("port") or "0"), str(parts.get("host") or "")
    is_odd = "@" in host.removeprefix("@") or "@" in str(parts.get("dbname") or "")
    if ("://" in store and is_odd) or not port.replace(",", "0").isdecimal():
        raise InvalidInputError(
            "store", "is a URL that cannot be read; percent-encode its user and password"
        )


def _parsed(url: str) -> dict[str, Any] | None:
    # What is raised here repeats the URL, so it must not become the context of another error.
    try:
        parts = conninfo_to_dict(url)
        if not url or "connect_timeout" in parts:  # Else it is of the environment.
            timeout_from_conninfo(parts)
    except (psycopg.Error, ValueError):
        return None
    return parts
