"""Records what engines do to a store, for the checker of histories.

::

    records: list[Record] = []
    driver = Recorder(MemoryDriver(), records.append)
    async with Engine(driver, flows) as engine:
        ...
        async with driver.watch(engine, since_rev=0) as states:
            ...
        records += await read_store(driver, records)
    assert check(History(records)) == []

The store must be empty at first, and everything that writes to it must be recorded, as only then
is every revision explained. What is committed inside a transaction of the user's own is not seen.
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace

from flowstate.codec import encode_body
from flowstate.commands import GetStates
from flowstate.driver import (
    Driver,
    DuePage,
    DueQuery,
    StateQuery,
    States,
    Verdict,
    Writes,
)
from flowstate.engine import Engine
from flowstate.errors import (
    CommitUnknownError,
    DamagedRevisionError,
    FlowstateError,
    RevisionMismatchError,
)
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.log.reading import state_query
from flowstate.state import State
from flowstate.testcases.support import DriverWrapper
from flowstate.testing.histories.history import (
    Committed,
    Compacted,
    Delivered,
    Dropped,
    Failed,
    Filter,
    Invoked,
    LogRow,
    Outcome,
    PageRead,
    Record,
    Refused,
    StateRead,
    Stored,
    Unknown,
    WatchBegun,
    WatchEnded,
)

__all__ = ["RecordedWatch", "Recorder", "read_store"]

TOKEN = "flowstate.testing.token"  # noqa: S105 - the name of an annotation
PAGE = 1_000


class Recorder(DriverWrapper):
    """A driver that records what is asked of the one inside, and what that answers.

    It marks every revision with the token of its commit, in an annotation that engines on it
    never see, so the log tells which commit wrote what.

    Args:
        driver: the store.
        record: takes each record, such as ``list.append`` or ``HistoryFile.append``.
        clock: nanoseconds that no process of the history sees going back.
    """

    def __init__(
        self,
        driver: Driver,
        record: Callable[[Record], object],
        *,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        super().__init__(driver)
        self._record = record
        self._clock = clock
        # Different in every process without asking any other.
        self._ops = count(random.SystemRandom().getrandbits(30) << 32)

    @property
    def inner(self) -> Driver:
        """The driver inside."""
        return self._driver

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.durability = self._driver.durability
        return self

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Pass on, marked and recorded."""
        first = [next(self._ops) for _ in batch]
        at = self._clock()
        for op, writes in zip(first, batch, strict=True):
            self._record(_invoked(op, at, writes))
            for drop in writes.drops:
                self._record(Dropped(drop.id))
        marked = [_marked(writes) for writes in batch]
        try:
            verdicts = await self._driver.commit(marked)
        except BaseException as error:
            at = self._clock()
            known = isinstance(error, FlowstateError) and not isinstance(error, CommitUnknownError)
            for op in first:
                self._record(Failed(op, at) if known else Unknown(op, at))
            raise
        at = self._clock()
        for op, verdict in zip(first, verdicts, strict=True):
            self._record(_outcome(op, at, verdict))
        return [
            tuple(map(_plain, verdict)) if isinstance(verdict, tuple) else verdict
            for verdict in verdicts
        ]

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        """Pass on, recorded."""
        invoked = self._clock()
        try:
            state = await self._driver.get_state(id, rev)
        except DamagedRevisionError as error:
            self._note_read(invoked, id, rev, error.rev)
            raise
        self._note_read(invoked, id, rev, state.rev if state else 0)
        return state and _plain(state)

    def _note_read(self, invoked: int, id: str, rev: int | None, found: int) -> None:
        read = StateRead(next(self._ops), invoked, self._clock(), id, found, rev or 0)
        self._record(read)

    async def get_states(self, query: StateQuery) -> States:
        """Pass on, recorded."""
        invoked = self._clock()
        page = await self._driver.get_states(query)
        at = self._clock()
        self._record(
            PageRead(
                op=next(self._ops),
                invoked=invoked,
                at=at,
                filter=_filter(query),
                after=query.after,
                since_latest=query.since_latest,
                latest_only=query.latest_only,
                revs=_revs(page),
                scanned_to=page.scanned_to,
                more=page.more,
                head=page.head,
                floor=page.floor,
            )
        )
        return replace(page, states=[_plain(state) for state in page.states])

    async def get_due(self, query: DueQuery) -> DuePage:
        """Pass on, without the marks."""
        page = await self._driver.get_due(query)
        return replace(page, due=[replace(each, state=_plain(each.state)) for each in page.due])

    async def compact(self, before_rev: int) -> int:
        """Pass on, recorded."""
        self._record(Compacted(self._clock(), before_rev))
        return await self._driver.compact(before_rev)

    def watch(self, engine: Engine, name: str | None = None, **filters: Any) -> "RecordedWatch":
        """Return a watch of ``engine``, recorded.

        Args:
            engine: an engine on this driver.
            name: of an earlier watch that this one goes on with; ``filters`` has the cursor.
            filters: those of ``Engine.watch``.
        """
        op = next(self._ops)
        return RecordedWatch(
            engine, filters, op=op, name=name or f"{op}", record=self._record, clock=self._clock
        )


