"""A watch: every matching revision once, in order, from the log and then as it is committed."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Self

from msgspec.structs import replace

from flowstate.commands import GetStates
from flowstate.driver import DamagedRevision, Driver, StateQuery
from flowstate.errors import (
    EngineStoppedError,
    HistoryRewoundError,
    InvalidCommandError,
)
from flowstate.log.log_tail import (
    Follower,
    LogTail,
    Revision,
    Topic,
    revisions,
    weight_of,
)
from flowstate.log.reading import matches, state_query
from flowstate.state import State

__all__ = ["Watch"]

BUFFER = 256  # Revisions that a watch keeps.
BUFFER_BYTES = 4 * 1024 * 1024


class Watch(Follower):
    """An async context manager and async iterator over revisions.

    It delivers every matching revision exactly once, in order: what the log has, then what is
    committed. What goes wrong is raised by the iteration; a new watch with
    ``since_rev=watch.cursor`` goes on from there. For a revision that cannot be read it raises
    :class:`flowstate.DamagedRevisionError`; iterate the same watch again to go on behind that.
    """

    def __init__(
        self,
        driver: Driver,
        tail: LogTail,
        command: GetStates,
        ended: Callable[[], Exception | None] = lambda: None,
    ) -> None:
        self._driver = driver
        self._tail = tail
        self._ended = ended  # Returns what to raise from the start, as in an engine that stops.
        self._query = query = replace(state_query(command), max_bytes=BUFFER_BYTES)
        self.topics = _topics_of(query)
        # Then a topic by which the tail finds it is the whole filter.
        self._is_simple = _is_simple(query)
        self._buffer: deque[Revision] = deque()
        self._held = 0  # Bytes since the buffer was empty.
        self._delivered = self._seen = query.after
        self._is_synced = self._is_iterated = False
        self._is_first = self._needs_page = True
        self._waiter: asyncio.Future[None] | None = None
        self._stopped: Exception | None = EngineStoppedError("this watch is not open")

    @property
    def cursor(self) -> int:
        """A revision up to which everything was delivered or does not match."""
        if self._buffer:
            return self._delivered
        return max(self._seen, self._tail.head) if self._is_synced else self._seen

    async def __aenter__(self) -> Self:
        self._tail.check_loop()
        self._stopped = self._ended()
        if self._stopped is None:
            self._tail.watches[self] = None
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop(EngineStoppedError("this watch is not open"))
        self._seen = self.cursor
        self._buffer.clear()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> State:
        """Return the next matching revision, as soon as there is one.

        Raises:
            DamagedRevisionError: the next one cannot be read.
            CompactedError: revisions after the cursor were removed.
            HistoryRewoundError: the store was restored from an older copy.
            EngineStoppedError: the engine has stopped, or the watch is not open.
            InvalidCommandError: another task is iterating this watch.
            DriverError: the store failed.
            InvalidInputError: this is another event loop than that of the engine.
        """
        if self._is_iterated:
            raise InvalidCommandError("watch", "is iterated by another task; open one for each")
        self._is_iterated = True
        try:
            while not self._buffer:
                self._held = 0
                await self._step()
        finally:
            self._is_iterated = False
        revision = self._buffer.popleft()
        self._delivered = revision.rev
        if isinstance(revision, DamagedRevision):
            raise revision.as_error()
        return revision

    def stop(self, error: Exception) -> None:
        """Raise ``error`` in the iteration, once it has delivered what it holds."""
        if self._stopped is None:
            self._stopped = error
            if self._is_synced:
                self.lag(self._tail.head)
            self._tail.leave(self)

    def push(self, state: State, weight: int) -> bool:
        """Hold a state, if it matches; return whether there is room for more."""
        if state.rev <= self._seen or not (self._is_simple or matches(self._query, state)):
            return True
        if len(self._buffer) >= BUFFER or self._held >= BUFFER_BYTES:
            self.lag(state.rev - 1)
            return False
        self._buffer.append(state)
        self._held += weight
        self._seen = state.rev
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        return True

    def lag(self, cursor: int) -> None:
        """Note that the tail pushes nothing more; what is up to ``cursor`` has been pushed."""
        self._is_synced = False
        self._seen = max(self._seen, cursor)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: BaseException) -> None:
        """Raise ``error`` in the iteration, if it waits."""
        self._needs_page = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    def _step(self) -> Awaitable[None]:
        """Return what has to be awaited next: a push, or a page of the store."""
        tail = self._tail
        if self._stopped is not None:
            raise self._stopped
        tail.check_loop()
        if not self._is_synced:
            if self._needs_page or not tail.covers(self._seen):
                return self._read_page()
            if self._seen < tail.head:
                return self._take_recent()
            self._is_synced = True
            tail.sync(self)
        self._waiter = tail.loop.create_future()
        return self._waiter

    async def _take_recent(self) -> None:
        for revision in self._tail.after(self._seen):
            if isinstance(revision, DamagedRevision):
                self._needs_page = True
                return
            self._seen = revision.rev
            if matches(self._query, revision):
                self._buffer.append(revision)
                self._held += weight_of(revision)
                if len(self._buffer) >= BUFFER or self._held >= BUFFER_BYTES:
                    return

    async def _read_page(self) -> None:
        seen = self._tail.head
        async with self._tail.reading:
            if self._stopped is not None:
                raise self._stopped  # While others were reading.
            page = await self._driver.get_states(replace(self._query, after=self._seen))
        if self._seen > page.head:
            raise HistoryRewoundError(self._seen, page.head)
        if self._is_first:
            self._is_first = False
            if (gaps := self._query.gaps_below) is None:
                gaps = page.floor  # It accepts the holes that it starts with, but no later ones.
            self._query = replace(self._query, since_latest=False, gaps_below=gaps)
        self._buffer.extend(revisions(page))
        self._seen = page.scanned_to
        self._needs_page = False
        if not page.more:
            self._tail.follow_from(page.head, seen)


def _topics_of(query: StateQuery) -> list[Topic]:
    if query.id is not None:
        return [query.id]
    # One label of each alternative is enough to be found by.
    return [next(iter(each.items())) for each in query.labels] or [None]


def _is_simple(query: StateQuery) -> bool:
    if (query.status, query.since_time, query.committed_before) != (None, None, None):
        return False
    conditions = max(map(len, query.labels), default=0) + (query.id is not None)
    return conditions <= 1
