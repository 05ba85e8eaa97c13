"""Connections for one kind of work, so that no other kind keeps it waiting."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.rows import TupleRow

from flowstate.clock import Clock
from flowstate.drivers.kit.resolving import Backoff, Failed, retried
from flowstate.drivers.postgres.errors import fail
from flowstate.drivers.postgres.links import Link
from flowstate.drivers.postgres.sources import Source
from flowstate.errors import DriverClosedError, DriverError, StoreBusyError, StoreUnavailableError
from flowstate.ground.tasks import preserve_cancellation

__all__ = ["Lane", "persisted"]

T = TypeVar("T")
LONGEST_REST = 600.0  # Seconds.
SHORTEST = 0.05  # Seconds, for an attempt when time is all but up.


async def persisted(attempt: Callable[[float], Awaitable[T]], seconds: float, clock: Clock) -> T:
    """Do something that may be done more than once, until it works or time is up.

    Args:
        attempt: takes the seconds that it may last; the first one gets half of them.
        seconds: for all attempts.
        clock: for pauses.

    Raises:
        DriverError: it does not work.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds

    def again() -> Awaitable[T]:
        return attempt(max(SHORTEST, deadline - loop.time()))

    try:
        return await attempt(seconds / 2)
    except Failed as error:
        return await retried(again, error, Backoff(clock, deadline - loop.time()))


class Lane:
    """Lends up to ``size`` connections, and makes them when they are needed.

    Args:
        source: makes them.
        size: how many there are at most.
        keep: whether a connection that comes back waits here for the next use.
    """

    def __init__(self, source: Source, size: int, *, keep: bool) -> None:
        self._source = source
        self._keep = keep
        self._loop = asyncio.get_running_loop()
        self._free = asyncio.Semaphore(size)
        self._idle: list[tuple[Link, float]] = []  # With when each came back.
        self._lent: set[Link] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_troubled = False  # The server was found not to answer, last time.
        self._is_closed = False

    async def lend(self, seconds: float) -> Link:
        """Return a connection within so many seconds.

        Raises:
            Failed: none was to be had.
        """
        began = self._loop.time()
        if self._free.locked():
            await self._wait(seconds)
        else:
            await self._free.acquire()
        try:
            link: Link | None = None
            while link is None and self._idle:
                link, _ = self._idle.pop()
                # One that has ended gets no statement, so that no outcome is ever in doubt.
                if not link.is_idle:
                    self._source.drop(link)
                    link = None
            if link is None:
                link = await self._make(began + seconds - self._loop.time())
            self._lent.add(link)
        except BaseException:
            self._free.release()
            raise
        return link

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._free.acquire()
        except TimeoutError:
            kind: type[DriverError] = StoreBusyError
            text = "every connection was in use for too long"
            if self._is_troubled:
                kind, text = StoreUnavailableError, "the server does not answer those before"
            raise Failed(kind(f"{self._source.name}: {text}"), passing=True) from None

    async def _make(self, seconds: float) -> Link:
        self._check_open()
        link: Link | None = None
        try:
            with preserve_cancellation():
                link = await self._source.make(max(SHORTEST, seconds))
        except psycopg.Error as error:
            self._is_troubled = True
            # Nothing was asked yet, so nothing is lost.
            fail(error, self._source.name)
        except asyncio.CancelledError:
            if link is not None:
                self._source.drop(link)
            raise
        if self._is_closed:
            self._source.drop(link)
            self._check_open()
        return link

    def _check_open(self) -> None:
        if self._is_closed:
            raise Failed(DriverClosedError(f"{self._source.name} is not open"))

    async def rows(
        self, statement: str, parameters: Sequence[Any], seconds: float
    ) -> list[TupleRow]:
        """Return what a statement returns, within so many seconds.

        Raises:
            Failed: the server refused it, or does not answer.
        """
        deadline = self._loop.time() + seconds
        link = await self.lend(seconds)
        try:
            with preserve_cancellation():
                left = max(SHORTEST, deadline - self._loop.time())
                return await link.rows(statement, parameters, left)
        finally:
            self.give_back(link)

    def give_back(self, link: Link) -> None:
        """Take a connection back."""
        self._lent.discard(link)
        self._is_troubled = link.is_cut
        if self._keep and not link.is_cut and not self._is_closed:
            self._idle.append((link, self._loop.time()))
            if self._sweep is None:
                self._sweep = self._loop.call_later(LONGEST_REST, self._swept)
        else:
            self._source.drop(link)
            if link.is_cut:
                self._forget()  # The others lead to the same server.
        self._free.release()

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
