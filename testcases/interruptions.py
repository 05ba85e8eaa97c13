"""Watches raise rather than hang or leave something out, and hold up nothing else."""

import asyncio
from datetime import datetime
from typing import Any

from flowstate.commands import Commit, End, Transit
from flowstate.driver import Seen, StateQuery, States
from flowstate.engine import Engine
from flowstate.errors import (
    CompactedError,
    EngineStoppedError,
    FlowstateError,
    HistoryRewoundError,
    InvalidInputError,
    StoreUnavailableError,
)
from flowstate.log.watch import Watch
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import (
    DriverWrapper,
    committed,
    first_half,
    know,
    raised,
    second_half,
    take,
)

__all__ = ["CASES"]


@case()
async def watch_below_the_floor(h: Harness) -> None:
    """G6: a watch from below the floor raises, and names the floor to go on from."""
    await first_half(h)
    for id in "abcde":
        await h.engine.do(Commit(Transit(h.ctx(f"{id}-new"), "work")))
    ctx = await committed(h, "again")
    await h.engine.do(Commit(End(ctx)))
    await h.engine.compact(14)
    for since in (0, 5, 12):
        async with h.engine.watch(since_rev=since) as states:
            check((await raised(CompactedError, states.__anext__)).floor, 14, "floor")
    async with h.engine.watch(since_rev=13) as states:
        check((await anext(states)).rev, 14, "first revision from the floor")


@case()
async def watch_accepts_older_holes(h: Harness) -> None:
    """G6: a watch without a cursor starts with what compaction has left."""
    await first_half(h)
    ctx = await committed(h, "again")
    await h.engine.do(Commit(End(ctx)))
    await h.engine.compact(9)
    async with h.engine.watch() as states:
        found = [s.rev for s in await take(states, 8)]
    check(found, [1, 2, 3, 4, 5, 6, 7, 9], "revisions")


@case()
async def compaction_under_a_watch(h: Harness) -> None:
    """G6: a watch that compaction overtakes delivers all or raises, but leaves nothing out."""
    ctx = await committed(h, "moving")
    async with h.engine.watch(since_rev=0) as states:
        await anext(states)
        for _ in range(1_000):
            await h.engine.do(Commit(Transit(ctx, "work")))
        await h.engine.compact(900)
        last = 1
        try:
            while last < 1_001:
                rev = (await anext(states)).rev
                check(rev, last + 1, "next revision")
                last = rev
        except CompactedError as error:
            check(error.floor, 900, "floor")


@case()
async def watch_above_the_head(h: Harness) -> None:
    """G6: a cursor above the head means that history was rewound, and raises."""
    await first_half(h)
    async with h.engine.watch(since_rev=8) as states:
        error = await raised(HistoryRewoundError, states.__anext__)
    check((error.since_rev, error.head), (8, 7), "cursor and head")


@case()
async def slow_consumer(h: Harness) -> None:
    """G6: a watch that is not read from holds up no other, and misses nothing."""
    count = 600
    async with h.engine.watch() as slow, h.engine.watch() as fast:
        await committed(h, "s-0")
        check((await anext(slow)).id, "s-0", "the first for the slow one")
        for n in range(1, count):
            await committed(h, f"s-{n}")
        found = await take(fast, count)
        check([s.rev for s in found], list(range(1, count + 1)), "what the fast one found")
        late = await take(slow, count - 1)
        check(late, found[1:], "what the slow one found")


class _Failing(DriverWrapper):
    """Fails when told to: the pages, or the wait for more."""

    pages = False
    waits = False

    async def get_states(self, query: StateQuery) -> States:
        """Read a page, or fail."""
        if self.pages:
            raise StoreUnavailableError("the connection is lost")
        return await super().get_states(query)

    async def changed(self, seen: Seen) -> Seen:
        """Wait, or fail."""
        found = await super().changed(seen)
        if self.waits:
            raise StoreUnavailableError("the connection is lost")
        return found


async def _pass(states: Watch, id: str) -> None:
    """Read on until a revision of this state has been seen."""
    while (await anext(states)).id != id:
        pass


