"""Watches deliver every matching revision once, in order, and raise rather than hang."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from flowstate.commands import Command, Commit, End, Pause, Transit
from flowstate.driver import StateQuery, States
from flowstate.engine import Engine
from flowstate.errors import (
    CompactedError,
    EngineStoppedError,
    FlowstateError,
    HistoryRewoundError,
    InvalidInputError,
    StoreUnavailableError,
)
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import DriverWrapper, committed, know, raised, take

__all__ = ["CASES"]


async def _first_half(h: Harness) -> list[State]:
    """Commit seven revisions with different labels and statuses, at different times."""
    know(h, "work")
    await _commit(h, [("a", "x"), ("b", "y")], Status.ACTIVE)
    await _commit(h, [("c", "x")], Status.PAUSED)
    await _commit(h, [("d", "z"), ("e", "x")], Status.ACTIVE)
    await _commit(h, [("f", "y")], Status.ENDED)
    await _commit(h, [("g", "x")], Status.PAUSED)
    return await h.log()


async def _second_half(h: Harness) -> list[State]:
    await _commit(h, [("h", "x"), ("i", "z")], Status.PAUSED)
    await _commit(h, [("j", "y"), ("k", "x")], Status.ENDED)
    await _commit(h, [("l", "x"), ("m", "y")], Status.ACTIVE)
    return (await h.log())[7:]


async def _commit(h: Harness, states: Sequence[tuple[str, str]], status: Status) -> None:
    steps: list[Command[None]] = []
    for id, kind in states:
        ctx = h.ctx(id, labels={"kind": kind, "all": "yes"})
        match status:
            case Status.ACTIVE:
                steps.append(Transit(ctx, "work"))
            case Status.PAUSED:
                steps.append(Pause(ctx))
            case Status.ENDED:
                steps.append(End(ctx))
    await h.engine.do(Commit(*steps))
    await h.clock.sleep(0.002)


async def _watched(h: Harness, before: str, after: str, **filters: Any) -> None:
    """Open a watch in the middle of the log; the ids expected are one letter each."""
    async with h.engine.watch(**filters) as states:
        found = [s.id for s in await take(states, len(before))]
        check("".join(found), before, f"ids from the log for {filters}")
        await _second_half(h)
        found = [s.id for s in await take(states, len(after))]
        check("".join(found), after, f"ids that were new for {filters}")


@case()
async def watch_everything(h: Harness) -> None:
    """G6: a watch without filters delivers the log from its start, and then what is new."""
    await _first_half(h)
    await _watched(h, "abcdefg", "hijklm")


@case()
async def watch_labels(h: Harness) -> None:
    """G6: a watch delivers only revisions that have all of its labels."""
    await _first_half(h)
    await _watched(h, "aceg", "hkl", labels={"kind": "x", "all": "yes"})


@case()
async def watch_alternative_labels(h: Harness) -> None:
    """G6: a watch delivers revisions that have one of its sets of labels, each once."""
    await _first_half(h)
    labels = [{"kind": "z"}, {"kind": "y"}, {"kind": "y", "all": "yes"}]
    await _watched(h, "bdf", "ijm", labels=labels)


@case()
async def watch_since_rev(h: Harness) -> None:
    """G6: a watch delivers what comes after its revision."""
    await _first_half(h)
    await _watched(h, "efg", "hijklm", since_rev=4)


@case()
async def watch_since_the_head(h: Harness) -> None:
    """G6: a watch from the head delivers only what is new."""
    await _first_half(h)
    await _watched(h, "", "hkl", since_rev=7, labels={"kind": "x"})


@case()
async def watch_since_latest(h: Harness) -> None:
    """G6: a watch from the latest starts with the newest match."""
    await _first_half(h)
    await _watched(h, "f", "jm", since_latest=True, labels={"kind": "y"})


@case()
async def watch_since_latest_of_nothing(h: Harness) -> None:
    """G6: a watch from the latest of nothing delivers only what is new."""
    await _first_half(h)
    await _watched(h, "", "k", since_latest=True, labels={"kind": "x"}, status=Status.ENDED)


@case()
async def watch_since_time(h: Harness) -> None:
    """G6: a watch delivers what was committed at its time or later."""
    log = await _first_half(h)
    await _watched(h, "defg", "hijklm", since_time=log[3].committed_at)


@case()
async def watch_since_a_time_to_come(h: Harness) -> None:
    """G6: a watch from the future delivers nothing that is committed before."""
    await _first_half(h)
    far = datetime.fromisoformat("9000-01-01T00:00:00+00:00")
    async with h.engine.watch(since_time=far) as states:
        reading = asyncio.ensure_future(anext(states))
        async with h.engine.watch() as all_states:
            await _second_half(h)
            await take(all_states, 13)
        check(reading.done(), False, "whether something was delivered")
        reading.cancel()
        await asyncio.wait([reading])


@case()
async def watch_status(h: Harness) -> None:
    """G6: a watch delivers only revisions that have its status."""
    await _first_half(h)
    await _watched(h, "cg", "hi", status=Status.PAUSED)


@case()
async def watches_agree(h: Harness) -> None:
    """G6: watches opened before, during and after the commits deliver the same list."""
    know(h, "work")
    count = 300

    async def read(labels: dict[str, str]) -> list[State]:
        async with h.engine.watch(labels=labels) as states:
            return await take(states, count if not labels else count // 3)

    kinds: list[dict[str, str]] = [{}, {"n": "0"}, {"n": "1"}]
    readers = [asyncio.create_task(read(kind)) for kind in kinds]
    for n in range(count):
        await committed(h, f"s-{n}", labels={"n": str(n % 3)})
        if n % 100 == 50:
            readers += [asyncio.create_task(read(kind)) for kind in kinds]
    readers += [asyncio.create_task(read(kind)) for kind in kinds]
    log = await h.log()
    expected = [log, log[0::3], log[1::3]]
    for place, found in enumerate(await asyncio.gather(*readers)):
        check(found, expected[place % 3], f"what reader {place} found")


@case()
async def watch_goes_on_from_its_cursor(h: Harness) -> None:
    """G6: a new watch from the cursor of an old one delivers the rest, once."""
    await _first_half(h)
    found: list[str] = []
    cursor = 0
    for count in (2, 1, 3, 1):
        async with h.engine.watch(since_rev=cursor) as states:
            found += [s.id for s in await take(states, count)]
            cursor = states.cursor
    check("".join(found), "abcdefg", "ids")
    check(cursor, 7, "cursor")


@case()
async def cursor_passes_what_does_not_match(h: Harness) -> None:
    """G6: while a watch waits, its cursor is at the head, whatever matches."""
    await _first_half(h)
    async with h.engine.watch(labels={"kind": "z"}) as states:
        await anext(states)
        check(states.cursor, 4, "cursor after a match")
        reading = asyncio.ensure_future(anext(states))
        async with h.engine.watch(since_latest=True, labels={"kind": "x"}) as others:
            await anext(others)
        await _commit(h, [("n", "z")], Status.ACTIVE)
        check((await reading).id, "n", "the next match")


@case()
async def watch_below_the_floor(h: Harness) -> None:
    """G6: a watch from below the floor raises, and names the floor to go on from."""
    await _first_half(h)
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
    await _first_half(h)
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
    await _first_half(h)
    async with h.engine.watch(since_rev=8) as states:
        error = await raised(HistoryRewoundError, states.__anext__)
    check((error.since_rev, error.head), (8, 7), "cursor and head")


@case()
async def slow_consumer(h: Harness) -> None:
    """G6: a watch that nobody reads from holds up no other, and misses nothing."""
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

    async def wait(self, rev: int) -> None:
        """Wait, or fail."""
        await super().wait(rev)
        if self.waits:
            raise StoreUnavailableError("the connection is lost")


async def _fails(h: Harness, driver: _Failing, engine: Engine, broken: str) -> None:
    """Let two watches wait, break the driver, and go on after it was repaired."""
    async with engine.watch() as one, engine.watch(labels={"n": "2"}) as two:
        ctx = h.ctx(broken)
        await engine.do(Commit(Transit(ctx, "work")))
        seen = [await anext(one)]
        while seen[-1].id != broken:
            seen.append(await anext(one))
        reading = [asyncio.ensure_future(anext(one)), asyncio.ensure_future(anext(two))]
        await asyncio.wait(reading, timeout=0)
        setattr(driver, broken, True)
        await engine.do(Commit(Transit(ctx, "work")))
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
    await _first_half(h)
    driver = _Failing(h.driver)
    async with h.make_engine(driver) as engine, engine.watch() as states:
        driver.pages = True
        await raised(StoreUnavailableError, states.__anext__)
        driver.pages = False
        check([s.rev for s in await take(states, 7)], list(range(1, 8)), "revisions")


@case()
async def stop_raises_in_watches(h: Harness) -> None:
    """G6: when an engine stops, its watches raise, whether they wait, have read, or are new."""
    await _first_half(h)
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
    await _first_half(h)
    watch = h.engine.watch()
    await raised(EngineStoppedError, watch.__anext__)
    async with watch:
        await anext(watch)
    await raised(EngineStoppedError, watch.__anext__)


@case()
async def cancelled_read_loses_nothing(h: Harness) -> None:
    """G9: cancelling the wait for the next revision loses none."""
    await _first_half(h)
    async with h.engine.watch(since_rev=7) as states:
        for _ in range(3):
            reading = asyncio.ensure_future(anext(states))
            await asyncio.wait([reading], timeout=0)
            reading.cancel()
            await asyncio.wait([reading])
        await _second_half(h)
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


@case("shared")
async def watch_sees_other_processes(h: Harness) -> None:
    """G6: a watch delivers what another driver on the store commits."""
    know(h, "work")
    async with (
        h.other_driver() as driver,
        h.make_engine(driver) as other,
        h.engine.watch() as states,
    ):
        for n in range(20):
            engine = other if n % 2 else h.engine
            ctx = h.ctx(f"s-{n}")
            await engine.do(Commit(Transit(ctx, "work")))
            check(await anext(states), ctx.committed, "state")


CASES: tuple[Case, ...] = (
    watch_everything,
    watch_labels,
    watch_alternative_labels,
    watch_since_rev,
    watch_since_the_head,
    watch_since_latest,
    watch_since_latest_of_nothing,
    watch_since_time,
    watch_since_a_time_to_come,
    watch_status,
    watches_agree,
    watch_goes_on_from_its_cursor,
    cursor_passes_what_does_not_match,
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
    watch_sees_other_processes,
)
