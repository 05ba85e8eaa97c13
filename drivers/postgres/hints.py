"""Hints that there is something new: given to other processes, and taken from them."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from hashlib import sha256

import psycopg
from psycopg import AsyncCursor
from psycopg.rows import TupleRow

from flowstate.clock import Clock
from flowstate.drivers.postgres.connections import Connections, cursor_of
from flowstate.drivers.postgres.errors import translation
from flowstate.drivers.postgres.queries import Queries
from flowstate.errors import DriverError

__all__ = ["Hints"]

logger = logging.getLogger("flowstate.postgres")
NOTIFY = b"SELECT set_config('synchronous_commit', 'off', true), pg_notify(%s, %s)"
# Shortest time between two notifications of one process. Each is a transaction of its own, and
# those of all processes in a database queue for one lock.
NOTIFY_INTERVAL = 0.005


class Hints:
    """Two background tasks of one driver, started when they are needed first.

    A hint may be lost or come twice: whoever waits also looks by itself every ``poll_interval``.

    Args:
        look: asks the store what is new and wakes whoever waits; called at each hint.
    """

    def __init__(
        self,
        connections: Connections,
        queries: Queries,
        schema: str,
        *,
        listen: bool,
        poll_interval: float,
        clock: Clock,
        look: Callable[[], Awaitable[None]],
    ) -> None:
        self._connections = connections
        self._queries = queries
        self._schema = schema
        # Of a hash, because a schema's name may be as long as a channel's.
        self._channel = f"flowstate_{sha256(schema.encode()).hexdigest()[:32]}"
        self._listen = listen
        self._poll_interval = poll_interval
        self._clock = clock
        self._look = look
        self._closed = False
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._hint = asyncio.Event()
        self._own: int | None = None  # The server's process that sends for us.
        self._to_send = asyncio.Event()

    def send(self) -> None:
        """Tell other processes, soon."""
        if self._listen:
            self._start("notify", self._notify)
            self._to_send.set()

    def receive(self) -> None:
        """Look for what other processes do from now on."""
        self._start("poll", self._poll)
        if self._listen:
            self._start("listen", self._receive)

    def _start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        if name not in self._tasks and not self._closed:
            task = asyncio.ensure_future(work())
            task.set_name(f"flowstate postgres {name}")
            self._tasks[name] = task

    async def close(self) -> None:
        """Stop."""
        self._closed = True
        tasks = set(self._tasks.values())
        self._tasks.clear()
        while tasks:
            # More than once: Python 3.11's wait_for, in the pool, can lose a cancellation.
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=0.1)

    async def _notify(self) -> None:
        backoff = self._connections.backoff()
        while not self._closed:
            await self._to_send.wait()
            try:
                async with self._connections.connection() as connection:
                    self._own = connection.info.backend_pid
                    try:
                        await self._send_on(cursor_of(connection))
                        backoff = self._connections.backoff()
                    finally:
                        self._own = None  # Another driver may send by it from now on.
            except (psycopg.Error, DriverError) as error:
                logger.debug("could not notify: %s", error)
                await backoff.wait()

    async def _send_on(self, cursor: AsyncCursor[TupleRow]) -> None:
        """Send what there is; on a connection of our own, for as long as there is more."""
        sends = True
        while sends:
            self._to_send.clear()
            try:
                await cursor.execute(NOTIFY, (self._channel, ""))
            except BaseException:
                self._to_send.set()
                raise
            await self._clock.sleep(NOTIFY_INTERVAL)
            sends = self._to_send.is_set() and self._connections.keeps

    async def _poll(self) -> None:
        while not self._closed:
            self._hint.clear()
            await self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval):
                    await self._hint.wait()

    async def _receive(self) -> None:
        """Listen, again and again, since connections break."""
        backoff = self._connections.backoff()
        while not self._closed:
            try:
                async with self._connections.connection() as connection:
                    await connection.execute(f"LISTEN {self._channel}".encode())
                    await connection.execute(self._queries.start_listening.encode())
                    self._hint.set()  # Whatever came while nobody listened.
                    backoff = self._connections.backoff()
                    await self._hear(connection)
            except psycopg.Error as error:
                logger.debug("stopped listening: %s", translation(error, self._schema))
            await backoff.wait()

    async def _hear(self, connection: psycopg.AsyncConnection[object]) -> None:
        try:
            async for notification in connection.notifies():
                # Whoever waits here has been woken by the commit itself.
                if notification.pid != self._own:
                    self._hint.set()
        finally:
            if not connection.closed:
                await connection.execute("UNLISTEN *")
                await connection.execute(self._queries.stop_listening.encode())
