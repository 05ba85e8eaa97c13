"""One reader of the log for all watchers of an engine.

The feed keeps the newest revisions in memory. A watcher that is near the head takes from there;
one that is further behind reads its own pages from the store, so a slow consumer costs only
itself. A watcher that waits is woken for revisions that it asked for and for no others.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from flowstate.driver import Driver, StateQuery, Verdict
from flowstate.errors import CompactedError, FlowstateError, HistoryRewoundError, StoreCorruptError
from flowstate.query import matches
from flowstate.state import State

__all__ = ["Feed"]

Route = tuple[str, str] | None
# Seconds after which the store is read all the same when the feed was given what it was woken for:
# the driver may have meant something else by the same call, such as that the store was rewound.
LOOK_AFTER = 1.0


class Waiter:
    """A watcher that has seen everything up to the feed's head, or more."""

    __slots__ = ("after", "found", "query", "routes")

    def __init__(self, query: StateQuery, after: int) -> None:
        self.query = query
        self.after = after
        self.routes = _routes_of(query)
        self.found: asyncio.Future[int] = asyncio.get_running_loop().create_future()


class Feed:
    """The tail of the log, kept up to date while somebody watches.

    Attributes:
        head: the highest revision that the feed has seen.
    """

    def __init__(self, driver: Driver, capacity: int = 4096) -> None:
        self._driver = driver
        self._capacity = capacity
        self._recent: list[State] = []
        self._start = 0
        self.head = 0
        self._users = 0
        self._reader: asyncio.Task[None] | None = None
        self._stopped: set[asyncio.Task[None]] = set()
        self._waiters: dict[Route, dict[Waiter, None]] = {}
        self._closed: BaseException | None = None

    def enter(self) -> None:
        """Count one more watcher."""
        self._users += 1

    def leave(self) -> None:
        """Count one watcher less; the last one stops the reader."""
        self._users -= 1
        if not self._users:
            self._stop_reader()

    def covers(self, cursor: int) -> bool:
        """Return whether everything after ``cursor`` is in memory, or will come.

        Raises what :meth:`close` was given.
        """
        if self._closed is not None:
            raise self._closed
        return self._reader is not None and self._start <= cursor

    def follow_from(self, head: int) -> None:
        """Read the log from ``head`` on, if nobody does yet."""
        if self._reader is None and self._closed is None:
            self._recent.clear()
            self._start = self.head = head
            self._reader = asyncio.create_task(self._read(), name="flowstate feed")

    def after(self, cursor: int) -> Iterator[State]:
        """Return what was seen after ``cursor``."""
        recent = self._recent
        return (recent[i] for i in range(cursor - self._start, len(recent)))

    async def wait(self, query: StateQuery, after: int) -> int:
        """Wait for the first revision above ``after`` that answers ``query``; return it.

        A watcher that has read the store itself may be ahead of the feed.

        Raises whatever stopped the reader.
        """
        waiter = Waiter(query, after)
        for route in waiter.routes:
            self._waiters.setdefault(route, {})[waiter] = None
        try:
            return await waiter.found
        finally:
            self._forget(waiter)

    def fail(self, error: BaseException) -> None:
        """Stop reading, and raise ``error`` in every watcher that waits."""
        self._stop_reader()
        for waiter in self._all_waiters():
            if not waiter.found.done():
                waiter.found.set_exception(error)

    async def close(self, error: BaseException) -> None:
        """Stop for good, and raise ``error`` in every watcher, also one that does not wait now."""
        self._closed = error
        self.fail(error)
        if self._stopped:
            await asyncio.wait(self._stopped)

    def _stop_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._stopped.add(self._reader)
            self._reader.add_done_callback(self._stopped.discard)
            self._reader = None

    def _forget(self, waiter: Waiter) -> None:
        for route in waiter.routes:
            waiting = self._waiters.get(route, {})
            waiting.pop(waiter, None)
            if not waiting:
                self._waiters.pop(route, None)

    def _all_waiters(self) -> Iterable[Waiter]:
        return {waiter: None for waiting in self._waiters.values() for waiter in waiting}

    def take(self, verdicts: Sequence[Verdict]) -> None:
        """Go on with what this engine has committed, if nobody else's revisions come before it.

        So what the engine itself commits need not be read again.
        """
        if self._reader is None:
            return
        head = self.head
        states = [
            state
            for verdict in verdicts
            if type(verdict) is tuple
            for state in verdict
            if state.rev > head
        ]
        if states and _follow(states, head):
            self._append(states)

    async def _read(self) -> None:
        try:
            was_given = False
            while True:
                head = self.head
                await self._wait(LOOK_AFTER if was_given else None)
                was_given = self.head != head
                if not was_given:
                    await self._read_after(head)
        except Exception as error:
            self._reader = None
            self.fail(error)
            if not isinstance(error, FlowstateError):
                raise

    async def _wait(self, seconds: float | None) -> None:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await self._driver.wait(self.head)
        except TimeoutError:
            if not limit.expired():
                raise  # The driver's own.

    async def _read_after(self, head: int) -> None:
        try:
            found = await self._driver.get_states(StateQuery(after=head, limit=500, gaps_below=0))
        except CompactedError:
            if self.head == head:
                raise
            return  # What is gone was given meanwhile.
        if found.head < head:
            raise HistoryRewoundError(head, found.head)
        # Some of them may have been given meanwhile.
        if states := found.states[self.head - head :]:
            self._append(states)

    def _append(self, states: Sequence[State]) -> None:
        # Watchers find revisions by counting, so with a hole they would read amiss for ever.
        if not _follow(states, self.head):
            raise StoreCorruptError(f"the log has a hole after revision {self.head}")
        self._recent.extend(states)
        self.head = states[-1].rev
        excess = len(self._recent) - self._capacity
        if excess > self._capacity:
            del self._recent[:excess]
            self._start += excess
        if self._waiters:
            for state in states:
                self._wake(state)

    def _wake(self, state: State) -> None:
        routes: list[Route] = [None, *state.labels.items()]
        for route in routes:
            for waiter in list(self._waiters.get(route, ())):
                if waiter.found.done() or state.rev <= waiter.after:
                    continue
                if matches(waiter.query, state):
                    waiter.found.set_result(state.rev)
                    self._forget(waiter)


def _follow(states: Sequence[State], head: int) -> bool:
    """Return whether these are the very next revisions."""
    return all(state.rev == rev for rev, state in enumerate(states, head + 1))


def _routes_of(query: StateQuery) -> list[Route]:
    """Return under which labels a match must be found: one of each alternative is enough."""
    if not query.labels:
        return [None]
    return [next(iter(labels.items())) for labels in query.labels]
