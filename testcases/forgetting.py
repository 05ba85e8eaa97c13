"""Forgetting: the last revision of an ended state; many of them by pruning; and lives after it."""

from collections.abc import Callable, Sequence
from datetime import timedelta

from flowstate.commands import (
    Check,
    Command,
    Commit,
    Delay,
    End,
    Execute,
    Forget,
    GetState,
    Noop,
    Pause,
    Put,
    Retry,
    SetTimer,
    Stack,
    StoreData,
    Transit,
)
from flowstate.context import StateContext
from flowstate.data import Data, checksum_of
from flowstate.delayer import Delayer
from flowstate.driver import DueQuery, Verdict, Writes
from flowstate.engine import Engine
from flowstate.errors import (
    InvalidCommandError,
    InvalidInputError,
    RevisionMismatchError,
    StateNotFoundError,
)
from flowstate.mailboxes.mailbox import mailbox_id
from flowstate.recovery import Lease
from flowstate.state import State, Status
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import (
    DriverWrapper,
    committed,
    delays_of,
    know,
    raised,
    snapshot,
)

__all__ = ["CASES"]

HOUR = timedelta(hours=1)
BILL = Data(b"995")


async def _ended(h: Harness, *ids: str, **labels: str) -> list[StateContext]:
    """Return contexts of new states that have ended, with all that a state can have."""
    know(h, "work", "later")
    contexts = [h.ctx(id, labels=labels, annotations={"a": "b"}) for id in ids]
    for ctx in contexts:
        ctx.put(1)
        ctx.data["bill"] = BILL
        await h.engine.do(Commit(Transit(ctx, "work"), StoreData(ctx, "bill")))
        await h.engine.do(Commit(SetTimer(ctx, "alarm", "later", after=HOUR)))
        await h.engine.do(Commit(End(ctx, {"why": "done"})))
    return contexts


async def _latest(h: Harness) -> list[str]:
    """Return the ids of all states, as pages tell them."""
    return sorted([s.id async for s in h.engine.states(latest_only=True)])


async def _is_gone(h: Harness, id: str) -> None:
    await raised(StateNotFoundError, h.engine.get_state, id)
    check(await h.driver.get_liveness([id]), [None], f"what is known of {id}")
    check(id in await _latest(h), False, f"whether pages have {id}")


@case()
async def forget_leaves_one_last_revision(h: Harness) -> None:
    """G1, G6: watches see the last revision: id, labels and flow; then there is no such state."""
    (ctx,) = await _ended(h, "job", kind="x")
    before = ctx.committed
    async with h.engine.watch(labels={"kind": "x"}, since_rev=before.rev) as states:
        await h.engine.do(Commit(Forget(ctx)))
        last = await anext(states)
    check((last.id, last.labels, last.status), ("job", {"kind": "x"}, Status.ENDED), "what is left")
    check((last.transition.to, last.transition.cause), ("work", "forget"), "flow and cause")
    rest = (last.annotations, last.values, last.data, last.timers, last.transition.annotations)
    check(rest, ({}, {}, {}, {}, {}), "what is lost")
    check(ctx.committed, last, "the context")
    await _is_gone(h, "job")
    check(await h.engine.do(GetState("job", before.rev)), before, "a revision before")
    check(await h.engine.do(GetState("job", last.rev)), last, "the last revision")
    check(await h.engine.count(labels={"kind": "x"}), 0, "count")
    for kind in ("stall", "idle"):
        page = await h.driver.get_due(DueQuery(kind, everything=True))
        check(list(page.due), [], f"what is due as {kind}")


@case()
async def forget_in_the_commit_that_ends(h: Harness) -> None:
    """G1: a state can be forgotten by the commit that ends it, also by its first one."""
    know(h, "work")
    old = await committed(h, "old", labels={"kind": "x"})
    new = h.ctx("new")
    await h.engine.do(Commit(Transit(new, "work"), End(new), Forget(new), End(old), Forget(old)))
    for ctx in (old, new):
        await _is_gone(h, ctx.current.id)
        state = ctx.committed
        check((state.transition.to, state.transition.cause), ("work", "forget"), "flow and cause")
    check([s.id for s in await h.log()], ["old", "new", "old"], "log")


@case()
async def forgotten_state_begins_again(h: Harness) -> None:
    """G2: the id begins again at revision 0; contexts of the life before lose every race."""
    (ctx,) = await _ended(h, "job")
    old = [ctx.copy() for _ in range(4)]
    await h.engine.do(Commit(Forget(ctx)))
    first = ctx.committed.rev
    tries: list[Callable[[StateContext], Sequence[Command[None]]]] = [
        lambda old: [Transit(old, "work")],
        lambda old: [Put(old)],
        lambda old: [Check(old), Transit(h.ctx("other"), "work")],
        lambda old: [Forget(old)],
    ]
    for is_back in (False, True):
        if is_back:
            again = await committed(h, "job")
            check(again.committed.rev, first + 1, "revision of the next life")
        for each, commands in zip(old, tries, strict=True):
            each.put(is_back)
            before = snapshot(each)
            error = await raised(RevisionMismatchError, h.engine.do, Commit(*commands(each)))
            check((error.ids, snapshot(each)), (("job",), before), "ids, and the context after")
        await raised(RevisionMismatchError, h.engine.do, Commit(Transit(ctx, "work")))
    state = await h.engine.get_state("job")
    check((state.rev, state.annotations, state.values), (first + 1, {}, {}), "the next life")
    check([s.rev for s in await h.log() if s.id == "job"], [1, 2, 3, 4, 5], "the log")


