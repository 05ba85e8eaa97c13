"""Commits happen whole or not at all, at the revisions that they expect."""

from datetime import timedelta

from flowstate.commands import (
    Check,
    Command,
    Commit,
    Delay,
    End,
    Noop,
    Pause,
    Stack,
    StoreData,
    Transit,
)
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.errors import InvalidCommandError, RevisionMismatchError
from flowstate.state import State
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
    for ctx, state in zip((a, b, c, d), log, strict=True):
        found = (ctx.current, ctx.committed, ctx.transitions)
        check(found, (state, state, ()), f"context {state.id}")
    check([(s.id, s.rev) for s in log], [("a", 1), ("b", 2), ("c", 3), ("d", 4)], "log")
    check([s.status.value for s in log], ["active", "paused", "ended", "active"], "statuses")
    check([(d.state.id, d.state.rev) for d in delayed], [("d", 4)], "delays")
    check([list(s.data) for s in log], [["x"], [], [], []], "data")
    check(list(log[2].annotations), ["flowstate.stack.slot"], "annotations of the carrier")


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


CASES: tuple[Case, ...] = (
    commit_brings_contexts_up_to_date,
    commit_of_many_commands,
    all_mismatched_ids_are_named,
    state_that_was_expected_to_be_there,
    failures_leave_contexts_alone,
    commands_in_order_until_one_fails,
    largest_commit,
    check_alone,
    command_done_twice,
)
