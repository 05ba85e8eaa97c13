"""What cannot be read hides nothing else: pages and watches name it, and go on behind it."""

from datetime import timedelta
from typing import Any

from flowstate.commands import Commit, Delay, End
from flowstate.context import StateContext
from flowstate.delayer import Delayer
from flowstate.driver import DueQuery, Heartbeat, StateQuery, States
from flowstate.errors import DamagedRevisionError
from flowstate.ground.frozen import FrozenDict
from flowstate.log.watch import Watch
from flowstate.recovery import Recoverer
from flowstate.state import Status
from flowstate.testcases.harness import Case, Damage, Harness, case, check
from flowstate.testcases.support import committed, raised, visiting

__all__ = ["CASES"]

LABELS = FrozenDict({"kind": "x"})


async def _some(h: Harness, kind: Damage) -> None:
    """Commit revisions 1 to 7, of which the third and the fifth are damaged."""
    for number in range(1, 8):
        labels = LABELS if number % 2 else {}
        await committed(h, f"{kind} {number}", labels=labels)
    for number in (3, 5):
        await h.damage(kind, f"{kind} {number}")


def _told(page: States) -> tuple[list[int], list[tuple[int, str]]]:
    return [s.rev for s in page.states], [(bad.rev, bad.id) for bad in page.damaged]


async def _damaged_pages(h: Harness, kind: Damage) -> None:
    bad = [(3, f"{kind} 3"), (5, f"{kind} 5")]
    await _some(h, kind)
    page = await h.driver.get_states(StateQuery())
    check(_told(page), ([1, 2, 4, 6, 7], bad), "the log")
    check((page.head, page.scanned_to, page.more), (7, 7, False), "head and cursor")
    assert all(each.error for each in page.damaged)
    for filters in ({"labels": (LABELS,)}, {"labels": (LABELS,), "latest_only": True}):
        page = await h.driver.get_states(StateQuery(**filters))
        check(_told(page), ([1, 7], bad), f"with {filters}")
    page = await h.driver.get_states(StateQuery(status=Status.ACTIVE, latest_only=True))
    check(_told(page), ([1, 2, 4, 6, 7], bad), "by status")
    found: list[int] = []
    after, more = 0, True
    while more:
        page = await h.driver.get_states(StateQuery(after=after, limit=2))
        states, damaged = _told(page)
        check(len(states) + len(damaged) <= 2, True, "no more than asked for")
        found += sorted([*states, *(rev for rev, _ in damaged)])
        after, more = page.scanned_to, page.more
    check(found, list(range(1, 8)), "revisions in pages of two")
    for rev in (None, 3):
        error = await raised(DamagedRevisionError, h.driver.get_state, f"{kind} 3", rev)
        check((error.rev, error.id), (3, f"{kind} 3"), "what the error names")
    error = await raised(DamagedRevisionError, h.engine.get_state, f"{kind} 3")
    check(error.rev, 3, "revision that the error names")
    check((await h.engine.get_state(f"{kind} 4")).rev, 4, "its neighbour")


async def _damaged_watches(h: Harness, kind: Damage) -> None:
    await _some(h, kind)
    filters: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [1, 2, -3, 4, -5, 6, 7]),
        ({"labels": dict(LABELS)}, [1, -3, -5, 7]),
        ({"since_rev": 3}, [4, -5, 6, 7]),
    ]
    for rev, (given, old) in enumerate(filters, 8):
        async with h.engine.watch(**given) as states:
            expected = [*old, *range(8, rev)]
            found = [await _next(states) for _ in expected]
            check(found, expected, f"what a watch with {given} tells")
            ctx = await committed(h, f"new {rev}", labels=LABELS)
            check(await _next(states), ctx.committed.rev, "what is committed meanwhile")
    async with h.engine.watch() as one, h.engine.watch() as two:
        check([await _next(one), await _next(two)], [1, 1], "two watches")
        check([await _next(one) for _ in range(3)], [2, -3, 4], "one of them")
        check([await _next(two) for _ in range(3)], [2, -3, 4], "the other")


async def _next(states: Watch) -> int:
    """Return the next revision of a watch, negative when it cannot be read."""
    try:
        return (await anext(states)).rev
    except DamagedRevisionError as error:
        return -error.rev


