"""Pages of one state: its revisions in their order, with every other filter, whatever else is."""

from collections.abc import Sequence
from datetime import datetime
from itertools import product
from typing import Any

from msgspec.structs import replace

from flowstate.driver import StateQuery, States, Writes
from flowstate.errors import CompactedError
from flowstate.ground.frozen import FrozenDict
from flowstate.log.reading import matches
from flowstate.state import State, Status, Transition
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import encoded, raised, stored

__all__ = ["CASES"]

STATUSES = (Status.ACTIVE, Status.PAUSED, Status.ACTIVE, Status.ENDED, Status.PAUSED)
KINDS = tuple(FrozenDict({"kind": kind}) for kind in "xy")
MANY = 2_500


async def _fill(h: Harness) -> list[State]:
    """Commit ten revisions each of two states, at different times, and some of others."""
    latest = dict.fromkeys("ab", 0)
    log: list[State] = []
    for n in range(10):
        status, labels = STATUSES[n % 5], KINDS[n % 2]
        puts = [
            State(id, rev, labels, transition=Transition(f"flow {n}"), status=status)
            for id, rev in latest.items()
        ]
        log += await stored(h, Writes(f"{n}", (*puts, State(f"other {n}", labels=labels))))
        latest = {state.id: state.rev for state in log[-3:-1]}
        await h.clock.sleep(0.002)
    return log


async def _page(h: Harness, id: str, **query: Any) -> States:
    return await h.driver.get_states(StateQuery(id=id, **query))


async def _pages(h: Harness, query: StateQuery) -> list[State]:
    """Return all that a query finds, in pages of its limit."""
    found: list[State] = []
    while True:
        page = await h.driver.get_states(query)
        check(len(page.states) <= query.limit, True, "no more than asked for")
        found += page.states
        if not page.more:
            check(page.scanned_to, page.head, "cursor in the end")
            return found
        query = replace(query, after=page.scanned_to, since_latest=False)


def _expected(log: Sequence[State], query: StateQuery) -> list[State]:
    """Return what a query must find, by the plainest reading of its filters."""
    latest = {state.id: state.rev for state in log}
    found = [
        state
        for state in log
        if state.rev > query.after
        and matches(query, state)
        and (not query.latest_only or latest[state.id] == state.rev)
    ]
    return found[-1:] if query.since_latest else found


@case()
async def revisions_of_one_state(h: Harness) -> None:
    """G6: a page of one state has its revisions above the cursor, in rising order."""
    log = await _fill(h)
    own = [state for state in log if state.id == "a"]
    page = await _page(h, "a")
    check((list(page.states), page.more), (own, False), "all of them")
    check((page.head, page.scanned_to, page.floor), (30, 30, 1), "head, cursor and floor")
    page = await _page(h, "a", limit=3)
    check((list(page.states), page.more), (own[:3], True), "the first three")
    check(page.scanned_to < own[3].rev, True, "the cursor is below the next one")
    page = await _page(h, "a", after=own[6].rev)
    check(list(page.states), own[7:], "those above a cursor")
    page = await _page(h, "a", after=own[6].rev + 1)
    check(list(page.states), own[7:], "those above a cursor between two")
    page = await _page(h, "a", after=10_000)
    check((list(page.states), page.more), ([], False), "those above the head")
    for id in ("nothing", "A", "a ", "other"):
        page = await _page(h, id)
        check((list(page.states), page.scanned_to), ([], 30), f"revisions of {id!r}")


@case()
async def one_state_with_every_filter(h: Harness) -> None:
    """G6: an id goes together with labels, status, times, cursor, and the latest alone."""
    log = await _fill(h)
    times: list[datetime | None] = [None, log[9].committed_at, log[20].committed_at]
    filters = product(
        ((), KINDS[:1], KINDS, (FrozenDict({"kind": "z"}),)),
        (None, Status.ACTIVE, Status.ENDED),
        times,
        times,
        (False, True),
        (False, True),
        (0, 14),
    )
    for labels, status, since, before, latest_only, since_latest, after in filters:
        query = StateQuery(
            id="a",
            labels=labels,
            status=status,
            since_time=since,
            committed_before=before,
            latest_only=latest_only,
            since_latest=since_latest,
            after=after,
            limit=3,
        )
        check(await _pages(h, query), _expected(log, query), f"{query}")


