"""What never stalls and has not ended is idle: paused, not recovered, or never sent to a flow."""

from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from flowstate.driver import DuePage, DueQuery, Heartbeat, NewDelay, Writes
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.recovery_rules import DISABLED
from flowstate.state import State, Status, Transition
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import stored, timer

__all__ = ["CASES"]

FIRST = datetime.min.replace(tzinfo=UTC)
HOUR = timedelta(hours=1)
NOT_RECOVERED = FrozenDict({DISABLED: ""})


def _state(id: str, flow: str = "a", status: Status = Status.PAUSED, **state: Any) -> State:
    return State(id, transition=Transition(flow), status=status, **state)


async def _idle(h: Harness, **query: Any) -> DuePage:
    return await h.driver.get_due(DueQuery("idle", **query))


async def _ids(h: Harness, **query: Any) -> list[str]:
    return [each.id for each in (await _idle(h, **query)).due]


@case()
async def idle_states(h: Harness) -> None:
    """G13: exactly the latest revisions that never stall and have not ended are idle."""
    states = await stored(
        h,
        Writes(
            "fill",
            (
                _state("paused"),
                _state("working", status=Status.ACTIVE),
                _state("disabled", "b", Status.ACTIVE, annotations=NOT_RECOVERED),
                _state("never sent", "", Status.ACTIVE),
                _state("ended", status=Status.ENDED),
                _state("ended at once", "", Status.ENDED),
                _state("paused at once", ""),
            ),
        ),
    )
    own = {state.id: state for state in states}
    page = await _idle(h)
    ids = ["disabled", "never sent", "paused", "paused at once"]
    check([each.id for each in page.due], ids, "what is idle, in the order of ids")
    for each in page.due:
        found = (each.state, each.to, each.due, each.commit, each.annotations, each.timer)
        state = own[each.id]
        check(found, (state, state.transition.to, FIRST, False, EMPTY, ""), each.id)
    check((page.more, page.next_at, list(page.others)), (False, None, []), "the rest of the page")
    check(await _ids(h, until=page.now - HOUR), ids, "what is idle, whatever the time")
    check(await _ids(h, everything=True), ids, "everything")
    stalling = await h.driver.get_due(DueQuery("stall", everything=True))
    check([each.id for each in stalling.due], ["working"], "what stalls")


@case()
async def idle_states_of_some_flows(h: Harness) -> None:
    """G13: a page has the idle states of the flows that are asked for, and names the others."""
    flows = {"1": "a", "2": "b", "3": "c", "4": "a", "5": ""}
    await stored(h, Writes("fill", tuple(_state(id, flow) for id, flow in flows.items())))
    await stored(h, Writes("working", (_state("6", "d", Status.ACTIVE),)))
    page = await _idle(h, flows=("a",), others=True)
    check(([e.id for e in page.due], list(page.others)), (["1", "4"], ["", "b", "c"]), "in a")
    page = await _idle(h, flows=("b", "a", "d"), others=True)
    check(([e.id for e in page.due], list(page.others)), (["1", "2", "4"], ["", "c"]), "in three")
    check(await _ids(h, flows=("",)), ["5"], "in none")
    check(await _ids(h, flows=("nowhere",)), [], "in a flow where nothing is")
    check(list((await _idle(h, flows=("a",))).others), [], "others, unless they are asked for")


@case()
async def pages_of_idle_states_miss_nothing(h: Harness) -> None:
    """G13: pages go on where the last one has ended; all of it is due at the same time."""
    states = [_state(f"s{n:02}", "abc"[n % 3]) for n in range(30)]
    await stored(h, Writes("fill", tuple(states)))
    for flows in (None, ("a", "b", "c"), ("b",)):
        expected = [s.id for s in states if flows is None or s.transition.to in flows]
        for limit in (1, 7, 30):
            found, after, more = list[str](), None, True
            while more:
                page = await _idle(h, flows=flows, limit=limit, after=after)
                check(len(page.due) <= limit, True, "no more than asked for")
                check(page.next_at, FIRST if page.more else None, "when the next one is due")
                found += [each.id for each in page.due]
                after, more = page.end or after, page.more
            check(found, expected, f"in pages of {limit}, in {flows}")
    check(await _ids(h, after=(FIRST, "s27")), ["s28", "s29"], "after one of them")
    check(await _ids(h, after=(FIRST, "s27x")), ["s28", "s29"], "after one that is not there")


