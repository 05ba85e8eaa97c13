"""What is forgotten has a last revision in the log, and no latest one; its id may begin again."""

from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from flowstate.data import Data, DataRef, checksum_of
from flowstate.driver import (
    DueKind,
    DueQuery,
    Heartbeat,
    NewDelay,
    Seen,
    StateQuery,
    Verdict,
    Writes,
)
from flowstate.errors import RevisionMismatchError
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.state import State, Status, Transition
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import encoded, stored

__all__ = ["CASES"]

KIND = FrozenDict({"kind": "x"})
STATES_DUE: tuple[DueKind, ...] = ("stall", "idle")
HOUR = timedelta(hours=1)
WORKING = Transition("work")
FORGOTTEN = Transition("work", cause="forget")


async def _put(h: Harness, token: str, id: str, rev: int = 0, **state: Any) -> State:
    """Commit a revision in the place of another one."""
    new = replace(State(id, rev, KIND, transition=WORKING), **state)
    (committed,) = await stored(h, Writes(token, (new,)))
    return committed


async def _forget(h: Harness, token: str, state: State) -> State:
    """Commit the last revision of a state."""
    last = replace(state, status=Status.ENDED, transition=FORGOTTEN, data=EMPTY)
    (forgotten,) = await stored(h, Writes(token, (last,), forgets=(0,)))
    return forgotten


async def _verdicts(h: Harness, *batch: Writes) -> list[Verdict]:
    """Commit in batches as large as the driver takes them."""
    size, verdicts = h.driver.max_batch_size, list[Verdict]()
    for start in range(0, len(batch), size):
        verdicts += await h.driver.commit([encoded(w) for w in batch[start : start + size]])
    return verdicts


def _told(verdicts: list[Verdict]) -> list[object]:
    """Return revisions, or the ids of a refusal."""
    return [
        [state.rev for state in verdict] if isinstance(verdict, tuple) else sorted(verdict.ids)  # type: ignore[attr-defined]
        for verdict in verdicts
    ]


async def _revs(h: Harness, **query: Any) -> list[int]:
    page = await h.driver.get_states(StateQuery(limit=1_000, **query))
    check((page.more, list(page.damaged)), (False, []), f"nothing but states with {query}")
    return [state.rev for state in page.states]


async def _is_gone(h: Harness, id: str, rev: int) -> None:
    """Look whether nothing knows of a latest revision, which was ``rev``."""
    check(await h.driver.get_state(id), None, "the state")
    check(list(await h.driver.get_liveness([id])), [None], "its liveness")
    check(list(await h.driver.beat([Heartbeat(id, rev, 0.0, "")])), [False], "a heartbeat for it")
    for filters in ({}, {"labels": (KIND,)}, {"status": Status.ENDED}, {"id": id}):
        page = await h.driver.get_states(StateQuery(latest_only=True, limit=1_000, **filters))
        check([s.id for s in page.states if s.id == id], [], f"latest revisions with {filters}")
    for kind in STATES_DUE:
        due = await h.driver.get_due(DueQuery(kind, everything=True))
        check([each.id for each in due.due if each.id == id], [], f"what is due: {kind}")


@case()
async def forgotten_state_has_no_latest_revision(h: Harness) -> None:
    """G2: a state that is forgotten is found by no read of latest revisions."""
    states = {id: await _put(h, f"begin {id}", id) for id in ("kept", "gone", "paused")}
    await h.driver.beat([Heartbeat("gone", states["gone"].rev, 0.0, "note")])
    paused = await _put(h, "pause", "paused", states["paused"].rev, status=Status.PAUSED)
    gone = await _forget(h, "1", states["gone"])
    check((gone.rev, gone.transition.cause), (5, "forget"), "the last revision")
    await _is_gone(h, "gone", gone.rev)
    gone = await _forget(h, "2", paused)
    await _is_gone(h, "paused", gone.rev)
    check(await _revs(h, latest_only=True), [states["kept"].rev], "latest revisions")
    check(await h.driver.count(StateQuery()), 1, "how many there are")
    check(await h.driver.count(StateQuery(labels=(KIND,))), 1, "how many there are by label")
    check(await h.driver.count(StateQuery(status=Status.ENDED)), 0, "how many have ended")