async def _fails(h: Harness, driver: _Failing, engine: Engine, broken: str) -> None:
    """Let two watches wait, break the driver, and go on after it was repaired."""
    async with engine.watch() as one, engine.watch(labels={"n": "2"}) as two:
        ctx, other = h.ctx(broken), h.ctx(f"{broken} 2", labels={"n": "2"})
        await engine.do(Commit(Transit(other, "work"), Transit(ctx, "work")))
        # Both have read the log then, and only wait for more.
        await _pass(one, ctx.current.id)
        await _pass(two, other.current.id)
        reading = [asyncio.ensure_future(anext(one)), asyncio.ensure_future(anext(two))]
        await asyncio.wait(reading, timeout=0)
        setattr(driver, broken, True)
        # By another engine, because what a watch's own engine commits need not be read.
        await h.engine.do(Commit(Transit(ctx, "work")))
        for failed in reading:
            await asyncio.wait([failed])
            check(type(failed.exception()), StoreUnavailableError, "error")
        setattr(driver, broken, False)
        async with engine.watch(since_rev=one.cursor) as again:
            check((await anext(again)).rev, ctx.committed.rev, "revision after the failure")


@case()
async def watch_raises_when_its_read_fails(h: Harness) -> None:
    """G6: when the store cannot be read, every watch raises, and a new one goes on."""
    know(h, "work")
    driver = _Failing(h.driver)
    async with h.make_engine(driver) as engine:
        for broken in ("pages", "waits"):
            await _fails(h, driver, engine, broken)


@case()
async def first_read_of_a_watch_fails(h: Harness) -> None:
    """G6: a watch whose very first read fails raises, and works when it is asked again."""
    await first_half(h)
    driver = _Failing(h.driver)
    async with h.make_engine(driver) as engine, engine.watch() as states:
        driver.pages = True
        await raised(StoreUnavailableError, states.__anext__)
        driver.pages = False
        check([s.rev for s in await take(states, 7)], list(range(1, 8)), "revisions")


@case()
async def stop_raises_in_watches(h: Harness) -> None:
    """G6: when an engine stops, its watches raise, whether they wait, have read, or are new."""
    await first_half(h)
    engine = await h.make_engine().__aenter__()
    waiting, busy, fresh = engine.watch(since_rev=7), engine.watch(), engine.watch()
    async with waiting, busy, fresh:
        reading = asyncio.ensure_future(anext(waiting))
        await take(busy, 7)
        await engine.__aexit__(None, None, None)
        await raised(EngineStoppedError, lambda: reading)
        await raised(EngineStoppedError, busy.__anext__)
        await raised(EngineStoppedError, fresh.__anext__)


@case()
async def watch_that_is_not_open(h: Harness) -> None:
    """G14: a watch outside ``async with`` raises."""
    await first_half(h)
    watch = h.engine.watch()
    await raised(EngineStoppedError, watch.__anext__)
    async with watch:
        await anext(watch)
    await raised(EngineStoppedError, watch.__anext__)


@case()
async def cancelled_read_loses_nothing(h: Harness) -> None:
    """G9: cancelling the wait for the next revision loses none."""
    await first_half(h)
    async with h.engine.watch(since_rev=7) as states:
        for _ in range(3):
            reading = asyncio.ensure_future(anext(states))
            await asyncio.wait([reading], timeout=0)
            reading.cancel()
            await asyncio.wait([reading])
        await second_half(h)
        check("".join(s.id for s in await take(states, 6)), "hijklm", "ids")


@case()
async def bad_filters_of_watches(h: Harness) -> None:
    """G14: the bad filter of a watch is refused when it is made, and named."""
    naive = datetime(2030, 1, 1)  # noqa: DTZ001 - on purpose
    table: list[tuple[str, dict[str, Any]]] = [
        ("since_rev", {"since_rev": -1}),
        ("since_rev", {"since_rev": "1"}),
        ("since_latest", {"since_rev": 1, "since_latest": True}),
        ("since_time", {"since_time": naive}),
        ("status", {"status": "sleeping"}),
        ("labels", {"labels": "kind"}),
        ("labels key", {"labels": {"": "x"}}),
    ]
    for field, filters in table:
        try:
            h.engine.watch(**filters)
        except FlowstateError as error:
            check(type(error), InvalidInputError, f"error for {filters}")
            check(getattr(error, "field", None), field, f"field for {filters}")
        else:
            raise AssertionError(f"{filters} was not refused")


CASES: tuple[Case, ...] = (
    watch_below_the_floor,
    watch_accepts_older_holes,
    compaction_under_a_watch,
    watch_above_the_head,
    slow_consumer,
    watch_raises_when_its_read_fails,
    first_read_of_a_watch_fails,
    stop_raises_in_watches,
    watch_that_is_not_open,
    cancelled_read_loses_nothing,
    bad_filters_of_watches,
)
