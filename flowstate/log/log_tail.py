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
from abc import abstractmethod
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice
from operator import attrgetter
from typing import Protocol

from flowstate.commands import Page
from flowstate.driver import DamagedRevision, Driver, Seen, StateQuery, States
from flowstate.errors import (
    CompactedError,
    DriverError,
    FlowstateError,
    HistoryRewoundError,
    InvalidInputError,
    StoreCorruptError,
)
from flowstate.ground.limits import MAX_TAIL_BYTES
from flowstate.ground.tasks import cancel_and_wait, note_outcome, spawn
from flowstate.state import State

__all__ = [
    "Follower",
    "LogTail",
    "Revision",
    "Topic",
    "change_of_head",
    "revisions",
    "tail_of",
    "weight_of",
]

logger = logging.getLogger("flowstate")
CAPACITY = 4096  # Revisions that a tail keeps.
PAGE = 500
MAX_READS = 16  # Pages that are read at the same time for watches.
BASE_WEIGHT = 500  # Bytes of a revision without its texts, about.

Revision = State | DamagedRevision
Topic = tuple[str, str] | str | None
"""By what a watch is found: a label, the id of a state, or ``None`` where it has neither."""


class Follower(Protocol):
    """A watch, as the tail sees it.

    Attributes:
        topics: a revision that has none of them does not match.
    """

    topics: Sequence[Topic]

    @abstractmethod
    def push(self, state: State, weight: int) -> bool:
        """Hold a state, if it matches; return whether there is room for more."""

    @abstractmethod
    def lag(self, cursor: int) -> None:
        """Note that the tail pushes nothing more; what is up to ``cursor`` has been pushed."""

    @abstractmethod
    def fail(self, error: BaseException) -> None:
        """Raise ``error`` in the iteration, if it waits."""

    @abstractmethod
    def stop(self, error: Exception) -> None:
        """Raise ``error`` in the iteration, once it has delivered what it holds."""


class LogTail:
    """Follows the log while there are watches, for one driver object in one event loop.

    Attributes:
        head: the highest revision that it has seen.
        loop: the event loop.
        watches: those that are open, in the order of their coming.
        reading: is held by watches that read pages: thousands may begin at once.
    """

    def __init__(self, driver: Driver) -> None:
        self.loop = asyncio.get_running_loop()
        self.head = 0
        self._driver = driver
        self._recent: deque[Revision] = deque()
        self._weight = 0
        self.watches: dict[Follower, None] = {}
        self.reading = asyncio.Semaphore(MAX_READS)
        self._topics: dict[Topic, dict[Follower, None]] = {}  # Synced watches.
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

    async def stop(self, watches: Iterable[Follower], error: Exception) -> None:
        """Raise ``error`` in watches, and return when nothing of them is left running."""
        for watch in watches:
            watch.stop(error)
        await cancel_and_wait(*self._ending)

    def leave(self, watch: Follower) -> None:
        """Stop counting a watch; without any, the tail stops reading and forgets all."""
        self.watches.pop(watch, None)
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

    def sync(self, watch: Follower) -> None:
        """Push to a watch, which has seen everything up to the head, what comes next."""
        for topic in watch.topics:
            self._topics.setdefault(topic, {})[watch] = None

    def desync(self, watch: Follower) -> None:
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
            self._weight += (weight := weight_of(revision))
            if self._topics:
                self._publish(revision, weight)
            while len(self._recent) > CAPACITY or self._weight > MAX_TAIL_BYTES:
                self._weight -= weight_of(self._recent.popleft())
        return True

    def _publish(self, revision: Revision, weight: int) -> None:
        if isinstance(revision, DamagedRevision):
            # Whether it matches cannot be told here: the index of the store may know.
            self._desync_all(revision.rev - 1)
            return
        topics = self._topics
        for topic in (None, revision.id, *revision.labels.items()):
            if watches := topics.get(topic):
                for watch in tuple(watches):
                    if not watch.push(revision, weight):
                        self.desync(watch)

    def _desync_all(self, cursor: int) -> None:
        synced = dict.fromkeys(watch for watches in self._topics.values() for watch in watches)
        self._topics.clear()
        for watch in synced:
            watch.lag(cursor)

    def _ended(self, task: asyncio.Task[None]) -> None:
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


def tail_of(driver: Driver) -> LogTail:
    """Return the tail of a driver's log for the running event loop; all callers share it."""
    # A tail keeps its driver and loop alive, so their ids mean them while it is here.
    key = id(driver), id(asyncio.get_running_loop())
    tail = _tails[key] = _tails.get(key) or LogTail(driver)
    return tail


_tails: weakref.WeakValueDictionary[tuple[int, int], LogTail] = weakref.WeakValueDictionary()


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


def weight_of(revision: Revision) -> int:
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
    if revision.values:
        weight += sum([len(name) + memoryview(raw).nbytes for name, raw in revision.values.items()])
    return weight + BASE_WEIGHT * len(revision.timers)