@case()
async def idle_states_that_move_on(h: Harness) -> None:
    """G13: a state is idle for as long as its latest revision is."""
    (state,) = await stored(h, Writes("0", (_state("s"),)))
    moves: list[tuple[str, Status, Any, list[str]]] = [
        ("a", Status.ACTIVE, EMPTY, []),
        ("a", Status.ACTIVE, NOT_RECOVERED, ["a"]),
        ("b", Status.ACTIVE, NOT_RECOVERED, ["b"]),
        ("b", Status.ENDED, NOT_RECOVERED, []),
        ("b", Status.PAUSED, EMPTY, ["b"]),
        ("c", Status.PAUSED, EMPTY, ["c"]),
        ("", Status.ACTIVE, EMPTY, [""]),
        ("c", Status.ENDED, EMPTY, []),
        ("c", Status.PAUSED, EMPTY, ["c"]),
    ]
    for n, (flow, status, notes, flows) in enumerate(moves, 1):
        moved = replace(state, transition=Transition(flow), status=status, annotations=notes)
        (state,) = await stored(h, Writes(f"{n}", (moved,)))
        page = await _idle(h)
        check([(each.to, each.state) for each in page.due], [(f, state) for f in flows], f"{n}")
        await h.driver.compact(state.rev)
        check([each.to for each in (await _idle(h)).due], flows, f"{n}, once it is compacted")
    last = replace(state, status=Status.ENDED)
    await stored(h, Writes("forget", (last,), forgets=(0,)))
    check(await _ids(h), [], "once it is forgotten")


@case()
async def nothing_wakes_idle_states(h: Harness) -> None:
    """G11: neither heartbeats nor delays nor timers make an idle state stall."""
    (state,) = await stored(h, Writes("1", (_state("s"),), timers=(timer("t", HOUR),)))
    check(list(await h.driver.beat([Heartbeat("s", state.rev, 0.0, "note")])), [True], "answers")
    delay = NewDelay(state, "a", EMPTY, None, HOUR, commit=True, body="")
    await stored(h, Writes("2", delays=(delay,)))
    check(await _ids(h), ["s"], "what is idle")
    (found,) = await h.driver.get_liveness(["s"])
    check(found and (found.stalls_at, found.note), (None, "note"), "liveness")
    stalling = await h.driver.get_due(DueQuery("stall", everything=True))
    check(list(stalling.due), [], "what stalls")
    due = await h.driver.get_due(DueQuery("delay", everything=True))
    check(sorted(each.id for each in due.due), ["2.0", "t"], "delays and timers")


@case("durable")
async def idle_states_survive(h: Harness) -> None:
    """G7: what was idle is so after the store was closed and opened."""
    await stored(h, Writes("1", (_state("a"), _state("b", status=Status.ENDED))))
    before = list((await _idle(h)).due)
    await h.reopen()
    check((list((await _idle(h)).due), len(before)), (before, 1), "what is idle")


@case("damage")
async def damaged_idle_states(h: Harness) -> None:
    """G15: an idle state that cannot be read is named and hides no other."""
    await stored(h, Writes("1", tuple(_state(id) for id in ("bad", "good", "newer"))))
    await h.damage("revision", "bad")
    await h.damage("newer revision", "newer")
    for query in ({}, {"flows": ("a",)}):
        page = await _idle(h, **query)
        check([each.id for each in page.due], ["good"], f"what is idle with {query}")
        told = sorted((bad.id, bad.state_id, bad.due) for bad in page.damaged)
        expected = [(id, id, FIRST) for id in ("bad", "newer")]
        check(told, expected, f"what is idle and damaged with {query}")


CASES: tuple[Case, ...] = (
    idle_states,
    idle_states_of_some_flows,
    pages_of_idle_states_miss_nothing,
    idle_states_that_move_on,
    nothing_wakes_idle_states,
    idle_states_survive,
    damaged_idle_states,
)
