"""Reads return exactly what the log has: one state, pages of revisions, pages of delays."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from flowstate.commands import Command, Commit, Delay, End, GetStates, Pause, Transit
from flowstate.context import StateContext
from flowstate.errors import CompactedError, HistoryRewoundError, StateNotFoundError
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, delays_of, know, raised

__all__ = ["CASES"]

STEP = timedelta(seconds=1)
LABELS: tuple[Any, ...] = (
    {},
    {"kind": "x"},
    {"kind": "x", "tier": "2"},
    [{"kind": "y"}, {"tier": "1"}],
    [{"kind": "x"}, {"kind": "x", "tier": "1"}],
    [{"kind": "nothing"}, {"tier": "3"}],
    {"kind": "nothing"},
)


async def _fill(h: Harness) -> list[State]:
    """Commit fourteen revisions of four states, at different times; return the log."""
    know(h, "work", "wait")
    a = h.ctx("a", labels={"kind": "x", "tier": "1"})
    b = h.ctx("b", labels={"kind": "x", "tier": "2"})
    c = h.ctx("c", labels={"kind": "y"})
    d = h.ctx("d")
    steps: list[list[Command[None]]] = [
        [Transit(a, "work")],
        [Transit(b, "work"), Transit(c, "work")],
        [Pause(b)],
        [End(a), Transit(d, "wait")],
        [Transit(c, "wait")],
        [Pause(d)],
        [Transit(b, "work"), Pause(c)],
        [End(c)],
        [Transit(d, "work")],
    ]
    for step in steps:
        await h.engine.do(Commit(*step))
        await h.clock.sleep(0.002)
    b.set_label("tier", "3")
    d.set_label("kind", "y")
    await h.engine.do(Commit(End(b), Pause(d)))
    return await h.log()


def _model(log: Sequence[State], query: GetStates) -> list[State]:
    """Return what a query must find, by the plainest reading of its filters."""
    labels = query.labels
    wanted = [labels] if isinstance(labels, Mapping) else list(labels)
    latest = {state.id: state.rev for state in log}
    found = [
        state
        for state in log
        if any(terms.items() <= state.labels.items() for terms in wanted)
        and state.rev > (query.since_rev or 0)
        and (query.since_time is None or _at(state) >= query.since_time)
        and (query.committed_before is None or _at(state) < query.committed_before)
        and (query.status is None or state.status is query.status)
        and (not query.latest_only or latest[state.id] == state.rev)
    ]
    return found[-1:] if query.since_latest else found


def _at(state: State) -> datetime:
    assert state.committed_at is not None
    return state.committed_at


def _queries(log: Sequence[State]) -> list[GetStates]:
    """Return every combination of filters."""
    starts: tuple[tuple[int | None, bool], ...] = ((None, False), (0, False), (5, False))
    combined = itertools.product(
        LABELS,
        (*starts, (None, True)),
        (None, _at(log[4])),
        (False, True),
        (None, *Status),
        (None, _at(log[10])),
    )
    return [
        GetStates(labels, rev, newest, since, latest, status, before)
        for labels, (rev, newest), since, latest, status, before in combined
    ]


async def _pages(h: Harness, query: GetStates) -> list[State]:
    """Read all pages, and check what every page promises."""
    found: list[State] = []
    cursor = query.since_rev or 0
    while True:
        page = await h.engine.do(query)
        assert len(page.states) <= query.limit, f"a page of {len(page.states)} for {query}"
        assert page.cursor >= cursor, f"the cursor went back from {cursor} to {page.cursor}"
        found += page.states
        if not page.more:
            return found
        query, cursor = page.next, page.cursor


@case()
async def every_combination_of_filters(h: Harness) -> None:
    """G5: every combination of filters finds exactly the revisions that answer it."""
    log = await _fill(h)
    check([s.rev for s in log], list(range(1, 15)), "revisions")
    for query in _queries(log):
        page = await h.engine.do(query)
        check(list(page.states), _model(log, query), repr(query))
        check(page.more, False, f"more of {query!r}")
        check(page.cursor, 14, f"cursor of {query!r}")


@case()
async def every_combination_in_pages(h: Harness) -> None:
    """G5: pages of two together are what one page is."""
    log = await _fill(h)
    for full in _queries(log):
        if full.since_rev == 0 or full.status is Status.PAUSED:
            continue
        query = GetStates(**{name: getattr(full, name) for name in FILTERS}, limit=2)
        check(await _pages(h, query), _model(log, query), repr(query))


FILTERS = (
    "labels",
    "since_rev",
    "since_latest",
    "since_time",
    "latest_only",
    "status",
    "committed_before",
)


@case()
async def iterating_over_states(h: Harness) -> None:
    """G5: iterating goes over all pages, up to the head."""
    know(h, "work")
    for n in range(3):
        states = [h.ctx(f"s-{n}-{i}", labels={"n": str(n)}) for i in range(100)]
        await h.engine.do(Commit(*(Transit(ctx, "work") for ctx in states)))
    check([s.rev for s in await h.log()], list(range(1, 301)), "revisions")
    one = [s.id async for s in h.engine.states(labels={"n": "1"}, since_rev=150)]
    check(one, [f"s-1-{i}" for i in range(50, 100)], "one label, from the middle")
    latest = [s.rev async for s in h.engine.states(latest_only=True, status=Status.ACTIVE)]
    check(latest, list(range(1, 301)), "latest revisions")


@case()
async def get_one(h: Harness) -> None:
    """G5: one state is found by its id, by id and revision, and by labels."""
    log = await _fill(h)
    engine = h.engine
    for id in ("a", "b", "c", "d"):
        own = [s for s in log if s.id == id]
        check(await engine.get_state(id), own[-1], f"latest {id}")
        for state in own:
            check(await engine.get_state(id, state.rev), state, f"{id} at {state.rev}")
    by_labels: list[tuple[Any, int]] = [
        ({"kind": "x"}, 13),
        ({"kind": "x", "tier": "2"}, 9),
        ([{"tier": "1"}, {"kind": "y"}], 14),
        ({"tier": "1"}, 5),
    ]
    for labels, rev in by_labels:
        check(await engine.get_state(labels=labels), log[rev - 1], f"latest with {labels}")


@case()
async def get_none(h: Harness) -> None:
    """G14: a state that is not there is an error, not something else."""
    await _fill(h)
    ways: list[Callable[[], Any]] = [
        lambda: h.engine.get_state("e"),
        lambda: h.engine.get_state("A"),
        lambda: h.engine.get_state("a", 2),
        lambda: h.engine.get_state("a", 0),
        lambda: h.engine.get_state("a", 2**63 - 1),
        lambda: h.engine.get_state(labels={"kind": "nothing"}),
    ]
    for way in ways:
        await raised(StateNotFoundError, way)


@case()
async def empty_store(h: Harness) -> None:
    """G5: a store without states answers every query with nothing."""
    for query in (GetStates(), GetStates(since_rev=0), GetStates(since_latest=True)):
        page = await h.engine.do(query)
        check((list(page.states), page.more, page.cursor), ([], False, 0), repr(query))
    check((await h.engine.head(), await delays_of(h)), (0, []), "head and delays")
    await raised(StateNotFoundError, h.engine.get_state, "a")


@case()
async def cursor_at_and_above_the_head(h: Harness) -> None:
    """G6: a cursor at the head finds nothing yet; one above it is refused."""
    await _fill(h)
    page = await h.engine.get_states(since_rev=14)
    check((list(page.states), page.more, page.cursor), ([], False, 14), "page at the head")
    for since in (15, 2**63 - 1):
        error = await raised(HistoryRewoundError, h.engine.get_states, since_rev=since)
        check((error.since_rev, error.head), (since, 14), "cursor and head in the error")


@case()
async def next_page_sees_what_came_later(h: Harness) -> None:
    """G5: the cursor of the last page goes on with what was committed since."""
    await _fill(h)
    page = await h.engine.get_states(labels={"kind": "x"})
    await committed(h, "later", labels={"kind": "x"})
    await committed(h, "other", labels={"kind": "y"})
    following = await h.engine.do(page.next)
    check([s.id for s in following.states], ["later"], "states of the next page")
    check(following.cursor, 16, "cursor")


@case()
async def reading_below_the_floor(h: Harness) -> None:
    """G6: below the floor a cursor is refused; without one, what is left is read."""
    log = await _fill(h)
    check(await h.engine.compact(12), 9, "removed revisions")
    left = [s for s in log if s.rev in {5, 11, 12, 13, 14}]
    check(await h.log(), left, "log")
    for since in (0, 4, 10):
        error = await raised(CompactedError, h.engine.get_states, since_rev=since)
        check(error.floor, 12, "floor")
    page = await h.engine.get_states(since_rev=11)
    check([s.rev for s in page.states], [12, 13, 14], "revisions from the floor")
    latest = await h.engine.get_states(since_rev=0, latest_only=True)
    check([s.rev for s in latest.states], [5, 11, 13, 14], "latest")
    await raised(StateNotFoundError, lambda: h.engine.get_state("a", 1))
    check(await h.engine.get_state("a"), log[4], "latest revision below the floor")
    await h.engine.do(Commit(Pause(StateContext(log[4]))))
    check(await h.engine.compact(5), 0, "removed revisions below one that is left")
    check(await h.engine.get_state("a", 5), log[4], "revision that is no longer the latest")
    check(await h.engine.compact(6), 1, "removed revisions once it is below")


@case("shared")
async def visible_to_others(h: Harness) -> None:
    """G5: what is committed is seen at once through every other driver on the store."""
    async with h.other_driver() as driver, h.make_engine(driver) as other:
        for n in range(20):
            ctx = await committed(h, f"s-{n}", labels={"n": str(n)})
            check(await other.get_state(f"s-{n}"), ctx.committed, "by id")
            check(await other.get_state(labels={"n": str(n)}), ctx.committed, "by label")
            check(await other.head(), n + 1, "head")


@case("fake_clock")
async def pages_of_delays(h: Harness) -> None:
    """G10: delays are read in the order of their times, page by page, up to a time."""
    know(h, "work")
    start = h.clock.now()
    order = [7, 3, 11, 1, 9, 5, 2, 10, 4, 8, 6]
    for n in order:
        await h.engine.do(Commit(Delay(h.ctx(f"d-{n:02}"), "work", after=n * STEP)))
    found = [(d.state.id, d.due, d.to) for d in await delays_of(h)]
    expected = [(f"d-{n:02}", start + n * STEP, "work") for n in sorted(order)]
    check(found, expected, "all delays")
    pages = []
    page = await h.engine.get_delayed_states(limit=4, until=start + 9 * STEP)
    pages.append([d.state.id for d in page.delayed])
    while page.more:
        page = await h.engine.do(page.next)
        pages.append([d.state.id for d in page.delayed])
    ids = [id for id, due, _ in expected if due <= start + 9 * STEP]
    check(pages, [ids[:4], ids[4:8], ids[8:]], "pages")
    early = await h.engine.get_delayed_states(until=datetime(1, 1, 1, tzinfo=UTC))
    check((list(early.delayed), early.more), ([], False), "delays until year 1")


@case()
async def equal_times_of_delays(h: Harness) -> None:
    """G10: delays of one time are paged through without loss or repetition."""
    know(h, "work")
    until = datetime(2040, 1, 1, tzinfo=UTC)
    ids = [f"d-{n:03}" for n in range(120)]
    await h.engine.do(Commit(*(Delay(h.ctx(id), "work", until=until) for id in ids)))
    page = await h.engine.get_delayed_states(limit=7)
    found = [d.state.id for d in page.delayed]
    while page.more:
        page = await h.engine.do(page.next)
        found += [d.state.id for d in page.delayed]
    check(sorted(found), ids, "ids")


CASES: tuple[Case, ...] = (
    every_combination_of_filters,
    every_combination_in_pages,
    iterating_over_states,
    get_one,
    get_none,
    empty_store,
    cursor_at_and_above_the_head,
    next_page_sees_what_came_later,
    reading_below_the_floor,
    visible_to_others,
    pages_of_delays,
    equal_times_of_delays,
)
