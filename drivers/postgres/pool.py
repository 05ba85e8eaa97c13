"""The pool of a driver that was given a URL."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

__all__ = ["OwnPool", "Pool"]

Pool = AsyncConnectionPool[AsyncConnection[Any]]
Connecting = Coroutine[Any, Any, AsyncConnection[Any]]


class OwnPool(Pool):
    """A pool for a URL, not open yet, whose connections notice a dead server.

    Attributes:
        failure: why the latest attempt to connect failed.
    """

    def __init__(self, url: str, *, prepare: bool, size: int, timeout: float) -> None:
        self.failure = ""
        self._attempts: set[asyncio.Task[AsyncConnection[Any]]] = set()
        self._closing = False
        super().__init__(
            url,
            open=False,
            min_size=0,
            max_size=size,
            reconnect_timeout=0,
            name="flowstate",
            connection_class=self._connection_class(),
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

    async def close(self, timeout: float = 5.0) -> None:  # noqa: ASYNC109 - the pool has it
        """Close the pool, without waiting for a server that does not answer."""
        self._closing = True
        for attempt in self._attempts:
            attempt.cancel()
        await super().close(timeout)

    async def _attempt(self, connecting: Connecting) -> AsyncConnection[Any]:
        """Connect, unless the pool is closed meanwhile."""
        attempt = asyncio.ensure_future(connecting)
        self._attempts.add(attempt)
        try:
            if self._closing:
                attempt.cancel()
            return await attempt
        except psycopg.Error as error:
            self.failure = str(error)
            raise
        except asyncio.CancelledError:
            if not self._closing:
                raise
        finally:
            self._attempts.discard(attempt)
        # Outside, lest it keeps what was cancelled alive, and with it a socket.
        raise psycopg.OperationalError("the pool is closed")

    def _connection_class(self) -> type[AsyncConnection[Any]]:
        pool = self

        class Connection(AsyncConnection[Any]):
            @classmethod
            async def connect(cls, *arguments: Any, **options: Any) -> Any:
                return await pool._attempt(super().connect(*arguments, **options))

        return Connection
