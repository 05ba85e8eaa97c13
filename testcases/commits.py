"""Commits happen whole or not at all, in one order, and history never changes."""

from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from flowstate.commands import (
    Check,
    Command,
    Commit,
    Delay,
    End,
    Noop,
    Pause,
    Resume,
    Stack,
    StoreData,
    Transit,
)
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.errors import InvalidCommandError, RevisionMismatchError
from flowstate.state import State, Status, Transition
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, contents, know, raised, snapshot

__all__ = ["CASES"]


@case()
async def commit_brings_contexts_up_to_date(h: Harness) -> None:
    """G5: after a commit the context is what the store has, and nothing is left to commit."""
    know(h, "work")
    ctx = h.ctx("a", labels={"k": "v"}, annotations={"n": "1"})
    await h.engine.do(Transit(ctx, "work"), Commit(Transit(ctx, "work", {"step": "2"})))
    stored = await h.engine.get_state("a")
    check((ctx.current, ctx.committed, ctx.transitions), (stored, stored, ()), "context")
    check((stored.rev, stored.labels, stored.annotations), (1, {"k": "v"}, {"n": "1"}), "state")
    check(stored.transition.annotations, {"step": "2"}, "annotations of the transition")


@case()
async def commit_of_many_commands(h: Harness) -> None:
    """G1: states, data, delays and stacks of one commit are there together."""
    know(h, "work")
    a, b, c, d = (h.ctx(id) for id in "abcd")
    a.data["x"] = Data(b"blob")
    await h.engine.do(
        Commit(
            Transit(a, "work"),
            StoreData(a, "x"),
            Pause(b),
            Stack(c, b, "slot"),
            Delay(d, "work", after=timedelta(days=1)),
            End(c),
            Noop(),
        )
    )
    log, delayed = await contents(h)
    check([(s.id, s.rev) for s in log], [("a", 1), ("b", 2), ("c", 3), ("d", 4)], "log")
    check([s.status.value for s in log], ["active", "paused", "ended", "active"], "statuses")
    check([(d.state.id, d.state.rev) for d in delayed], [("d", 4)], "delays")
    check([list(s.data) for s in log], [["x"], [], [], []], "data")
    check(list(log[2].annotations), ["flowstate.stack.slot"], "annotations of the carrier")


@case()
async def several_steps_are_one_revision(h: Harness) -> None:
    """G4: all steps that a commit takes with a state make one revision."""
    know(h, "work", "wait")
    ctx = h.ctx("a")
    await h.engine.do(Commit(Transit(ctx, "work"), Pause(ctx), Resume(ctx), Transit(ctx, "wait")))
    (state,) = await h.log()
    check((state.rev, state.transition.to, state.status), (1, "wait", Status.ACTIVE), "state")


@case()
async def all_mismatched_ids_are_named(h: Harness) -> None:
    """G2: a refused commit names every state that is not as expected, and only those."""
    good, moved, checked = [await committed(h, id) for id in ("good", "moved", "checked")]
    fresh, taken = h.ctx("fresh"), h.ctx("taken")
    await committed(h, "taken")
    for ctx in (moved, checked):
        await h.engine.do(Commit(Transit(ctx.copy(), "work")))
    contexts = (good, moved, checked, fresh, taken)
    before, store = [snapshot(ctx) for ctx in contexts], await contents(h)
    steps = [Transit(ctx, "work") for ctx in (taken, good, fresh, moved)]
    error = await raised(RevisionMismatchError, h.engine.do, Commit(Check(checked), *steps))
    check(error.ids, ("checked", "moved", "taken"), "mismatched ids")
    check([snapshot(ctx) for ctx in contexts], before, "contexts")
    check(await contents(h), store, "contents of the store")