class RecordedWatch:
    """Like ``flowstate.log.watch.Watch``, with everything recorded that it delivers.

    Attributes:
        name: to go on with it in another watch.
    """

    def __init__(
        self,
        engine: Engine,
        filters: dict[str, Any],
        *,
        op: int,
        name: str,
        record: Callable[[Record], object],
        clock: Callable[[], int],
    ) -> None:
        self.name = name
        self._op = op
        self._query = state_query(GetStates(**filters))
        self._watch = engine.watch(**filters)
        self._record = record
        self._clock = clock

    @property
    def cursor(self) -> int:
        """Everything up to this revision was delivered or does not match."""
        return self._watch.cursor

    async def __aenter__(self) -> Self:
        await self._watch.__aenter__()
        query = self._query
        self._record(
            WatchBegun(
                op=self._op,
                at=self._clock(),
                name=self.name,
                filter=_filter(query),
                after=query.after,
                since_latest=query.since_latest,
            )
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._watch.__aexit__(exc_type, exc, traceback)
        self._record(WatchEnded(self._op, self._clock(), self._watch.cursor))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> State:
        state = await anext(self._watch)
        self._record(Delivered(self._op, self._clock(), state.rev, state.id))
        return state


async def read_store(driver: Driver, records: Iterable[Record]) -> list[Record]:
    """Return what the store has in the end: the log, and data and delays if any were recorded."""
    store = driver.inner if isinstance(driver, Recorder) else driver
    log: list[LogRow] = []
    mentioned: set[str] = set()
    delays = False
    for record in records:
        if isinstance(record, Invoked):
            mentioned.update(record.data)
            delays = delays or bool(record.delays or record.timers)
    query = StateQuery(limit=PAGE, gaps_below=0)
    while True:
        page = await store.get_states(query)
        log += map(_row, page.states)
        if not page.more:
            break
        query = replace(query, after=page.scanned_to)
    for row in log:
        mentioned.update(row.data)
    present = [checksum for checksum in sorted(mentioned) if await store.get_data(checksum)]
    waiting, timers = await _delays(store) if delays else ((), ())
    return [*log, Stored(tuple(present), tuple(waiting), tuple(timers))]


async def _delays(store: Driver) -> tuple[list[str], list[str]]:
    """Return the ids of delays, and of timers."""
    ids, timers = list[str](), list[str]()
    query = DueQuery("delay", everything=True, limit=PAGE)
    while True:
        page = await store.get_due(query)
        ids += [delay.id for delay in page.due if not delay.timer]
        timers += [delay.id for delay in page.due if delay.timer]
        ids += [damaged.id for damaged in page.damaged]
        if not page.more:
            return ids, timers
        query = replace(query, after=page.end)


def _row(state: State) -> LogRow:
    return LogRow(
        rev=state.rev,
        id=state.id,
        token=state.annotations.get(TOKEN, ""),
        committed_at=state.committed_at,
        status=state.status,
        labels=dict(state.labels),
        data=tuple(ref.checksum for ref in state.data.values()),
        forgotten=state.transition.cause == "forget",
    )


def _invoked(op: int, at: int, writes: Writes) -> Invoked:
    puts = tuple((state.id, state.rev) for state in writes.puts)
    has_more = writes.checks or writes.data or writes.delays
    if not (has_more or writes.timers or writes.drops):
        return Invoked(op, at, writes.token, puts)
    return Invoked(
        op,
        at,
        writes.token,
        puts,
        writes.checks,
        tuple(data.checksum for data in writes.data),
        tuple(
            (delay.state.id, delay.state.rev if delay.put is None else -1)
            for delay in writes.delays
        ),
        tuple(timer.id for timer in writes.timers),
        tuple(drop.id for drop in writes.drops if not drop.holder),
    )


def _outcome(op: int, at: int, verdict: Verdict) -> Outcome:
    match verdict:
        case tuple():
            return Committed(op, at, tuple(state.rev for state in verdict))
        case RevisionMismatchError():
            return Refused(op, at, verdict.ids)
        case CommitUnknownError():
            return Unknown(op, at)
        case _:
            return Failed(op, at)


def _filter(query: StateQuery) -> Filter:
    times = query.since_time, query.committed_before
    return Filter(tuple(query.labels), query.status, *times, query.id)


def _revs(page: States) -> tuple[int, ...]:
    """Return what a page found, what is damaged as well: it was found all the same."""
    found = [state.rev for state in page.states]
    return tuple(sorted([*found, *(damaged.rev for damaged in page.damaged)]))


def _marked(writes: Writes) -> Writes:
    mark = {TOKEN: writes.token}
    puts = [
        replace(state, annotations=FrozenDict({**state.annotations, **mark}))
        for state in writes.puts
    ]
    bodies = tuple(map(encode_body, puts)) if writes.bodies else ()
    return replace(writes, puts=tuple(puts), bodies=bodies)


def _plain(state: State) -> State:
    annotations = {key: value for key, value in state.annotations.items() if key != TOKEN}
    return replace(state, annotations=FrozenDict(annotations) if annotations else EMPTY)
