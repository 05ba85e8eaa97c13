"""Pages of what is due: by flow, in order, with the names of the flows that were left out."""

from datetime import datetime, timedelta
from typing import Any

from flowstate.commands import Command, Commit, Delay, End, Transit
from flowstate.driver import DuePage, DueQuery, Heartbeat
from flowstate.recovery_rules import RETRY_AFTER
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import know

__all__ = ["CASES"]

PAST = timedelta(seconds=10)
HOUR = timedelta(hours=1)


async def _page(h: Harness, kind: Any, *flows: str, **query: Any) -> DuePage:
    return await h.driver.get_due(DueQuery(kind, flows=flows, **query))


def _ids(page: DuePage) -> list[str]:
    return [each.state.id for each in page.due]


async def _delay(h: Harness, now: datetime, *delays: tuple[str, str, timedelta]) -> None:
    """Commit delayed states: (id, flow, from now)."""
    know(h, *{flow for _, flow, _ in delays})
    steps: list[Command[None]] = [
        Delay(h.ctx(id), flow, until=now + after) for id, flow, after in delays
    ]
    for start in range(0, len(steps), 100):
        await h.engine.do(Commit(*steps[start : start + 100]))


async def _now(h: Harness) -> datetime:
    return (await _page(h, "delay")).now


@case()
async def due_delays_of_some_flows(h: Harness) -> None:
    """G10, G13: a page has what goes to the flows that are asked for, in order of time."""
    now = await _now(h)
    await _delay(
        h,
        now,
        ("a1", "a", -PAST),
        ("b1", "b", -2 * PAST),
        ("c1", "c", -3 * PAST),
        ("a2", "a", -4 * PAST),
        ("a3", "a", HOUR),
        ("b2", "b", 2 * HOUR),
        ("d1", "d", HOUR),
    )
    page = await _page(h, "delay", "a", others=True)
    check((_ids(page), page.more, page.next_at), (["a2", "a1"], False, now + HOUR), "to a")
    check(list(page.others), ["b", "c"], "other flows with something due")
    page = await _page(h, "delay", "b", "a", others=True)
    check((_ids(page), list(page.others)), (["a2", "b1", "a1"], ["c"]), "to a and b")
    check(page.next_at, now + HOUR, "next of a and b")
    page = await _page(h, "delay", "b", "b")
    check((_ids(page), page.next_at), (["b1"], now + 2 * HOUR), "to b")
    check(list(page.others), [], "others, unless they are asked for")
    page = await _page(h, "delay", "nowhere", others=True)
    check((_ids(page), page.next_at, page.end), ([], None, None), "to what nothing goes to")
    check(list(page.others), ["a", "b", "c"], "all others")
    page = await _page(h, "delay", others=True)
    check((_ids(page), list(page.others)), ([], ["a", "b", "c"]), "to no flow")
    page = await h.driver.get_due(DueQuery("delay", others=True))
    check((_ids(page), list(page.others)), (["a2", "c1", "b1", "a1"], []), "to any flow")


@case()
async def due_delays_until_a_time(h: Harness) -> None:
    """G10: a page has what is due until a time, or everything."""
    now = await _now(h)
    await _delay(h, now, ("past", "a", -PAST), ("soon", "a", HOUR), ("late", "b", 2 * HOUR))
    page = await _page(h, "delay", "a", "b", until=now + HOUR)
    check((_ids(page), page.next_at), (["past", "soon"], now + 2 * HOUR), "until then")
    page = await _page(h, "delay", "a", "b", until=now - HOUR)
    check((_ids(page), page.next_at), ([], now - PAST), "until before them")
    page = await _page(h, "delay", "a", "b", everything=True)
    check((_ids(page), page.next_at), (["past", "soon", "late"], None), "everything")
    page = await _page(h, "delay", "b", everything=True, limit=1)
    check((_ids(page), page.more), (["late"], False), "everything to b")