@case()
async def state_that_was_expected_to_be_there(h: Harness) -> None:
    """G2: a commit at a revision of a state that the store never had is refused."""
    know(h, "work")
    ctx = StateContext(State("nowhere", rev=7))
    error = await raised(RevisionMismatchError, h.engine.do, Commit(Transit(ctx, "work")))
    check(error.ids, ("nowhere",), "mismatched ids")
    await committed(h, "a")
    await committed(h, "b")
    wrong = StateContext(State("b", rev=1))
    error = await raised(RevisionMismatchError, h.engine.do, Commit(End(wrong)))
    check(error.ids, ("b",), "mismatched ids for the revision of another state")


def _doomed(ctx: StateContext, stale: StateContext) -> list[Command[None]]:
    """Return commands that change ``ctx`` in every way, and then cannot be committed."""
    return [
        Transit(ctx, "work", {"a": "b"}),
        StoreData(ctx, "x"),
        Delay(ctx, "work", after=timedelta(days=1)),
        Pause(ctx),
        Stack(ctx, ctx.fork("other"), "slot"),
        Transit(stale, "work"),
    ]


@case()
async def failures_leave_contexts_alone(h: Harness) -> None:
    """G3: after a commit was refused, every attribute of every context is as before."""
    stale = await committed(h, "stale")
    await h.engine.do(Commit(Transit(stale.copy(), "work")))
    for rev in (0, 1):
        ctx = h.ctx(f"ctx-{rev}", labels={"k": "v"})
        if rev:
            await h.engine.do(Commit(Transit(ctx, "work")))
        ctx.data["x"] = Data(b"blob")
        ctx.set_annotation("note", "uncommitted")
        await h.engine.do(Transit(ctx, "work"))
        before, store = (snapshot(ctx), snapshot(stale)), await contents(h)
        doomed = _doomed(ctx, stale)
        await raised(RevisionMismatchError, h.engine.do, Commit(*doomed))
        check((snapshot(ctx), snapshot(stale)), before, "contexts after a lost race")
        await raised(InvalidCommandError, h.engine.do, Commit(*doomed, Commit()))
        check((snapshot(ctx), snapshot(stale)), before, "contexts after a bad command")
        check(await contents(h), store, "contents of the store")


@case()
async def commands_in_order_until_one_fails(h: Harness) -> None:
    """G3: of several commands, those before the failure are done, the others are not."""
    know(h, "work")
    a, b, c = (h.ctx(id) for id in "abc")
    await committed(h, "b")
    steps = (Commit(End(a)), Commit(End(b)), Commit(End(c)))
    await raised(RevisionMismatchError, h.engine.do, *steps)
    check([s.id for s in await h.log()], ["b", "a"], "log")
    check((a.committed.rev, b.committed.rev, c.committed.rev), (2, 0, 0), "revisions")


@case()
async def dense_revisions(h: Harness) -> None:
    """G4: the log is 1, 2, 3 up to the head, and refused commits leave no hole."""
    stale = await committed(h, "stale")
    await h.engine.do(Commit(Transit(stale.copy(), "work")))
    for n in range(30):
        new = [h.ctx(f"s-{n}-{i}") for i in range(n % 4 + 1)]
        await h.engine.do(Commit(*(Transit(ctx, "work") for ctx in new)))
        revs = [ctx.committed.rev for ctx in new]
        check(revs, list(range(revs[0], revs[0] + len(new))), "revisions of one commit")
        steps: list[Command[None]] = [Transit(h.ctx(f"never-{n}"), "work"), End(stale)]
        await raised(RevisionMismatchError, h.engine.do, Commit(*steps))
    head = await h.engine.head()
    check([s.rev for s in await h.log()], list(range(1, head + 1)), "log")


@case()
async def largest_commit(h: Harness) -> None:
    """G1: a commit of 128 states is one; one state more is refused."""
    know(h, "work")
    states = [h.ctx(f"s-{n:03}") for n in range(129)]
    many: list[Command[None]] = [Transit(ctx, "work") for ctx in states]
    error = await raised(InvalidCommandError, h.engine.do, Commit(*many))
    check((error.field, await h.log()), ("commit", []), "field and log")
    await h.engine.do(Commit(*many[:128]))
    found = [(s.id, s.rev) for s in await h.log()]
    check(found, [(f"s-{n:03}", n + 1) for n in range(128)], "log")
    await h.engine.do(Commit(*many[1:]))
    check((await h.log())[-1].id, "s-128", "the last state of the next commit")