@case()
async def forgetting_revision_is_in_the_log(h: Harness) -> None:
    """G4, G6: the last revision is in the log like any other, where all pages find it."""
    before = await h.driver.changed(Seen())
    state = await _put(h, "begin", "a")
    last = await _forget(h, "forget", state)
    while (seen := await h.driver.changed(before)).head < last.rev:
        before = seen
    check(seen.head, last.rev, "the head")
    for filters in ({}, {"labels": (KIND,)}, {"id": "a"}):
        check(await _revs(h, **filters), [1, 2], f"revisions with {filters}")
    check(await _revs(h, status=Status.ENDED), [2], "revisions that have ended")
    check(await _revs(h, since_latest=True), [2], "the newest revision")
    check(await _revs(h, after=1), [2], "revisions above the cursor")
    check(await h.driver.get_state("a", 2), last, "exactly the last revision")
    check(await h.driver.get_state("a", 1), state, "exactly the revision before")
    page = await h.driver.get_states(StateQuery())
    check((page.head, page.scanned_to), (2, 2), "head and cursor")


@case()
async def forgotten_id_begins_again(h: Harness) -> None:
    """G2: revision 0 is expected of a forgotten state, and of its revisions none any more."""
    state = await _put(h, "begin", "a")
    last = await _forget(h, "forget", state)
    for rev in (state.rev, last.rev):
        stale = Writes(f"stale {rev}", (State("a", rev), State("b")))
        check(_told(await _verdicts(h, stale)), [["a"]], f"the verdict when {rev} is expected")
        checking = Writes(f"check {rev}", (State("b"),), checks=(("a", rev),))
        check(_told(await _verdicts(h, checking)), [["a"]], f"the verdict of a check of {rev}")
    check(_told(await _verdicts(h, Writes("c", (State("b"),), checks=(("a", 0),)))), [[3]], "check")
    again = await _put(h, "again", "a", status=Status.PAUSED, labels=EMPTY)
    check(again.rev, 4, "its first revision")
    check(await h.driver.get_state("a"), again, "the state")
    check(await h.driver.get_state("a", 1), state, "a revision from before")
    check(await _revs(h, id="a"), [1, 2, 4], "all its revisions")
    check(await _revs(h, labels=(KIND,)), [1, 2], "by a label that it had before")
    check(await _revs(h, labels=(KIND,), latest_only=True), [], "by that label now")
    stale = Writes("stale", (State("a"),))
    check(_told(await _verdicts(h, stale)), [["a"]], "the verdict when nothing is expected")
    (found,) = await h.driver.get_liveness(["a"])
    check(found and (found.rev, found.stalls_at, found.beat_at), (4, None, None), "liveness")
    last = await _forget(h, "once more", again)
    await _is_gone(h, "a", last.rev)
    check((await _put(h, "third", "a")).rev, 6, "the first revision of the third one")
    check(await _revs(h, id="a"), [1, 2, 4, 5, 6], "all its revisions in the end")


@case()
async def forgetting_drops_delays(h: Harness) -> None:
    """G10: a forgotten state has no delays and does not stall; what begins again has its own."""
    state = await _put(h, "begin", "a")
    old = NewDelay(state, "work", EMPTY, None, HOUR, commit=True, body="")
    await stored(h, Writes("delay", delays=(old,)))
    await _forget(h, "forget", state)
    due = await h.driver.get_due(DueQuery("delay", everything=True))
    check([each.id for each in due.due], [], "delays")
    for kind in STATES_DUE:
        due = await h.driver.get_due(DueQuery(kind, everything=True))
        check([each.id for each in due.due], [], f"what is due: {kind}")
    again = await _put(h, "again", "a")
    due = await h.driver.get_due(DueQuery("stall", everything=True))
    check([(each.id, each.state) for each in due.due], [("a", again)], "what stalls")


