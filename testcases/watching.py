"""Watches deliver every matching revision once, in order, from anywhere in the log."""

import asyncio
from datetime import datetime
from typing import Any

from flowstate.commands import Commit, Transit
from flowstate.driver import Writes
from flowstate.ground.frozen import FrozenDict
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import (
    commit_labelled,
    committed,
    encoded,
    first_half,
    know,
    second_half,
    take,
)

__all__ = ["CASES"]


async def _watched(h: Harness, before: str, after: str, **filters: Any) -> None:
    """Open a watch in the middle of the log; the ids expected are one letter each."""
    async with h.engine.watch(**filters) as states:
        found = [s.id for s in await take(states, len(before))]
        check("".join(found), before, f"ids from the log for {filters}")
        await second_half(h)
        found = [s.id for s in await take(states, len(after))]
        check("".join(found), after, f"ids that were new for {filters}")


@case()
async def watch_everything(h: Harness) -> None:
    """G6: a watch without filters delivers the log from its start, and then what is new."""
    await first_half(h)
    await _watched(h, "abcdefg", "hijklm")


@case()
async def watch_labels(h: Harness) -> None:
    """G6: a watch delivers only revisions that have all of its labels."""
    await first_half(h)
    await _watched(h, "aceg", "hkl", labels={"kind": "x", "all": "yes"})


@case()
async def watch_alternative_labels(h: Harness) -> None:
    """G6: a watch delivers revisions that have one of its sets of labels, each once."""
    await first_half(h)
    labels = [{"kind": "z"}, {"kind": "y"}, {"kind": "y", "all": "yes"}]
    await _watched(h, "bdf", "ijm", labels=labels)


@case()
async def watch_wakes_for_each_alternative(h: Harness) -> None:
    """G6: a watch that waits for several sets of labels hears of each of them alone."""
    know(h, "work")
    kinds = ("x", "y", "z")
    async with h.engine.watch(labels=[{"kind": kind} for kind in kinds], since_rev=0) as states:
        for kind in (*kinds, *reversed(kinds)):
            head = await h.engine.head()
            waiting = asyncio.ensure_future(anext(states))
            await h.clock.sleep(0.05)  # In which it has read what there is, and waits.
            await commit_labelled(h, [(f"{kind} {head}", kind)], Status.ACTIVE)
            check((await waiting).id, f"{kind} {head}", "what is delivered")


@case()
async def watch_since_rev(h: Harness) -> None:
    """G6: a watch delivers what comes after its revision."""
    await first_half(h)
    await _watched(h, "efg", "hijklm", since_rev=4)


@case()
async def watch_since_the_head(h: Harness) -> None:
    """G6: a watch from the head delivers only what is new."""
    await first_half(h)
    await _watched(h, "", "hkl", since_rev=7, labels={"kind": "x"})


@case()
async def watch_since_latest(h: Harness) -> None:
    """G6: a watch from the latest starts with the newest match."""
    await first_half(h)
    await _watched(h, "f", "jm", since_latest=True, labels={"kind": "y"})


@case()
async def watch_since_latest_of_nothing(h: Harness) -> None:
    """G6: a watch from the latest of nothing delivers only what is new."""
    await first_half(h)
    await _watched(h, "", "k", since_latest=True, labels={"kind": "x"}, status=Status.ENDED)


@case()
async def watch_since_time(h: Harness) -> None:
    """G6: a watch delivers what was committed at its time or later."""
    log = await first_half(h)
    await _watched(h, "defg", "hijklm", since_time=log[3].committed_at)


@case()
async def watch_since_a_time_to_come(h: Harness) -> None:
    """G6: a watch from the future delivers nothing that is committed before."""
    await first_half(h)
    far = datetime.fromisoformat("9000-01-01T00:00:00+00:00")
    async with h.engine.watch(since_time=far) as states:
        reading = asyncio.ensure_future(anext(states))
        async with h.engine.watch() as all_states:
            await second_half(h)
            await take(all_states, 13)
        check(reading.done(), False, "whether something was delivered")
        reading.cancel()
        await asyncio.wait([reading])


@case()
async def watch_status(h: Harness) -> None:
    """G6: a watch delivers only revisions that have its status."""
    await first_half(h)
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
    await first_half(h)
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
    await first_half(h)
    async with h.engine.watch(labels={"kind": "z"}) as states:
        await anext(states)
        check(states.cursor in range(4, 8), True, "cursor after a match, before the next one")
        reading = asyncio.ensure_future(anext(states))
        async with h.engine.watch(since_latest=True, labels={"kind": "x"}) as others:
            await anext(others)
        await commit_labelled(h, [("n", "z")], Status.ACTIVE)
        check((await reading).id, "n", "the next match")


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


@case()
async def watch_of_what_others_commit(h: Harness) -> None:
    """G6: a watch delivers what reaches the store on other ways than through its engine."""

    async def commit(worker: int) -> None:
        for number in range(50):
            state = State(f"s-{worker}-{number}", labels=FrozenDict({"n": str(number % 5)}))
            await h.driver.commit([encoded(Writes(state.id, (state,)))])
            await asyncio.sleep(0)  # reason: lets the others in between

    async def read(count: int, **filters: Any) -> list[int]:
        async with h.engine.watch(**filters) as states:
            return [state.rev for state in await take(states, count)]

    async with h.engine.watch() as waiting:
        first = asyncio.ensure_future(anext(waiting))
        readers = [asyncio.create_task(read(200)), asyncio.create_task(read(40, labels={"n": "3"}))]
        await asyncio.wait([first, *readers], timeout=0)
        await asyncio.gather(*(commit(worker) for worker in range(4)))
        check((await first).rev, 1, "what a watch that waited delivers")
    everything, some = await asyncio.gather(*readers)
    check(everything, list(range(1, 201)), "what a watch of everything delivers")
    log = [state.rev for state in await h.log() if state.labels["n"] == "3"]
    check(some, log, "what a watch of a label delivers")


CASES: tuple[Case, ...] = (
    watch_everything,
    watch_labels,
    watch_alternative_labels,
    watch_wakes_for_each_alternative,
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
    watch_of_what_others_commit,
    watch_sees_other_processes,
)