@case()
async def check_prevents_write_skew(h: Harness) -> None:
    """G2: of two commits that each rely on what the other changes, one is refused."""
    for alice_checks in (True, False):
        alice, bob = [await committed(h, f"{n}-{alice_checks}") for n in ("alice", "bob")]
        alice_sees_bob, bob_sees_alice = bob.copy(), alice.copy()
        checks: list[Command[None]] = [Check(alice_sees_bob)] if alice_checks else []
        await h.engine.do(Commit(*checks, End(alice)))
        leave = Commit(Check(bob_sees_alice), End(bob))
        error = await raised(RevisionMismatchError, h.engine.do, leave)
        check(error.ids, (alice.current.id,), "mismatched ids")
        check((await h.engine.get_state(bob.current.id)).status, Status.ACTIVE, "status of bob")


@case()
async def check_alone(h: Harness) -> None:
    """G2: a commit of checks only writes nothing, and tells whether they hold."""
    ctx, absent = await committed(h, "a"), h.ctx("absent")
    before = snapshot(ctx)
    await h.engine.do(Commit(Check(ctx), Check(absent)))
    check((await h.engine.head(), snapshot(ctx)), (1, before), "head and context")
    await h.engine.do(Commit(Transit(ctx.copy(), "work")))
    await committed(h, "absent")
    error = await raised(RevisionMismatchError, h.engine.do, Commit(Check(ctx), Check(absent)))
    check(error.ids, ("a", "absent"), "mismatched ids")


@case()
async def history_does_not_change(h: Harness) -> None:
    """G3: changing what was given to a commit, or what came back, changes no history."""
    know(h, "work")
    given: list[dict[str, str]] = [{"k": "v"} for _ in range(5)]
    labels, annotations, step, note, late = given
    ctx = h.ctx("a", labels=labels, annotations=annotations)
    ctx.data["x"] = Data(b"blob", note)
    delay = Delay(ctx, "work", after=timedelta(days=1), annotations=late)
    await h.engine.do(Commit(Transit(ctx, "work", step), StoreData(ctx, "x"), delay))
    before = await contents(h)
    for mapping in given:
        mapping["k"] = "changed"
        mapping["new"] = "x"
    ctx.set_label("k", "changed")
    ctx.data.clear()
    check(await contents(h), before, "contents of the store")
    check((await h.engine.get_data(ctx, "x")).annotations, {"k": "v"}, "annotations of the data")
    found = before[0][0]
    for shared in (found.labels, found.annotations, found.transition.annotations, found.data):
        changeable: Any = shared
        await raised(TypeError, changeable.update, {"k": "changed"})
    check(await contents(h), before, "contents of the store in the end")


@case()
async def assigned_states_are_frozen(h: Harness) -> None:
    """G3: also a working copy that was assigned shares no mapping with its maker."""
    know(h, "work")
    mapping = {"k": "v"}
    changes: dict[str, Any] = {
        "labels": mapping,
        "annotations": mapping,
        "transition": Transition("work", mapping),
    }
    for name, value in changes.items():
        for ctx in (h.ctx(f"new-{name}"), await committed(h, f"old-{name}")):
            ctx.current = replace(ctx.current, **{name: value})
            ctx.data["x"] = Data(b"")
            await h.engine.do(Commit(StoreData(ctx, "x")))
            mapping["k"] = "changed"
            found = str(getattr((await h.log())[-1], name))
            check(found.count("changed"), 0, f"changes in {name} of {ctx.current.id}")
            mapping["k"] = "v"


