"""The log is one dense history, which nothing changes afterwards."""

from datetime import timedelta
from typing import Any

from msgspec.structs import replace

from flowstate.commands import (
    Command,
    Commit,
    Delay,
    End,
    Pause,
    Resume,
    StoreData,
    Transit,
)
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.errors import RevisionMismatchError
from flowstate.state import Status, Transition
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, contents, know, raised

__all__ = ["CASES"]


@case()
async def several_steps_are_one_revision(h: Harness) -> None:
    """G4: all steps that a commit takes with a state make one revision."""
    know(h, "work", "wait")
    ctx = h.ctx("a")
    await h.engine.do(Commit(Transit(ctx, "work"), Pause(ctx), Resume(ctx), Transit(ctx, "wait")))
    (state,) = await h.log()
    check((state.rev, state.transition.to, state.status), (1, "wait", Status.ACTIVE), "state")


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
    several_steps_are_one_revision,
    dense_revisions,
    history_does_not_change,
    assigned_states_are_frozen,
    removed_label_stays_away,
    ended_state_goes_on,
    pause_and_resume,
    log_survives,
)