@case()
async def forgets_of_a_batch(h: Harness) -> None:
    """G1, G2: commits of a batch forget states and begin them again in view of each other."""
    a, b = await _put(h, "a", "a"), await _put(h, "b", "b")
    batch = [
        Writes("1", (a, State("new"), b), forgets=(0, 2)),
        Writes("2", (replace(a, rev=3),)),  # Refused: "a" has no latest revision.
        Writes("3", (State("a"),)),
        Writes("4", (State("a"), State("b"))),  # Refused: "a" has begun again.
        Writes("5", (replace(a, rev=6), State("b")), forgets=(0,)),
        Writes("6", (State("a"), State("c")), forgets=(0, 1)),  # Begins and is forgotten at once.
        Writes("7", (State("x", 77), replace(b, rev=8)), forgets=(1,)),  # Refused, and kept.
        Writes("8", (State("a"),), checks=(("b", 8), ("c", 0))),
    ]
    told = _told(await _verdicts(h, *batch))
    expected = [[3, 4, 5], ["a"], [6], ["a"], [7, 8], [9, 10], ["x"], [11]]
    check(told, expected, "the verdicts")
    latest = {id: await h.driver.get_state(id) for id in ("a", "b", "c", "new")}
    found = {id: state.rev if state else 0 for id, state in latest.items()}
    check(found, {"a": 11, "b": 8, "c": 0, "new": 4}, "latest revisions")
    check(await _revs(h), list(range(1, 12)), "the log")
    check(await _revs(h, latest_only=True), [4, 8, 11], "latest revisions, as a page")
    check(await _revs(h, id="a"), [1, 3, 6, 7, 9, 11], "revisions of one state")
    check(await h.driver.count(StateQuery()), 3, "how many there are")


@case()
async def forgotten_states_are_compacted(h: Harness) -> None:
    """G13: compaction removes all of a forgotten state, once its last revision is below."""
    blob = replace(Data(b"blob"), rev=1, checksum=checksum_of(Data(b"blob")))
    ref = FrozenDict({"blob": DataRef(1, blob.checksum)})
    first = State("a", labels=KIND, data=ref, transition=WORKING)
    (a,) = await stored(h, Writes("a", (first,), data=(blob,)))
    kept = await _put(h, "kept", "kept")
    (a,) = await stored(h, Writes("next", (a,)))
    last = await _forget(h, "forget", a)
    await _put(h, "late", "late")
    check(await h.driver.compact(last.rev), 2, "revisions removed below the last one")
    check(await _revs(h), [2, 4, 5], "the log")
    check(await h.driver.get_state("a", last.rev), last, "the last revision")
    check(await h.driver.compact(last.rev), 0, "revisions removed the second time")
    check(await h.driver.compact(last.rev + 1), 1, "revisions removed above the last one")
    check(await _revs(h), [2, 5], "the log")
    check(await _revs(h, id="a"), [], "revisions of the state")
    check(await _revs(h, labels=(KIND,)), [2, 5], "by label")
    check(await h.driver.get_state("a", last.rev), None, "the last revision")
    check(await h.driver.get_data(blob.checksum), None, "its data")
    page = await h.driver.get_states(StateQuery())
    check((page.head, page.floor), (5, 5), "head and floor")
    await _is_gone(h, "a", last.rev)
    again = await _put(h, "again", "a")
    check((again.rev, await _revs(h, id="a")), (6, [6]), "what begins again")
    check(await h.driver.get_state("kept"), kept, "a state that was not forgotten")


@case()
async def state_that_begins_again_is_kept(h: Harness) -> None:
    """G13: compaction removes what was forgotten, and nothing of the state that has its id now."""
    a = await _forget(h, "forget", await _put(h, "a", "a"))
    await _forget(h, "forget b", await _put(h, "b", "b"))
    again = await _put(h, "again", "a", status=Status.PAUSED)
    check(await h.driver.compact(a.rev + 1), 2, "revisions removed")
    check(await _revs(h, id="a"), [5], "revisions of the state")
    check(await h.driver.compact(1_000), 2, "revisions removed up to the head")
    check(await _revs(h), [5], "the log")
    check(await h.driver.get_state("a"), again, "the state")
    due = await h.driver.get_due(DueQuery("idle"))
    check([each.state for each in due.due], [again], "what is idle")
    check(await h.driver.count(StateQuery(labels=(KIND,))), 1, "how many there are")
    (again,) = await stored(h, Writes("next", (again,)))
    check(await _revs(h, id="a"), [5, 6], "revisions once it has moved on")
    await _forget(h, "in the end", again)
    await _put(h, "b again", "b")
    check(await h.driver.compact(1_000), 3, "revisions removed in the end")
    check(await _revs(h), [8], "the log in the end")


