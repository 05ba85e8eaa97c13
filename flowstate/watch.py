"""A stream of revisions: what the log has, then what is committed, for ever."""

from collections import deque
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from flowstate.commands import GetStates
from flowstate.driver import Driver
from flowstate.errors import EngineStoppedError, HistoryRewoundError
from flowstate.feed import Feed
from flowstate.query import matches, state_query
from flowstate.state import State

__all__ = ["Watch"]

BUFFER = 256


class Watch:
    """An async context manager and async iterator over revisions.

    Delivers every matching revision exactly once, in order. Whatever goes wrong is raised from
    the iteration; open a new watch with ``since_rev=watch.cursor`` to go on.

    Attributes:
        cursor: everything up to this revision was delivered or does not match.
    """

    def __init__(self, driver: Driver, feed: Feed, command: GetStates) -> None:
        self._driver = driver
        self._feed = feed
        self._query = state_query(command)
        self._buffer: deque[State] = deque()
        self._scanned_to = self._query.after
        self._first = True
        self._open = False
        self.cursor = self._query.after

    async def __aenter__(self) -> Self:
        self._open = True
        self._feed.enter()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._open:
            self._open = False
            self._feed.leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> State:
        if not self._open:
            raise EngineStoppedError("this watch is not open")
        while not self._buffer:
            self.cursor = self._scanned_to
            await self._fill()
        state = self._buffer.popleft()
        self.cursor = state.rev
        return state

    async def _fill(self) -> None:
        """Go one step further: from memory, from the store, or by waiting."""
        feed = self._feed
        if not feed.covers(self._scanned_to) or self._first:
            await self._read_page()
        elif self._scanned_to < feed.head:
            self._take_recent()
        else:
            self._scanned_to = await feed.wait(self._query, self._scanned_to) - 1

    def _take_recent(self) -> None:
        for state in self._feed.after(self._scanned_to):
            self._scanned_to = state.rev
            if matches(self._query, state):
                self._buffer.append(state)
                if len(self._buffer) == BUFFER:
                    break

    async def _read_page(self) -> None:
        found = await self._driver.get_states(replace(self._query, after=self._scanned_to))
        if self._scanned_to > found.head:
            raise HistoryRewoundError(self._scanned_to, found.head)
        if self._first:
            self._first = False
            # A watch without a cursor accepts the holes that it starts with, but no later ones.
            gaps = found.floor if self._query.gaps_below is None else self._query.gaps_below
            self._query = replace(self._query, since_latest=False, gaps_below=gaps)
        self._buffer.extend(found.states)
        self._scanned_to = found.scanned_to
        if not found.more:
            self._feed.follow_from(found.head)