@case()
async def one_state_among_many(h: Harness) -> None:
    """G13: what else is in the log cuts no page of one state short, also while it grows."""
    (first,) = await stored(h, Writes("first", (State("a"),)))
    check(list((await _page(h, "a")).states), [first], "the first revision")
    size = h.driver.max_batch_size
    puts = [tuple(State(f"s{n}") for n in range(start, start + 50)) for start in range(0, MANY, 50)]
    batch = [encoded(Writes(f"w{n}", some)) for n, some in enumerate(puts)]
    for start in range(0, len(batch), size):
        await h.driver.commit(batch[start : start + size])
    (last,) = await stored(h, Writes("last", (first,)))
    page = await _page(h, "a", limit=2)
    check((list(page.states), page.more), ([first, last], False), "both revisions in one page")
    page = await _page(h, "a", since_latest=True)
    check((list(page.states), page.more), ([last], False), "the newest")
    page = await _page(h, "a", status=Status.ENDED)
    check((list(page.states), page.more), ([], False), "none that has ended")
    (ended,) = await stored(h, Writes("end", (replace(last, status=Status.ENDED),)))
    page = await _page(h, "a", after=first.rev)
    check((list(page.states), page.more), ([last, ended], False), "the later two")


@case()
async def one_state_in_large_pages(h: Harness) -> None:
    """G13: a page of one state ends at so many bytes, and the next one goes on."""
    if h.driver.stores_objects:
        return
    state = State("a", annotations={"note": "x" * 10_000})
    revs = []
    for n in range(7):
        (state,) = await stored(h, Writes(f"{n}", (state,)))
        revs.append(state.rev)
    page = await _page(h, "a", max_bytes=25_000)
    check(([s.rev for s in page.states], page.more), (revs[:3], True), "the page that is full")
    found = await _pages(h, StateQuery(id="a", max_bytes=25_000, after=page.scanned_to))
    check([state.rev for state in found], revs[3:], "the pages after it")


@case()
async def one_state_once_it_is_compacted(h: Harness) -> None:
    """G6: a page of one state has what compaction has left, or says that some of it is gone."""
    log = await _fill(h)
    own = [state for state in log if state.id == "a"]
    await h.driver.compact(own[5].rev)
    check(list((await _page(h, "a")).states), own[5:], "what is left")
    check(await h.driver.get_state("a", own[4].rev), None, "what is gone")
    page = await _page(h, "a", gaps_below=own[5].rev)
    check(list(page.states), own[5:], "what is left where the gap is known")
    error = await raised(CompactedError, _page, h, "a", gaps_below=0, after=own[1].rev)
    check(error.floor, own[5].rev, "the floor that the error names")
    await h.driver.compact(10_000)
    check(list((await _page(h, "a")).states), own[-1:], "what is left in the end")
    (newer,) = await stored(h, Writes("newer", (own[-1],)))
    check(list((await _page(h, "a")).states), [own[-1], newer], "once it has moved on")
    (newest,) = await stored(h, Writes("newest", (newer,)))
    await h.driver.compact(10_000)
    check(list((await _page(h, "a")).states), [newest], "once it is compacted again")


@case()
async def ids_of_pages_are_exact(h: Harness) -> None:
    """G14: an id is compared byte by byte, and is no pattern."""
    ids = ("é", "e\u0301", "E", "e", "e ", "%", "*", "[ab]", "'\"\\\n", "\U0001f600", "x" * 512)
    puts = tuple(State(id) for id in ids)
    await stored(h, Writes("ids", puts))
    for n, id in enumerate(ids, 1):
        check([state.rev for state in (await _page(h, id)).states], [n], f"revisions of {id!r}")


@case("damage")
async def one_state_with_damaged_revisions(h: Harness) -> None:
    """G15: a page of one state names what cannot be read, and has all else."""
    state, revs = State("a", labels=KINDS[0]), list[int]()
    for n in range(5):
        state, _ = await stored(h, Writes(f"{n}", (state, State(f"b{n}"))))
        revs.append(state.rev)
        if n in {1, 4}:
            await h.damage("revision" if n == 1 else "newer revision", "a")
    for filters in ({}, {"labels": KINDS[:1]}):
        page = await _page(h, "a", **filters)
        readable = [revs[n] for n in (0, 2, 3)]
        check([state.rev for state in page.states], readable, f"revisions with {filters}")
        told = [(bad.rev, bad.id) for bad in page.damaged]
        check(told, [(revs[1], "a"), (revs[4], "a")], f"damaged revisions with {filters}")
    page = await _page(h, "a", limit=2)
    check((len(page.states), len(page.damaged), page.more), (1, 1, True), "a page of two")
    page = await _page(h, "a", latest_only=True)
    check(([*page.states], [bad.rev for bad in page.damaged]), ([], revs[4:]), "the latest")


CASES: tuple[Case, ...] = (
    revisions_of_one_state,
    one_state_with_every_filter,
    one_state_among_many,
    one_state_in_large_pages,
    one_state_once_it_is_compacted,
    ids_of_pages_are_exact,
    one_state_with_damaged_revisions,
)