@case()
async def removed_label_stays_away(h: Harness) -> None:
    """G5: labels and annotations that were removed do not come back, and find nothing."""
    ctx = await committed(h, "a", labels={"old": "1", "kept": "1"}, annotations={"old": "1"})
    ctx.set_label("old", None)
    ctx.set_annotation("old", None)
    ctx.set_label("new", "1")
    for _ in range(2):
        await h.engine.do(Commit(Transit(ctx, "work")))
        ctx = StateContext(await h.engine.get_state("a"))
    check(ctx.current.labels, {"kept": "1", "new": "1"}, "labels")
    check(ctx.current.annotations, {}, "annotations")
    page = await h.engine.get_states(labels={"old": "1"})
    check([s.rev for s in page.states], [1], "revisions with the old label")
    latest = await h.engine.get_states(labels={"old": "1"}, latest_only=True)
    check(list(latest.states), [], "latest states with the old label")


@case()
async def ended_state_goes_on(h: Harness) -> None:
    """G5: a state that has ended can be transited again, on purpose."""
    ctx = await committed(h, "a")
    await h.engine.do(Commit(End(ctx)))
    again = StateContext(await h.engine.get_state("a"))
    await h.engine.do(Commit(Transit(again, "work", {"why": "retried"})))
    check([s.status.value for s in await h.log()], ["active", "ended", "active"], "log")
    await h.engine.execute(again)
    check((await h.engine.get_state("a")).status, Status.ENDED, "status")


@case()
async def pause_and_resume(h: Harness) -> None:
    """G5: a paused state keeps its flow, and goes on in it when it is resumed."""
    ctx = await committed(h, "a", to="work")
    await h.engine.do(Commit(Pause(ctx, {"why": "paused"})), Commit(Resume(ctx, {"why": "on"})))
    log = [(s.transition.to, s.transition.cause, s.status.value) for s in await h.log()]
    expected = [
        ("work", "transit", "active"),
        ("work", "pause", "paused"),
        ("work", "resume", "active"),
    ]
    check(log, expected, "log")
    notes = [s.transition.annotations.get("why") for s in await h.log()]
    check((notes, ctx.resumed), ([None, "paused", "on"], True), "annotations, and resumed")


@case()
async def command_done_twice(h: Harness) -> None:
    """G2: a command is data: done again with the same context it makes another revision."""
    know(h, "work")
    ctx = h.ctx("a")
    commit = Commit(Transit(ctx, "work"))
    await h.engine.do(commit, commit)
    await h.engine.do(commit)
    check([s.rev for s in await h.log()], [1, 2, 3], "log")
    late = Delay(ctx, "work", after=timedelta(days=1))
    await h.engine.do(late, late)
    _, delayed = await contents(h)
    check([d.state.rev for d in delayed], [3, 3], "revisions of the delays")


@case("durable")
async def log_survives(h: Harness) -> None:
    """G7: log, head and latest states are the same after a restart."""
    ctx = await committed(h, "a", labels={"k": "v"})
    await h.engine.do(Commit(End(ctx)))
    await committed(h, "b", annotations={"k": "v"})
    before, store_id = await contents(h), h.driver.store_id
    await h.reopen()
    check((await contents(h), h.driver.store_id), (before, store_id), "contents of the store")
    await h.engine.do(Commit(Transit(ctx, "work")))
    check(ctx.committed.rev, 4, "next revision, through an old context")


CASES: tuple[Case, ...] = (
    commit_brings_contexts_up_to_date,
    commit_of_many_commands,
    several_steps_are_one_revision,
    all_mismatched_ids_are_named,
    state_that_was_expected_to_be_there,
    failures_leave_contexts_alone,
    commands_in_order_until_one_fails,
    dense_revisions,
    largest_commit,
    check_prevents_write_skew,
    check_alone,
    history_does_not_change,
    assigned_states_are_frozen,
    removed_label_stays_away,
    ended_state_goes_on,
    pause_and_resume,
    command_done_twice,
    log_survives,
)
