"""The newest revisions of a log, shared by all watches of a driver.

::

    event                             synced watch        unsynced watch (the first state)
    --------------------------------  ------------------  --------------------------------
    it has seen all up to the head                        becomes synced
    a matching revision is appended   gets it             takes it later, or reads a page
    its buffer is full                becomes unsynced
    a damaged revision is appended    becomes unsynced    reads a page: does that name it?
    the reader of the log fails       raises if it waits  reads a page
                                      becomes unsynced
    it is stopped                     raises              raises

So a slow consumer costs only itself, and nothing is delivered twice or left out.
"""

import asyncio
import logging
import weakref
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from operator import attrgetter
from typing import Self

from msgspec.structs import replace

from flowstate.commands import GetStates, Page
from flowstate.driver import DamagedRevision, Driver, Seen, StateQuery, States
from flowstate.errors import (
    CompactedError,
    DamagedRevisionError,
    DriverError,
    EngineStoppedError,
    FlowstateError,
    HistoryRewoundError,
    InvalidCommandError,
    InvalidInputError,
    StoreCorruptError,
)
from flowstate.limits import MAX_TAIL_BYTES
from flowstate.reading import matches, state_query
from flowstate.state import State
from flowstate.tasks import cancel_and_wait, note_outcome, spawn

__all__ = [
    "LogTail",
    "Revision",
    "Watch",
    "change_of_head",
    "damaged_error",
    "revisions",
    "tail_of",
]

logger = logging.getLogger("flowstate")
CAPACITY = 4096  # Revisions that a tail keeps.
PAGE = 500
BUFFER = 256  # Revisions that a watch keeps.
BUFFER_BYTES = 4 * 1024 * 1024
BASE_WEIGHT = 500  # Bytes of a revision without its texts, about.

Revision = State | DamagedRevision
Topic = tuple[str, str] | None  # A label, or ``None`` where a watch has no labels.


class LogTail:
    """Follows the log while there are watches, for one driver object in one event loop.

    Attributes:
        head: the highest revision that it has seen.
        loop: the event loop.
        watches: those that are open.
    """

    def __init__(self, driver: Driver) -> None:
        self.loop = asyncio.get_running_loop()
        self.head = 0
        self._driver = driver
        self._recent: deque[Revision] = deque()
        self._weight = 0
        self.watches: set[Watch] = set()
        self._topics: dict[Topic, dict[Watch, None]] = {}  # Synced watches.
        self._reader: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def check_loop(self) -> None:
        """Refuse other event loops, forked processes' included: no push reaches them."""
        if _get_running_loop() is not self.loop:
            raise InvalidInputError("engine", "is open in another event loop")

    def take(self, states: Sequence[State]) -> None:
        """Append what this process has committed, so that it need not be read.

        Nothing happens while there are no watches, or if revisions of others come before it.
        """
        if self._reader is not None:
            self._append(states)

    async def stop(self, watches: Iterable["Watch"], error: Exception) -> None:
        """Raise ``error`` in watches, and return when nothing of them is left running."""
        for watch in watches:
            watch.stop(error)
        await cancel_and_wait(*self._ending)

    def leave(self, watch: "Watch") -> None:
        """Stop counting a watch; without any, the tail stops reading and forgets all."""
        self.watches.discard(watch)
        self.desync(watch)
        if not self.watches:
            self._forget()

    def follow_from(self, head: int, seen: int) -> None:
        """Read on from the ``head`` of a page; ``seen`` was that of the tail before it."""
        if self._reader is not None and head < seen:
            self._fail(HistoryRewoundError(seen, head))
        if self._reader is None and self.watches:
            self.head = head
            self._reader = spawn(self._read(), "flowstate log tail")
            self._reader.add_done_callback(self._ended)

    def covers(self, cursor: int) -> bool:
        """Return whether everything after ``cursor`` is here, or will come."""
        return self._reader is not None and self.head - len(self._recent) <= cursor

    def after(self, cursor: int) -> Iterable[Revision]:
        """Return what is here after ``cursor``."""
        start = cursor - (self.head - len(self._recent))
        return islice(self._recent, start, None)

    def sync(self, watch: "Watch") -> None:
        """Push to a watch, which has seen everything up to the head, what comes next."""
        for topic in watch.topics:
            self._topics.setdefault(topic, {})[watch] = None

    def desync(self, watch: "Watch") -> None:
        """Push nothing more to a watch."""
        for topic in watch.topics:
            watches = self._topics.get(topic, {})
            watches.pop(watch, None)
            if not watches:
                self._topics.pop(topic, None)

    async def _read(self) -> None:
        due = -1
        while True:
            head = self.head
            found = await self._driver.changed(Seen(head, due))
            # A head in between was seen before the last revisions were taken.
            if not head <= found.head <= self.head:
                await self._read_after(self.head)
            due = found.due

    async def _read_after(self, head: int) -> None:
        try:
            query = StateQuery(after=head, limit=PAGE, gaps_below=0)
            page = await self._driver.get_states(query)
        except CompactedError:
            if self.head == head:
                raise
            return  # What is gone was taken meanwhile.
        if page.head < head:
            raise HistoryRewoundError(head, page.head)
        # Some of them may have been taken meanwhile.
        if not self._append(revisions(page)[self.head - head :]):
            raise StoreCorruptError(f"the log has a hole after revision {self.head}")

    def _append(self, found: Sequence[Revision]) -> bool:
        """Append revisions for as long as they follow each other; return whether all did."""
        for revision in found:
            if revision.rev != self.head + 1:
                return False
            self.head = revision.rev
            self._recent.append(revision)
            self._weight += (weight := _weight(revision))
            if self._topics:
                self._publish(revision, weight)
            while len(self._recent) > CAPACITY or self._weight > MAX_TAIL_BYTES:
                self._weight -= _weight(self._recent.popleft())
        return True

    def _publish(self, revision: Revision, weight: int) -> None:
        if isinstance(revision, DamagedRevision):
            # Whether it matches cannot be told here: the index of the store may know.
            self._desync_all(revision.rev - 1)
            return
        topics = self._topics
        for topic in (None, *revision.labels.items()):
            if watches := topics.get(topic):
                for watch in tuple(watches):
                    if not watch.push(revision, weight):
                        self.desync(watch)

    def _desync_all(self, cursor: int) -> None:
        synced = {watch for watches in self._topics.values() for watch in watches}
        self._topics.clear()
        for watch in synced:
            watch.lag(cursor)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Note the end of a reader; one that was not stopped here has failed."""
        self._ending.discard(task)
        note_outcome(task)
        if task is not self._reader:
            return
        failure = None if task.cancelled() else task.exception()
        error = failure or DriverError("the reader of the log was cancelled")
        if not isinstance(error, FlowstateError):
            logger.error("the reader of the log has failed", exc_info=error)
        self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Stop reading, and raise ``error`` in each watch that waits."""
        for watch in self.watches:
            watch.fail(error)
        self._forget()

    def _forget(self) -> None:
        self._desync_all(self.head)
        if self._reader is not None and not self._reader.done():
            self._ending.add(self._reader)
            self._reader.cancel()
        self._reader = None
        self._recent.clear()
        self._weight = 0


