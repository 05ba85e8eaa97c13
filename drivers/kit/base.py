"""Opening and closing a driver, and news of its store for those who wait."""

import asyncio
import os
import threading
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import attrs

from flowstate.clock import Clock, SystemClock
from flowstate.driver import Driver, Seen, Verdict, Writes
from flowstate.drivers.kit.event_count import EventCount
from flowstate.errors import DriverClosedError, DriverError, InvalidInputError
from flowstate.ground.options import has
from flowstate.ground.tasks import shielded

__all__ = ["BaseDriver", "News", "Session", "clock_or_system", "is_clock"]

is_clock = has("a Clock", "now", "monotonic", "sleep", "working")


def clock_or_system(clock: Clock | None) -> Clock:
    """Convert an option ``clock`` that may be left out."""
    return SystemClock() if clock is None else clock


class Session(Protocol):
    """What a driver has from its opening to its closing: connections, threads, tasks."""

    @abstractmethod
    async def open(self) -> str:
        """Open, unless an earlier user has, and return the id of the store.

        The users of a driver that belongs to an event loop call this one after the other.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close all of it, within a bounded time. Called once, also when opening failed."""


S = TypeVar("S", bound=Session)


@attrs.define(eq=False)
class _Opening(Generic[S]):
    """One opening. Every opening has a new one, so that its late end hurts no successor."""

    session: S
    loop: asyncio.AbstractEventLoop
    process: int = attrs.field(factory=os.getpid)
    users: int = 0
    turn: asyncio.Lock = attrs.field(factory=asyncio.Lock)


@attrs.define(eq=False)
class News:
    """What is known of the store's head and of writes of delays. Works in any thread.

    The driver notes its own commits. A task or thread of the session looks for those of other
    processes, once :meth:`BaseDriver.changed` has been called, and reports what it saw.
    """

    seen: Seen | None = None
    head: int = -1
    _due: int = 0
    _mark: object = None
    _failures: int = 0
    _failure: DriverError | None = None
    _events: EventCount = attrs.field(factory=EventCount)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def forget(self) -> None:
        """Forget the store, when it is opened again: it may have changed meanwhile."""
        self.seen, self.head = None, -1

    def note_commit(self, batch: Sequence[Writes], verdicts: Sequence[Verdict]) -> None:
        """Note what this process has committed."""
        head, delays = -1, False
        for writes, verdict in zip(batch, verdicts, strict=True):
            if type(verdict) is tuple:
                if writes.delays or writes.timers:
                    delays = True
                if verdict:
                    head = verdict[-1].rev
        if head > self.head or delays:
            with self._lock:
                self._publish(max(head, self.head), self._due + delays)

    def saw(self, head: int, mark: object, before: int) -> None:
        """Note what a look at the store found.

        Args:
            head: the highest revision.
            mark: differs from the last one when delays have been written since.
            before: :attr:`head` from before that look. When they differ, a lower ``head`` is not
                a rewound store, but a look that was overtaken by a commit of this process.
        """
        with self._lock:
            if head < self.head != before:
                head = self.head
            # The first look shows what others have written before.
            due = self._due + (self.seen is not None and mark != self._mark)
            self._mark = mark
            if self.seen is None or (head, due) != (self.head, self._due):
                self.seen = Seen(head, due)
                self._publish(head, due)

    def failed(self, error: DriverError) -> None:
        """Raise ``error`` in all that wait."""
        self._failure = error
        self._failures += 1
        self._events.notify()

    def _publish(self, head: int, due: int) -> None:
        self.head, self._due = head, due
        if self.seen is not None:
            self.seen = Seen(head, due)
        events = self._events
        events.count += 1
        if events.waiters:
            events.wake()

    async def wait(self, seen: Seen) -> Seen:
        """Return what is known, once it differs from ``seen``.

        Raises:
            DriverError: a look at the store failed meanwhile.
        """
        failures = self._failures
        while True:
            count = self._events.count
            if self._failures != failures and self._failure is not None:
                raise self._failure
            if self.seen is not None and self.seen != seen:
                if self.seen.head < seen.head:
                    # A read was ahead of the news. Reads that never wait must not keep it away.
                    await asyncio.sleep(0)
                return self.seen
            await self._events.wait(count)


@attrs.define(eq=False, slots=False)
class BaseDriver(Driver, Generic[S]):
    """Counts users: opens for the first one, and closes when the last one leaves.

    A subclass is an attrs class of its options. It makes the session, and does the operations
    with what :meth:`_opened` returns.

    Attributes:
        loop_bound: whether an open driver serves only the event loop that opened it.
    """

    loop_bound = True
    store_id: str = attrs.field(init=False, default="")
    _news: News = attrs.field(init=False, factory=News, repr=False)
    _opening: _Opening[S] | None = attrs.field(init=False, default=None, repr=False)
    _guard: threading.Lock = attrs.field(init=False, factory=threading.Lock, repr=False)

    @property
    @abstractmethod
    def _name(self) -> str:
        """What the store is called in errors; without secrets."""

    @abstractmethod
    def _make_session(self) -> S:
        """Return a new session for the running event loop; nothing is opened yet."""

    @abstractmethod
    def _look(self, session: S) -> None:
        """Let the session report to ``self._news`` from now on. Called for each wait."""

    async def __aenter__(self) -> Self:
        with self._guard:
            if self._opening is None:
                self._opening = _Opening(self._make_session(), asyncio.get_running_loop())
                self._news.forget()
            opening = self._opening
            opening.users += 1
        try:
            self._opened()
            # Other event loops, which no lock of asyncio can serve, wait in the session.
            async with opening.turn if self.loop_bound else nullcontext():
                self.store_id = await opening.session.open()
        except BaseException:
            await self._leave(opening)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._opening is not None:
            await self._leave(self._opening)

    async def _leave(self, opening: _Opening[S]) -> None:
        with self._guard:
            opening.users -= 1
            # After a fork only the parent may close: the child has copies of what it uses.
            if opening.users or opening.process != os.getpid():
                return
            if self._opening is opening:
                self._opening = None
        self._news.failed(self._closed())
        await self._close(opening.session)

    async def _close(self, session: S) -> None:
        await shielded(session.close())

    def _opened(self) -> S:
        """Return the session.

        Raises:
            DriverClosedError: the driver is not open, or was opened before a fork.
            InvalidInputError: the call comes from another event loop than the opening.
        """
        opening = self._opening
        if opening is None:
            raise self._closed()
        # Spelled out, because it runs with every operation.
        if opening.process != os.getpid():
            raise DriverClosedError(f"{self._name} was opened before a fork")
        if self.loop_bound and opening.loop is not asyncio.get_running_loop():
            raise InvalidInputError("driver", "belongs to the event loop that opened it")
        return opening.session

    def _closed(self) -> DriverClosedError:
        return DriverClosedError(f"{self._name} is not open")

    async def changed(self, seen: Seen) -> Seen:
        self._look(self._opened())
        return await self._news.wait(seen)  # Closing raises in all that wait.