@case()
async def many_come_and_go(h: Harness) -> None:
    """G13: of states that come and go nothing is left but what is there."""
    for turn in range(3):
        for start in range(0, 300, 100):
            puts = tuple(
                State(f"s{n}", status=Status.ENDED, labels=KIND) for n in range(start, start + 100)
            )
            states = await stored(h, Writes(f"begin {turn} {start}", puts))
            forgets = tuple(n for n in range(100) if n % 100 or turn < 2)
            await stored(h, Writes(f"forget {turn} {start}", states, forgets=forgets))
        left = 0 if turn < 2 else 3
        check(await h.driver.count(StateQuery()), left, f"how many there are after turn {turn}")
        await h.driver.compact(2**62)
        # The head is no lower than the floor, so compaction has left it.
        check(len(await _revs(h)) <= left + 1, True, f"revisions after turn {turn}")
    check(await h.driver.count(StateQuery(labels=(KIND,))), 3, "how many have the label")
    page = await h.driver.get_states(StateQuery(latest_only=True, labels=(KIND,)))
    check(sorted(state.id for state in page.states), ["s0", "s100", "s200"], "what is left")


@case("durable")
async def forgetting_survives(h: Harness) -> None:
    """G7: what was forgotten is so after the store was closed and opened."""
    last = await _forget(h, "forget", await _put(h, "a", "a"))
    await h.reopen()
    await _is_gone(h, "a", last.rev)
    check(await _revs(h, id="a"), [1, 2], "its revisions")
    check((await _put(h, "again", "a")).rev, 3, "what begins again")
    await h.reopen()
    check(await _revs(h, id="a"), [1, 2, 3], "its revisions then")
    check(await h.driver.compact(3), 2, "revisions removed")


@case("shared")
async def forgetting_is_seen_elsewhere(h: Harness) -> None:
    """G2, G5: another driver of the store knows what was forgotten, and what has begun again."""
    state = await _put(h, "begin", "a")
    async with h.other_driver() as other:
        check(await other.get_state("a"), state, "the state elsewhere")
        await _forget(h, "forget", state)
        check(await other.get_state("a"), None, "the state elsewhere once it is forgotten")
        (verdict,) = await other.commit([encoded(Writes("stale", (state,)))])
        assert isinstance(verdict, RevisionMismatchError)
        (verdict,) = await other.commit([encoded(Writes("again", (State("a"),)))])
        assert isinstance(verdict, tuple)
    check(await h.driver.get_state("a"), verdict[0], "what another driver has begun again")


@case("damage")
async def damaged_state_is_forgotten(h: Harness) -> None:
    """G15: a state that cannot be read is forgotten like any other, and compacted."""
    state = await _put(h, "begin", "a")
    await h.damage("revision", "a")
    last = await _forget(h, "forget", state)
    await _is_gone(h, "a", last.rev)
    await _put(h, "late", "late")
    check(await h.driver.compact(last.rev + 1), 2, "revisions removed")
    check(await _revs(h), [3], "the log")


CASES: tuple[Case, ...] = (
    forgotten_state_has_no_latest_revision,
    forgetting_revision_is_in_the_log,
    forgotten_id_begins_again,
    forgetting_drops_delays,
    forgets_of_a_batch,
    forgotten_states_are_compacted,
    state_that_begins_again_is_kept,
    many_come_and_go,
    forgetting_survives,
    forgetting_is_seen_elsewhere,
    damaged_state_is_forgotten,
)