class Watch:
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
        # One label of each alternative is enough to be found by.
        self.topics: list[Topic] = [next(iter(each.items())) for each in query.labels] or [None]
        # Then a label by which the tail finds it is the whole filter.
        plain = (query.status, query.since_time, query.committed_before) == (None, None, None)
        self._is_simple = plain and all(len(each) == 1 for each in query.labels)
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
            self._tail.watches.add(self)
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
            raise damaged_error(revision)
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
                self._held += _weight(revision)
                if len(self._buffer) >= BUFFER or self._held >= BUFFER_BYTES:
                    return

    async def _read_page(self) -> None:
        seen = self._tail.head
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


def tail_of(driver: Driver) -> LogTail:
    """Return the tail of a driver's log for the running event loop; all callers share it."""
    # A tail keeps its driver and loop alive, so their ids mean them while it is here.
    key = id(driver), id(asyncio.get_running_loop())
    tail = _tails[key] = _tails.get(key) or LogTail(driver)
    return tail


_tails: "weakref.WeakValueDictionary[tuple[int, int], LogTail]" = weakref.WeakValueDictionary()


async def change_of_head(driver: Driver, seen: Seen) -> Seen:
    """Return what the store has, once its head is another one than that of ``seen``."""
    now = seen
    while now.head == seen.head:
        now = await driver.changed(now)
    return now


def revisions(page: States | Page) -> Sequence[Revision]:
    """Return the states of a page, and what is damaged, in the order of the log."""
    if not page.damaged:
        return page.states
    return sorted([*page.states, *page.damaged], key=attrgetter("rev"))


def damaged_error(damaged: DamagedRevision) -> DamagedRevisionError:
    """Return the error that names a damaged revision."""
    return DamagedRevisionError(damaged.rev, damaged.id, damaged.error)


def _weight(revision: Revision) -> int:
    """Return about how many bytes a revision takes in memory."""
    if isinstance(revision, DamagedRevision):
        return BASE_WEIGHT
    transition = revision.transition
    weight = BASE_WEIGHT + BASE_WEIGHT * len(revision.data)
    for texts in (
        revision.labels,
        revision.annotations,
        transition.annotations,
        revision.unknown,
        transition.unknown,
    ):
        if texts:
            weight += sum(map(len, texts)) + sum(map(len, texts.values()))
    return weight
