"""When states count as stalled, and the heartbeats that keep them from it."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

from flowstate.commands import Command, Commit, Delay, End, Pause, Resume, Transit
from flowstate.context import StateContext
from flowstate.driver import DuePage, DueQuery, Heartbeat, Liveness
from flowstate.ground.limits import MAX_NOTE_BYTES
from flowstate.recovery_rules import ATTEMPT, DISABLED, RETRY_AFTER, WAIT
from flowstate.state import State
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, know

__all__ = ["CASES"]

SHORT = "0.03"
LONG_ENOUGH = 0.05
HOUR = timedelta(hours=1)
TOLERANCE = timedelta(milliseconds=5)


async def _stalled(h: Harness, limit: int = 100) -> list[str]:
    page = await h.driver.get_due(DueQuery("stall", limit=limit))
    return [each.state.id for each in page.due]


async def _liveness(h: Harness, id: str) -> Liveness:
    (found,) = await h.driver.get_liveness([id])
    if found is None:
        raise AssertionError(f"nothing is known about {id!r}")
    return found


async def _short(h: Harness, id: str, retry_after: str = SHORT, **state: Any) -> StateContext:
    return await committed(h, id, annotations={RETRY_AFTER: retry_after}, **state)


async def _stalls_after(h: Harness, state: State) -> timedelta | None:
    """Return how long after its commit a state stalls."""
    found = await _liveness(h, state.id)
    check(found.rev, state.rev, "revision")
    if found.stalls_at is None or state.committed_at is None:
        return None
    return found.stalls_at - state.committed_at


@case()
async def stalled_when_its_time_has_passed(h: Harness) -> None:
    """G11: an active state stalls as long after its commit as it says itself."""
    await _short(h, "short")
    patient = await committed(h, "patient")
    check(await _stalls_after(h, patient.committed), timedelta(minutes=2), "default")
    exact = await _short(h, "exact", "1234.567")
    check(await _stalls_after(h, exact.committed), timedelta(seconds=1234.567), "its own")
    await h.clock.sleep(LONG_ENOUGH)
    page = await h.driver.get_due(DueQuery("stall"))
    found = [(each.id, each.state, each.to) for each in page.due]
    check(found, [("short", await h.engine.get_state("short"), "work")], "stalled")
    check(page.due[0].due, (await _liveness(h, "short")).stalls_at, "since when")
    check((page.more, list(page.damaged)), (False, []), "more and damaged")
    patient_at = (await _liveness(h, "patient")).stalls_at
    check(page.next_at, patient_at, "when the next one stalls")


@case()
async def stalled_never(h: Harness) -> None:
    """G11: what is paused, ended, disabled or was never sent to a flow does not stall."""
    for id, stop in (("paused", Pause), ("ended", End)):
        await h.engine.do(Commit(stop(await _short(h, id))))
    await _short(h, "disabled")
    off = await committed(h, "off", annotations={RETRY_AFTER: SHORT, DISABLED: ""})
    await h.engine.do(Commit(Resume(h.ctx("unsent", annotations={RETRY_AFTER: SHORT}))))
    await h.clock.sleep(LONG_ENOUGH)
    check(await _stalled(h), ["disabled"], "stalled")  # Only named so.
    for id in ("paused", "ended", "off", "unsent"):
        found = await _liveness(h, id)
        check((found.stalls_at, found.beat_at), (None, None), id)
    check(list(await h.driver.get_liveness(["unknown"])), [None], "liveness of no state")
    check(off.committed.rev, (await _liveness(h, "off")).rev, "revision")


@case()
async def stalled_follows_the_latest_revision(h: Harness) -> None:
    """G11: each revision starts from zero, and resuming counts as well."""
    ctx = await _short(h, "moving")
    ctx.set_annotation(RETRY_AFTER, "3600")
    await h.engine.do(Commit(Transit(ctx, "work")))
    await h.clock.sleep(LONG_ENOUGH)
    check(await _stalled(h), [], "stalled after it moved on")
    ctx.set_annotation(RETRY_AFTER, SHORT)
    await h.engine.do(Commit(Pause(ctx)))
    await h.clock.sleep(LONG_ENOUGH)
    check(await _stalled(h), [], "stalled while it is paused")
    await h.engine.do(Commit(Resume(ctx)))
    await h.clock.sleep(LONG_ENOUGH)
    check(await _stalled(h), ["moving"], "stalled after it was resumed")
    await h.engine.do(Commit(End(ctx)))
    check(await _stalled(h), [], "stalled after its end")


@case()
async def stalled_by_the_rules_of_an_attempt(h: Harness) -> None:
    """G11: the transition of an attempt says how long to wait for it."""
    ctx = await _short(h, "tried")
    await h.engine.do(Commit(Transit(ctx, "work", annotations={ATTEMPT: "1", WAIT: "500"})))
    check(await _stalls_after(h, ctx.committed), timedelta(seconds=500), "wait")
    await h.engine.do(Commit(Transit(ctx, "work")))
    check(await _stalls_after(h, ctx.committed), timedelta(seconds=float(SHORT)), "afterwards")


@case()
async def stalled_in_spite_of_odd_settings(h: Harness) -> None:
    """G11: a setting that cannot be read keeps no state from being recovered."""
    for text in ("", "soon", "nan", "inf", "-1", "0", "1e300"):
        ctx = await _short(h, f"odd {text}", text)
        check(await _stalls_after(h, ctx.committed), timedelta(minutes=2), f"with {text!r}")


@case()
async def stalled_after_the_delay(h: Harness) -> None:
    """G11: a delayed state stalls after its delay was due, and not before."""
    ctx = await _short(h, "delayed", "60")
    await h.engine.do(Commit(Delay(ctx, "work", after=HOUR)))
    until = ctx.committed.delayed_until
    assert until is not None
    found = await _liveness(h, "delayed")
    check(found.stalls_at, until + timedelta(seconds=60), "committed")
    check(found.delay_due, until, "when it is due")
    await h.engine.do(Commit(Transit(ctx, "work")))
    check((await _liveness(h, "delayed")).delay_due, None, "once it has moved on")
    alone = await _short(h, "alone", "60")
    await h.engine.do(Delay(alone, "work", after=HOUR))
    (delay,) = [
        d
        for d in (await h.engine.get_delayed_states(until=until + HOUR)).delayed
        if d.state.id == "alone"
    ]
    check((await _liveness(h, "alone")).stalls_at, delay.due + timedelta(seconds=60), "by itself")
    await h.engine.do(Delay(alone, "work", after=timedelta(0)))
    check((await _liveness(h, "alone")).stalls_at, delay.due + timedelta(seconds=60), "the later")


@case()
async def stalled_first_in_front(h: Harness) -> None:
    """G11: pages go from what stalled first to what stalled last, and miss nothing."""
    seconds = ["0.02", "0.01", "0.04", "0.03", "0.015"]
    steps: list[Command[None]] = []
    know(h, "work")
    for number in range(23):
        retry_after = {RETRY_AFTER: seconds[number % 5]}
        ctx = h.ctx(f"state {number:02}", annotations=retry_after)
        steps.append(Transit(ctx, "work"))
    await h.engine.do(Commit(*steps))
    await h.clock.sleep(0.1)
    times: list[tuple[datetime, str]] = []
    for number in range(23):
        stalls_at = (await _liveness(h, f"state {number:02}")).stalls_at
        assert stalls_at is not None
        times.append((stalls_at, f"state {number:02}"))
    expected = [id for _, id in sorted(times)]
    for limit in (1, 5, 22, 23, 100):
        found: list[str] = []
        page = await h.driver.get_due(DueQuery("stall", limit=limit))
        while True:
            check(len(page.due) <= limit, True, "no more than asked for")
            found += [each.state.id for each in page.due]
            check(page.end, sorted(times)[len(found) - 1], "end of the page")
            if not page.more:
                break
            check(page.next_at, sorted(times)[len(found)][0], "time of the next")
            page = await h.driver.get_due(DueQuery("stall", after=page.end, limit=limit))
        check(found, expected, f"in pages of {limit}")
        check(page.next_at, None, "nothing is next")
        beyond = await h.driver.get_due(DueQuery("stall", after=page.end, limit=limit))
        check((list(beyond.due), beyond.more, beyond.end), ([], False, None), "behind the end")


@case()
async def stalled_states_are_whole(h: Harness) -> None:
    """G11: what stalls comes as it was committed, with labels, annotations and data."""
    full = await _short(h, "full", labels={"kind": "x"})
    await h.clock.sleep(LONG_ENOUGH)
    page: DuePage = await h.driver.get_due(DueQuery("stall"))
    check([each.state for each in page.due], [full.committed], "stalled")
    check(page.now >= (full.committed.committed_at or page.now), True, "the store's clock")


@case()
async def heartbeat_postpones(h: Harness) -> None:
    """G11: a heartbeat moves the time, until the next revision."""
    ctx = await _short(h, "kept")
    await h.clock.sleep(LONG_ENOUGH)
    check(await _stalled(h), ["kept"], "stalled")
    beat = Heartbeat("kept", ctx.committed.rev, 60.5, "I am here")
    check(list(await h.driver.beat([beat])), [True], "answer")
    check(await _stalled(h), [], "stalled after a heartbeat")
    found = await _liveness(h, "kept")
    assert found.stalls_at is not None and found.beat_at is not None  # noqa: PT018
    check(found.stalls_at - found.beat_at, timedelta(seconds=60.5), "from the store's now")
    check((found.note, found.beat_at <= found.now), ("I am here", True), "note and time")
    only_note = Heartbeat("kept", ctx.committed.rev, None, "still")
    check(list(await h.driver.beat([only_note])), [True], "answer")
    again = await _liveness(h, "kept")
    check((again.stalls_at, again.note), (found.stalls_at, "still"), "only the note changed")
    await h.engine.do(Commit(Transit(ctx, "work")))
    fresh = await _liveness(h, "kept")
    check((fresh.rev, fresh.beat_at, fresh.note), (ctx.committed.rev, None, ""), "next revision")
    check(await _stalls_after(h, ctx.committed), timedelta(seconds=float(SHORT)), "from zero")


@case()
async def heartbeat_hands_over(h: Harness) -> None:
    """G11: a heartbeat of no seconds lets a state stall at once."""
    ctx = await committed(h, "given up")
    check(await _stalled(h), [], "stalled")
    await h.driver.beat([Heartbeat("given up", ctx.committed.rev, 0.0, "")])
    check(await _stalled(h), ["given up"], "stalled")


@case()
async def heartbeat_of_another_revision(h: Harness) -> None:
    """G11: a heartbeat counts only for the latest revision, and says so."""
    ctx = await _short(h, "moved")
    old = ctx.committed.rev
    await h.engine.do(Commit(Transit(ctx, "work")))
    kept = await _short(h, "kept")
    before = await _liveness(h, "moved")
    answers = await h.driver.beat(
        [
            Heartbeat("moved", old, 60.0, "too late"),
            Heartbeat("kept", kept.committed.rev, 60.0, "in time"),
            Heartbeat("unknown", 1, 60.0, "nothing"),
            Heartbeat("", 0, None, ""),
        ]
    )
    check(list(answers), [False, True, False, False], "answers")
    after = await _liveness(h, "moved")
    check((after.stalls_at, after.note), (before.stalls_at, ""), "what is known about it")
    await h.clock.sleep(LONG_ENOUGH)
    check(await _stalled(h), ["moved"], "stalled")
    check(list(await h.driver.beat([])), [], "no heartbeats")


@case()
async def heartbeat_for_what_never_stalls(h: Harness) -> None:
    """G11: such a heartbeat is noted, and it stays what it is."""
    ctx = await committed(h, "held")
    await h.engine.do(Commit(Pause(ctx)))
    beat = Heartbeat("held", ctx.committed.rev, 0.0, "mine")
    check(list(await h.driver.beat([beat])), [True], "answer")
    first = await _liveness(h, "held")
    check((first.stalls_at, first.note), (None, "mine"), "what is known about it")
    await h.driver.beat([beat])
    second = await _liveness(h, "held")
    check(second.beat_at != first.beat_at, True, "every heartbeat can be told from the last")
    check(await _stalled(h), [], "stalled")


@case()
async def heartbeats_in_large_numbers(h: Harness) -> None:
    """G13: a thousand heartbeats at once, with notes of every kind."""
    know(h, "work")
    contexts = [h.ctx(f"state {number}") for number in range(1_000)]
    for start in range(0, 1_000, 100):
        await h.engine.do(*[Commit(Transit(c, "work")) for c in contexts[start : start + 100]])
    odd = ["", "é\u2028\U0001f600", "%s {} \\ ' \" $$", "x" * MAX_NOTE_BYTES]
    beats = [
        Heartbeat(ctx.current.id, ctx.committed.rev, 3600.0, odd[number % 4])
        for number, ctx in enumerate(contexts)
    ]
    check(set(await h.driver.beat(beats)), {True}, "answers")
    for beat in beats[:4]:
        check((await _liveness(h, beat.id)).note, beat.note, "note")


@case("shared")
async def heartbeat_is_seen_by_others(h: Harness) -> None:
    """G5: another process sees heartbeats, and what stalls."""
    ctx = await _short(h, "shared")
    await h.clock.sleep(LONG_ENOUGH)
    async with h.other_driver() as other:
        page = await other.get_due(DueQuery("stall"))
        check([each.id for each in page.due], ["shared"], "stalled elsewhere")
        await other.beat([Heartbeat("shared", ctx.committed.rev, 60.0, "elsewhere")])
        check(await _stalled(h), [], "stalled here")
        check((await _liveness(h, "shared")).note, "elsewhere", "note")


@case("durable")
async def stalled_after_a_restart(h: Harness) -> None:
    """G11: what was active when everything stopped stalls when its time comes."""
    await _short(h, "left")
    await h.reopen()
    await h.clock.sleep(LONG_ENOUGH)
    check(await _stalled(h), ["left"], "stalled")


@case()
async def stalled_and_compacted(h: Harness) -> None:
    """G11: compaction keeps what is known about latest revisions."""
    ctx = await _short(h, "old")
    for _ in range(3):
        await h.engine.do(Commit(Transit(ctx, "work")))
    await h.driver.beat([Heartbeat("old", ctx.committed.rev, 0.0, "note")])
    await committed(h, "new")
    await h.engine.compact(await h.engine.head())
    check(await _stalled(h), ["old"], "stalled")
    check((await _liveness(h, "old")).note, "note", "note")


@case()
async def heartbeats_against_commits(h: Harness) -> None:
    """G2, G11: heartbeats and commits of the same states at the same time disturb nothing."""
    contexts = [await _short(h, f"busy {number}", "60") for number in range(8)]

    async def commit(ctx: StateContext) -> None:
        for _ in range(25):
            await h.engine.do(Commit(Transit(ctx, "work")))

    async def beat() -> None:
        for _ in range(25):
            beats = [Heartbeat(c.current.id, c.committed.rev, 60.0, "x") for c in contexts]
            await h.driver.beat(beats)

    await asyncio.gather(*(commit(ctx) for ctx in contexts), beat(), beat())
    check([s.rev for s in await h.log()], list(range(1, 8 * 26 + 1)), "log")
    for ctx in contexts:
        found = await _liveness(h, ctx.current.id)
        check(found.rev, ctx.committed.rev, "latest revision")


CASES: tuple[Case, ...] = (
    stalled_when_its_time_has_passed,
    stalled_never,
    stalled_follows_the_latest_revision,
    stalled_by_the_rules_of_an_attempt,
    stalled_in_spite_of_odd_settings,
    stalled_after_the_delay,
    stalled_first_in_front,
    stalled_states_are_whole,
    heartbeat_postpones,
    heartbeat_hands_over,
    heartbeat_of_another_revision,
    heartbeat_for_what_never_stalls,
    heartbeats_in_large_numbers,
    heartbeat_is_seen_by_others,
    stalled_after_a_restart,
    stalled_and_compacted,
    heartbeats_against_commits,
)
