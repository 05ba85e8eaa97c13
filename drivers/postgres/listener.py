"""News of the store: told to other processes, and heard from them."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from hashlib import sha256
from secrets import token_hex
from typing import Any

import attrs
import psycopg

from flowstate.clock import Clock
from flowstate.drivers.kit.base import News
from flowstate.drivers.kit.resolving import Backoff, Failed
from flowstate.drivers.postgres.lanes import Lane
from flowstate.drivers.postgres.links import Link
from flowstate.drivers.postgres.queries import Queries
from flowstate.errors import DriverError
from flowstate.ground.tasks import cancel_and_wait, spawn, supervised

__all__ = ["Listener", "channel_of"]

logger = logging.getLogger("flowstate.postgres")
NOTIFY = (
    "SELECT pg_catalog.set_config('synchronous_commit', 'off', true), pg_catalog.pg_notify(%s, %s)"
)
HELLO = "hello "  # Before the name of the driver that says it.
# Shortest time between two notifications of one process. Each is a transaction of its own, and
# those of all processes in a database queue for one lock.
NOTIFY_INTERVAL = 0.005
# How many looks apart it asks whether there are other listeners still.
RECOUNT = 10
LAST_WORDS = 1.0  # Seconds.
GRACE = 0.1


def channel_of(schema: str) -> str:
    """Return the name of the channel for a store."""
    # Of a hash, because a schema's name may be as long as a channel's.
    return f"flowstate_{sha256(schema.encode()).hexdigest()[:32]}"


@attrs.define(eq=False)
class Listener:
    """Background tasks of one driver, started when they are needed first.

    News may be lost or come twice: a driver that waits also looks every ``poll_interval``.

    While this driver is the only one that listens, it tells nothing: its own waiters are woken by
    its commits. A listener that comes later says hello, and is told at once.

    Attributes:
        tells: whether another driver may listen, as far as is known here.
    """

    _lane: Lane  # For statements.
    _listening: Lane  # For the connection that listens.
    _queries: Queries
    _schema: str
    _news: News
    _listens: bool
    _leaves_deaf: bool  # Whether the connection has another use afterwards.
    _poll_interval: float
    _timeout: float
    _clock: Clock
    tells: bool = True
    _is_closed: bool = False
    _is_up: bool = False
    _hellos: int = 0
    _name: str = attrs.field(factory=lambda: token_hex(8))
    _hint: asyncio.Event = attrs.field(factory=asyncio.Event)
    _to_send: asyncio.Event = attrs.field(factory=asyncio.Event)
    _tasks: "dict[str, asyncio.Task[None]]" = attrs.field(factory=dict)
    _channel: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._channel = channel_of(self._schema)

    def send(self) -> None:
        """Tell other processes, soon."""
        if self._listens:
            self._to_send.set()
            self._start("notify", self._notify)

    def receive(self) -> None:
        """Look for what other processes do from now on."""
        self._start("poll", self._poll)
        if self._listens:
            self._start("listen", self._listen)

    def _start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        def broken(error: Exception) -> None:
            self._news.failed(DriverError(f"Postgres schema {self._schema}: {error!r}"))

        if name not in self._tasks and not self._is_closed:
            what = f"flowstate postgres {name}"
            supervising = supervised(what, work, self._clock.sleep, on_failure=broken)
            self._tasks[name] = spawn(supervising, what)

    def stop(self) -> None:
        """Start nothing any more, and let the tasks end."""
        self._is_closed = True
        self._hint.set()
        self._to_send.set()

    async def close(self) -> None:
        """End all tasks."""
        if self._tasks:
            # Those whose connections were cut end at once, and what they wait for with them.
            await asyncio.wait(self._tasks.values(), timeout=GRACE)
        await cancel_and_wait(*self._tasks.values())

    async def _rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        return await self._lane.rows(statement, parameters, self._timeout / 2)

    async def _notify(self) -> None:
        backoff = Backoff(self._clock, self._timeout)
        while not self._is_closed:
            await self._to_send.wait()
            self._to_send.clear()
            try:
                await self._rows(NOTIFY, self._channel, self._name)
                backoff = Backoff(self._clock, self._timeout)
            except (Failed, DriverError) as error:
                logger.debug("could not notify: %s", error)
                self._to_send.set()
                await backoff.wait()
            await self._clock.sleep(NOTIFY_INTERVAL)

    async def _poll(self) -> None:
        looks = 0
        while not self._is_closed:
            self._hint.clear()
            await self._look()
            looks += 1
            if self._is_up and self.tells and looks % RECOUNT == 0:
                await self._count_others()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval):
                    await self._hint.wait()

    async def _look(self) -> None:
        before = self._news.head
        try:
            ((head, mark),) = await self._rows(self._queries.outlook)
        except (Failed, DriverError) as error:
            if not self._is_closed:  # Else the news may be of the next opening by now.
                self._news.failed(error.error if isinstance(error, Failed) else error)
        else:
            self._news.saw(head, mark, before)

    async def _count_others(self) -> None:
        """Tell nothing while there is no other listener, unless one has come meanwhile."""
        hellos = self._hellos
        with contextlib.suppress(Failed, DriverError):
            ((count,),) = await self._rows(self._queries.listeners)
            if hellos == self._hellos and self._is_up:
                self.tells = count > 1

    async def _listen(self) -> None:
        """Listen, again and again, since connections break."""
        backoff = Backoff(self._clock, self._timeout)
        while not self._is_closed:
            try:
                link = await self._listening.lend(self._timeout / 2)
            except (Failed, DriverError) as error:
                logger.debug("could not listen: %s", error)
            else:
                try:
                    await self._begin(link)
                    backoff = Backoff(self._clock, self._timeout)
                    async for notification in link.connection.notifies():
                        self._heard(notification.payload)
                except (Failed, DriverError, psycopg.Error) as error:
                    logger.debug("stopped listening: %s", type(error).__name__)
                finally:
                    self._is_up, self.tells = False, True
                    await self._end(link)
            if not self._is_closed:
                await backoff.wait()

    async def _begin(self, link: Link) -> None:
        seconds = self._timeout / 2
        await link.rows(f"LISTEN {self._channel}", (), seconds)
        await link.rows(self._queries.start_listening, (), seconds)
        self._is_up = True
        await self._rows(NOTIFY, self._channel, HELLO + self._name)
        await self._count_others()
        self._hint.set()  # For what came before.

    def _heard(self, payload: str) -> None:
        # What this driver has committed has woken its waiters already.
        if payload.removeprefix(HELLO) == self._name:
            return
        if payload.startswith(HELLO):
            self._hellos += 1
            self.tells = True
            self.send()  # It may have looked before this driver has known of it.
        self._hint.set()

    async def _end(self, link: Link) -> None:
        """Give the connection back, deaf."""
        try:
            if self._leaves_deaf and link.is_sound:
                await link.rows("UNLISTEN *", (), LAST_WORDS)
                await link.rows(self._queries.stop_listening, (), LAST_WORDS)
            else:
                link.cut()
        except Failed:
            link.cut()
        finally:
            self._listening.give_back(link)