@case("damage")
async def pages_with_damaged_revisions(h: Harness) -> None:
    """G15: a page has all that can be read, and names what is damaged."""
    await _damaged_pages(h, "revision")


@case("damage")
async def pages_with_newer_revisions(h: Harness) -> None:
    """G15: a page has all that can be read, and names what a newer library wrote."""
    await _damaged_pages(h, "newer revision")


@case("damage")
async def watches_of_damaged_revisions(h: Harness) -> None:
    """G6, G15: a watch delivers up to what is damaged, raises, and goes on behind it."""
    await _damaged_watches(h, "revision")


@case("damage")
async def watches_of_newer_revisions(h: Harness) -> None:
    """G6, G15: a watch delivers up to what a newer library wrote, raises, and goes on."""
    await _damaged_watches(h, "newer revision")


@case("damage")
async def damaged_state_that_moves_on(h: Harness) -> None:
    """G15: a context that knows a damaged revision commits the next one, which can be read."""
    ctx = await committed(h, "moving")
    await h.damage("revision", "moving")
    await h.engine.do(Commit(End(ctx)))
    check((await h.engine.get_state("moving")).status, Status.ENDED, "the next revision")
    page = await h.driver.get_states(StateQuery())
    check(_told(page), ([2], [(1, "moving")]), "the log")
    page = await h.driver.get_states(StateQuery(latest_only=True))
    check(_told(page), ([2], []), "the latest")
    await committed(h, "last")
    await h.engine.compact(await h.engine.head())
    check(_told(await h.driver.get_states(StateQuery())), ([2, 3], []), "once it is compacted")


@case("damage")
async def damaged_states_that_stall(h: Harness) -> None:
    """G11, G15: a stalled state that cannot be read is named, and others are recovered."""
    visiting(h, "work")
    contexts = {id: await committed(h, id) for id in ("bad", "good", "newer")}
    await h.damage("revision", "bad")
    await h.damage("newer revision", "newer")
    beats = [Heartbeat(id, ctx.committed.rev, 0.0, "") for id, ctx in contexts.items()]
    check(list(await h.driver.beat(beats)), [True, True, True], "answers")
    page = await h.driver.get_due(DueQuery("stall"))
    check([each.id for each in page.due], ["good"], "what stalls")
    told = sorted((bad.id, bad.state_id) for bad in page.damaged)
    check(told, [("bad", "bad"), ("newer", "newer")], "what stalls and is damaged")
    (found,) = await h.driver.get_liveness(["bad"])
    check(found and found.rev, contexts["bad"].committed.rev, "liveness of the damaged one")
    async with Recoverer(h.engine, lease=1.0, poll_interval=0.05):
        await h.visited("work")


@case("damage")
async def damaged_delays(h: Harness) -> None:
    """G10, G15: a delay that cannot be read is named, and the others fire."""
    visiting(h, "due")
    for id in ("bad", "good", "newer"):
        await h.engine.do(Commit(Delay(h.ctx(id), "due", after=timedelta(0))))
    page = await h.driver.get_due(DueQuery("delay"))
    delays = {each.state.id: each for each in page.due}
    await h.damage("delay", delays["bad"].id)
    await h.damage("newer delay", delays["newer"].id)
    page = await h.driver.get_due(DueQuery("delay"))
    check([each.state.id for each in page.due], ["good"], "delays")
    told = sorted((bad.state_id, bad.id, bad.due) for bad in page.damaged)
    expected = [(id, delays[id].id, delays[id].due) for id in ("bad", "newer")]
    check(told, expected, "damaged delays")
    for found in await h.driver.get_liveness(["bad", "newer"]):
        check(found and found.delay_due, None, "delays that can be read")
    (found,) = await h.driver.get_liveness(["good"])
    check(found and found.delay_due, delays["good"].due, "delay of the good one")
    async with Delayer(h.engine):
        await h.visited("due")
    bad = StateContext(await h.engine.get_state("bad"))
    await h.engine.do(Commit(End(bad)))
    page = await h.driver.get_due(DueQuery("delay"))
    check([bad.state_id for bad in page.damaged], ["newer"], "once its state has moved on")


CASES: tuple[Case, ...] = (
    pages_with_damaged_revisions,
    pages_with_newer_revisions,
    watches_of_damaged_revisions,
    watches_of_newer_revisions,
    damaged_state_that_moves_on,
    damaged_states_that_stall,
    damaged_delays,
)