@case()
async def due_pages_miss_nothing(h: Harness) -> None:
    """G10: pages over several flows go on where the last one has ended, also at equal times."""
    now = await _now(h)
    delays = [(f"s{n:02}", "abc"[n % 3], -PAST - timedelta(seconds=n // 5)) for n in range(30)]
    await _delay(h, now, *delays, ("later", "a", HOUR), ("other", "d", -HOUR))
    expected = [each async for each in _read(h, 1_000)]
    check({id for _, _, id in expected}, {id for id, _, _ in delays}, "what is due")
    check(expected, sorted(expected), "order")
    for limit in (1, 7, 30):
        check([each async for each in _read(h, limit)], expected, f"in pages of {limit}")


async def _read(h: Harness, limit: int) -> Any:
    page = await _page(h, "delay", "a", "b", "c", limit=limit)
    while True:
        check(len(page.due) <= limit, True, "no more than asked for")
        for each in page.due:
            yield each.due, each.id, each.state.id
        if not page.more:
            return
        check(page.end, (page.due[-1].due, page.due[-1].id), "end of the page")
        page = await _page(h, "delay", "a", "b", "c", limit=limit, after=page.end)


@case()
async def stalled_in_some_flows(h: Harness) -> None:
    """G11, G13: a page has what stalls in the flows that are asked for, as states move on."""
    know(h, "a", "b", "c")
    contexts = {id: h.ctx(id, annotations={RETRY_AFTER: "600"}) for id in "xyz"}
    for id, flow in (("x", "a"), ("y", "b"), ("z", "c")):
        await h.engine.do(Commit(Transit(contexts[id], flow)))
    await _hand_over(h, contexts)
    page = await _page(h, "stall", "a", others=True)
    check(([(s.id, s.to) for s in page.due], list(page.others)), ([("x", "a")], ["b", "c"]), "a")
    await h.engine.do(Commit(Transit(contexts["x"], "b")))
    page = await _page(h, "stall", "a", others=True)
    check((_ids(page), page.next_at, list(page.others)), ([], None, ["b", "c"]), "moved away")
    page = await _page(h, "stall", "b")
    check(_ids(page), ["y"], "b, in which x is not due yet")
    check(page.next_at is not None and page.next_at > page.now, True, "when x stalls")
    await _hand_over(h, contexts)
    check(sorted(_ids(await _page(h, "stall", "b"))), ["x", "y"], "b, with what came")
    await h.engine.do(Commit(End(contexts["y"])))
    page = await _page(h, "stall", "b", "c", others=True)
    check((sorted(_ids(page)), list(page.others)), (["x", "z"], []), "without what has ended")


async def _hand_over(h: Harness, contexts: dict[str, Any]) -> None:
    """Let states stall at once."""
    beats = [Heartbeat(id, ctx.committed.rev, 0.0, "") for id, ctx in contexts.items()]
    await h.driver.beat(beats)


@case()
async def flows_that_nobody_runs(h: Harness) -> None:
    """G12, G13: a backlog of many flows hides nothing; at most 100 of them are named, in order."""
    now = await _now(h)
    names = [f"flow-{n:03}" for n in range(130)]
    backlog = [(f"{name}-{n}", name, -HOUR) for name in names for n in range(5)]
    await _delay(h, now, *backlog, ("mine", "zz", -PAST))
    page = await _page(h, "delay", "zz", limit=1, others=True)
    check((_ids(page), page.more), (["mine"], False), "what can run")
    check(list(page.others), names[:100], "others")
    page = await _page(h, "delay", "zz", *names[:60], limit=1, others=True)
    check(list(page.others), names[60:], "others of many")


CASES: tuple[Case, ...] = (
    due_delays_of_some_flows,
    due_delays_until_a_time,
    due_pages_miss_nothing,
    stalled_in_some_flows,
    flows_that_nobody_runs,
)