@case()
async def forgotten_while_it_runs(h: Harness) -> None:
    """G10, G11: delays, claims and heartbeats of the life before touch nothing of the next one."""

    @h.flows.flow("long")
    async def long(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("begun")
        await h.until(lambda visits: "again" in visits)
        return Commit(End(ctx, {"by": "the old one"}))

    @h.flows.flow("claimed")
    async def claimed(ctx: StateContext, engine: Engine) -> Command[None]:
        h.visit("claimed")
        await h.until(lambda visits: "again" in visits)
        return Noop()

    know(h, "work")
    runs, waits = await committed(h, "runs", "long"), await committed(h, "waits")
    async with Delayer(h.engine):
        await h.engine.do(Execute(runs))
        await h.engine.do(Delay(waits, "claimed", after=timedelta(0), commit=False))
        await h.until(lambda visits: {"begun", "claimed"} <= {*visits})
        for id in ("runs", "waits"):
            own = StateContext(await h.engine.get_state(id))
            await h.engine.do(Commit(End(own), Forget(own)))
            again = h.ctx(id)
            await h.engine.do(Commit(Pause(again), Delay(again, "work", after=HOUR)))
        h.visit("again")
        await h.engine.idle()
    for id in ("runs", "waits"):
        state = await h.engine.get_state(id)
        check((state.status, state.delayed_until is None), (Status.PAUSED, False), f"next {id}")
    check(
        [(d.state.id, d.to) for d in await delays_of(h)], [("runs", "work"), ("waits", "work")], ""
    )


@case()
async def forgetting_that_is_refused(h: Harness) -> None:
    """G3, G14: only what has ended by then can be forgotten, and nothing may follow."""
    active, ended = await committed(h, "active"), await committed(h, "ended")
    paused, carrier = await committed(h, "paused"), await committed(h, "carrier")
    await h.engine.do(Commit(End(ended)), Commit(Pause(paused)))
    contexts = (active, ended, paused, carrier)
    for ctx in contexts:
        ctx.data["bill"] = BILL
    refused: list[tuple[str, Sequence[Command[None]]]] = [
        ("ctx", [Forget(active)]),
        ("ctx", [Forget(paused)]),
        ("ctx", [Forget(h.ctx("new"))]),
        ("ctx", [Forget(active), End(active)]),
        ("ctx", [Forget(ended), Retry(ended)]),
        ("ctx", [Forget(ended), SetTimer(ended, "t", "work", after=HOUR)]),
        ("commit", [Forget(ended), Transit(ended, "work")]),
        ("commit", [Forget(ended), End(ended)]),
        ("commit", [Forget(ended), StoreData(ended, "bill")]),
        ("commit", [Forget(ended), Delay(ended, "work", after=HOUR)]),
        ("commit", [Forget(ended), Stack(ended, carrier, "it")]),
        ("commit", [Forget(ended), Forget(ended.copy())]),
    ]
    before, head = [snapshot(ctx) for ctx in contexts], await h.engine.head()
    for field, commands in refused:
        error = await raised(InvalidCommandError, h.engine.do, Commit(*commands))
        check(error.field, field, f"the field, of {commands!r}")
        check([snapshot(ctx) for ctx in contexts], before, f"contexts after {commands!r}")
    check(await h.engine.head(), head, "head")


@case()
async def forget_outside_a_commit(h: Harness) -> None:
    """G3: outside a commit only the working copy is forgotten; a commit then stores that."""
    (ctx,) = await _ended(h, "job", kind="x")
    stored = ctx.committed
    await h.engine.do(Forget(ctx))
    check((ctx.current.annotations, ctx.committed), ({}, stored), "the context")
    check(await h.engine.get_state("job"), stored, "the stored state")
    await raised(InvalidCommandError, h.engine.do, Commit(Retry(ctx)))
    await h.engine.do(Commit(Put(ctx)))
    await _is_gone(h, "job")


@case()
async def prune_forgets_what_has_ended(h: Harness) -> None:
    """G13: ended states are forgotten, by age, labels and number; compaction removes them all."""
    await _ended(h, *[f"old-{n}" for n in range(5)], kind="x")
    await _ended(h, *[f"other-{n}" for n in range(3)], kind="y")
    await h.clock.sleep(0.01)
    (late,) = await _ended(h, "late", kind="x")
    active, paused = await committed(h, "active"), await committed(h, "paused")
    await h.engine.do(Commit(Pause(paused)))
    between = late.committed.committed_at
    assert between is not None
    before = await h.engine.get_state("other-0")
    assert before.committed_at is not None
    prune = h.engine.prune
    check(await prune(limit=0), 0, "with a limit of 0")
    check(await prune(ended_before=before.committed_at, labels={"kind": "y"}), 0, "too young")
    check(await prune(labels={"kind": "x"}, ended_before=between, limit=3, batch=2), 3, "first 3")
    check(await _latest(h), sorted([*_names(3, 5, "old"), *_names(0, 3, "other"), *STAY]), "left")
    check(await prune(labels={"kind": "x"}, ended_before=between), 2, "the others of that label")
    check(await prune(ended_before=between), 3, "the others of that time")
    check(await prune(), 1, "the rest")
    check(await prune(), 0, "once more")
    check(await _latest(h), ["active", "paused"], "what stays")
    check(await delays_of(h), [], "delays and timers")
    await h.engine.compact(await h.engine.head())
    await h.engine.do(Commit(Transit(active, "work")))
    await h.engine.compact(await h.engine.head())
    check({s.id for s in await h.log()}, {"active", "paused"}, "the log")
    check(await h.driver.get_data(checksum_of(BILL)), None, "data")


STAY = ("active", "late", "paused")


def _names(start: int, end: int, kind: str) -> list[str]:
    return [f"{kind}-{n}" for n in range(start, end)]


class Racing(DriverWrapper):
    """Lets another one be faster, just before a commit that forgets."""

    def __init__(self, h: Harness, *ids: str) -> None:
        super().__init__(h.driver)
        self._h, self._ids = h, [*ids]
        self.commits: list[int] = []

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        if any(writes.forgets for writes in batch):
            self.commits.append(sum(len(writes.forgets) for writes in batch))
            if self._ids:
                state = await self._driver.get_state(self._ids.pop())
                assert state is not None
                await self._h.engine.do(Commit(Transit(StateContext(state), "work")))
        return await self._driver.commit(batch)


@case()
async def prune_against_others(h: Harness) -> None:
    """G2: states that others move on while they are pruned are left alone; all others go."""
    await _ended(h, *_names(0, 6, "job"))
    driver = Racing(h, "job-1", "job-4")
    async with h.make_engine(driver) as engine:
        check(await engine.prune(), 4, "how many were forgotten")
    check(driver.commits, [6, 5, 4], "commits")
    check(await _latest(h), ["job-1", "job-4"], "what is left")
    check((await h.engine.get_state("job-4")).status, Status.ACTIVE, "what was moved on")


@case()
async def prune_takes_mailboxes_along(h: Harness) -> None:
    """G13: the mailbox of a state is forgotten with it, also where both are many."""
    contexts = await _ended(h, *_names(0, 70, "job"))
    alive = await committed(h, "alive")
    for ctx in [*contexts, alive]:
        box = StateContext(State(mailbox_id(ctx.current.id)))
        await h.engine.do(Commit(Pause(box)))
    check(await h.engine.prune(), 70, "how many were forgotten")
    check(await _latest(h), ["alive", mailbox_id("alive")], "what is left")


@case()
async def prune_takes_leases_that_were_left(h: Harness) -> None:
    """G11: a lease that is free can be forgotten, and be taken again."""
    for name in ("once", "twice"):
        async with Lease(h.engine, name, seconds=1.0) as lease:
            await lease.wait_held()
    check(await h.engine.prune(), 2, "how many were forgotten")
    async with Lease(h.engine, "twice", seconds=1.0) as lease:
        await lease.wait_held()


@case("damage")
async def prune_past_what_is_damaged(h: Harness) -> None:
    """G15: what cannot be read is not forgotten, and keeps nothing else from that."""
    await _ended(h, *_names(0, 3, "job"))
    await h.damage("revision", "job-1")
    check(await h.engine.prune(batch=1), 2, "how many were forgotten")
    page = await h.engine.get_states(latest_only=True)
    check(([s.id for s in page.states], len(page.damaged)), ([], 1), "what is left")


@case()
async def pruning_that_is_refused(h: Harness) -> None:
    """G14: bad arguments of a pruning are refused, and name the field."""
    tries: list[tuple[str, dict[str, object]]] = [
        ("batch", {"batch": 0}),
        ("batch", {"batch": 129}),
        ("limit", {"limit": -1}),
        ("limit", {"limit": 1.5}),
        ("ended_before", {"ended_before": "today"}),
        ("labels", {"labels": 5}),
    ]
    for field, arguments in tries:
        error = await raised(InvalidInputError, h.engine.prune, **arguments)
        check(error.field, field, f"the field, of {arguments!r}")


CASES: tuple[Case, ...] = (
    forget_leaves_one_last_revision,
    forget_in_the_commit_that_ends,
    forgotten_state_begins_again,
    forgotten_while_it_runs,
    forgetting_that_is_refused,
    forget_outside_a_commit,
    prune_forgets_what_has_ended,
    prune_against_others,
    prune_takes_mailboxes_along,
    prune_takes_leases_that_were_left,
    prune_past_what_is_damaged,
    pruning_that_is_refused,
)
