"""Bad numbers, times, states and commands are refused before anything is done."""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

from flowstate.commands import (
    Check,
    Commit,
    Delay,
    End,
    Execute,
    GetData,
    GetDelayedStates,
    GetState,
    GetStates,
    Noop,
    Pause,
    Stack,
    StoreData,
    Transit,
    Unstack,
)
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.errors import (
    InvalidCommandError,
    InvalidInputError,
)
from flowstate.state import State, Transition
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.refusals import BIG, DAY, IDS, KEYS, MAPPINGS, Try, changed, refused
from flowstate.testcases.support import committed, end, raised, snapshot

__all__ = ["CASES"]

ONCE = (None,)
EAST = timezone(timedelta(hours=14))
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001 - on purpose
SOME_TIME = datetime(2030, 1, 1, tzinfo=EAST)
REVS = (-1, 2**63, "1", 1.0, True)
LIMITS = (0, -1, 1_001, 2**70, None, "10", 1.0, True)
TIMES = (NAIVE, datetime(1, 1, 1, tzinfo=EAST), "2030-01-01", 1893456000, NAIVE.date())
CONTEXTS = (None, "ctx", State("state"), StateContext)
COMMANDS = (None, "end", Commit, 1)


@case()
async def bad_data(h: Harness) -> None:
    """G14: bad aliases, blobs and references to data are refused."""
    do = h.engine.do
    large = b"x" * (16 * 1024 * 1024 + 1)

    def store(ctx: StateContext, data: Any) -> Any:
        other = ctx.copy()
        other.data["y"] = data
        return do(Commit(End(other), StoreData(other, "y")))

    def refer(ctx: StateContext, data: Any) -> Any:
        return do(Commit(End(changed(ctx, data=data))))

    blobs = ["text", None, bytearray(b"x"), memoryview(b"x"), [1], large]
    await refused(
        h,
        InvalidInputError,
        ("alias", lambda ctx, alias: do(StoreData(ctx, alias)), IDS),
        ("alias", lambda ctx, alias: do(Commit(End(ctx), GetData(ctx, alias))), IDS),
        ("data['y'].blob", lambda ctx, blob: store(ctx, Data(blob)), blobs),
        ("data['y']", store, [b"blob", "text", 1]),
        ("state.data['y']", lambda ctx, ref: refer(ctx, {"y": ref}), ["text", None, Data(b"")]),
        ("state.data key", lambda ctx, key: refer(ctx, {key: "text"}), KEYS),
        ("state.data", refer, MAPPINGS),
    )


@case()
async def bad_revisions_and_limits(h: Harness) -> None:
    """G14: revisions and limits that are no integers, or out of bounds, are refused."""
    engine, do = h.engine, h.engine.do
    await refused(
        h,
        InvalidInputError,
        ("since_rev", lambda _, rev: engine.get_states(since_rev=rev), REVS),
        ("rev", lambda _, rev: engine.get_state("base", rev), REVS),
        ("before_rev", lambda _, rev: engine.compact(rev), [*REVS, None]),
        ("gaps_below", lambda _, rev: do(GetStates(gaps_below=rev)), [*REVS, None]),
        ("committed.rev", lambda _, rev: do(Commit(End(h.ctx("a", rev=rev)))), REVS),
        ("committed.rev", lambda _, rev: do(Commit(Check(h.ctx("a", rev=rev)))), REVS),
        ("limit", lambda _, limit: do(GetStates(limit=limit)), LIMITS),
        ("limit", lambda _, limit: do(GetDelayedStates(limit=limit)), LIMITS),
        ("since_latest", lambda _, rev: do(GetStates(since_rev=rev, since_latest=True)), [0, 1]),
        ("status", lambda _, status: engine.get_states(status=status), ["active", 1, Noop]),
        ("cursor", lambda _, cursor: do(GetDelayedStates(cursor=cursor)), [1, "x", (), ("a",)]),
    )


@case()
async def bad_times(h: Harness) -> None:
    """G14: naive times, and times and spans that no store can keep, are refused."""
    h.flows.set("work", end)
    engine, do = h.engine, h.engine.do
    spans = [-DAY, -timedelta(microseconds=1), timedelta.max, 10, "1 day"]
    await refused(
        h,
        InvalidInputError,
        ("since_time", lambda _, time: engine.get_states(since_time=time), TIMES),
        ("committed_before", lambda _, time: engine.get_states(committed_before=time), TIMES),
        ("until", lambda _, time: engine.get_delayed_states(until=time), TIMES),
        ("until", lambda ctx, time: do(Delay(ctx, "work", until=time)), TIMES),
        ("until", lambda ctx, time: do(Commit(Delay(ctx, "work", until=time))), TIMES),
        ("cursor", lambda _, time: do(GetDelayedStates(cursor=(time, "x"))), TIMES),
        ("after", lambda ctx, span: do(Delay(ctx, "work", after=span)), spans),
        ("after", lambda ctx, span: do(Commit(Delay(ctx, "work", after=span))), spans),
        ("delay", lambda ctx, _: do(Delay(ctx, "work")), ONCE),
        ("delay", lambda ctx, until: do(Delay(ctx, "work", DAY, until)), [SOME_TIME]),
    )


@case()
async def bad_working_copies(h: Harness) -> None:
    """G14: a working copy that cannot be stored is refused, whatever commits it."""
    h.flows.set("work", end)
    do = h.engine.do
    changes: list[tuple[str, dict[str, Any]]] = [
        ("state.status", {"status": "active"}),
        ("state.status", {"status": None}),
        ("state.transition", {"transition": "work"}),
        ("state.transition.to", {"transition": Transition("\0")}),
        ("state.transition.to", {"transition": Transition(BIG)}),
    ]
    tries: list[Try] = []
    for field, change in changes:
        tries += [
            (field, lambda ctx, c: do(Commit(StoreData(changed(ctx, **c), "x"))), [change]),
            (field, lambda ctx, c: do(Delay(changed(ctx, **c), "work", DAY)), [change]),
            (field, lambda ctx, c: do(Commit(Delay(changed(ctx, **c), "work", DAY))), [change]),
            (field, lambda ctx, c: do(Stack(ctx, changed(ctx, **c), "slot")), [change]),
        ]
    await refused(h, InvalidInputError, *tries)


@case()
async def bad_commands(h: Harness) -> None:
    """G14: commands that make no sense, or are none, are refused before anything is done."""
    do = h.engine.do
    await refused(
        h,
        InvalidCommandError,
        ("commit", lambda _, __: do(Commit()), ONCE),
        ("commit", lambda _, __: do(Commit(Noop())), ONCE),
        ("commit", lambda _, __: do(Commit(GetState("base"))), ONCE),
        ("commit", lambda ctx, __: do(Commit(End(ctx), Commit(End(ctx)))), ONCE),
        ("commit", lambda ctx, __: do(Commit(StoreData(ctx, "x"), Execute(ctx))), ONCE),
        ("commit", lambda ctx, query: do(Commit(End(ctx), query)), [GetStates()]),
        ("commit", lambda ctx, query: do(Commit(End(ctx), query)), [GetDelayedStates()]),
        ("commit", lambda ctx, __: do(Commit(End(ctx), End(ctx.copy()))), ONCE),
        ("commit", lambda ctx, id: do(Commit(End(ctx.fork(id)), Pause(ctx.fork(id)))), ["a"]),
        ("commit", lambda ctx, wrong: do(Commit(End(ctx), wrong)), COMMANDS),
        ("command", lambda _, wrong: do(wrong), COMMANDS),
        ("command", lambda ctx, __: do(Check(ctx)), ONCE),
        ("ctx", lambda _, __: h.engine.execute(h.ctx("never sent")), ONCE),
    )


@case()
async def bad_contexts(h: Harness) -> None:
    """G14: what is not a context is refused by every command that takes one."""
    h.flows.set("work", end)
    do, other = h.engine.do, h.ctx("other")
    makes: list[Callable[[Any], Any]] = [
        lambda wrong: Transit(wrong, "work"),
        Pause,
        End,
        lambda wrong: Delay(wrong, "work", after=DAY),
        lambda wrong: StoreData(wrong, "x"),
        lambda wrong: GetData(wrong, "x"),
        lambda wrong: Stack(wrong, other, "slot"),
        lambda wrong: Stack(other, wrong, "slot"),
        lambda wrong: Unstack(wrong, other, "slot"),
        lambda wrong: Unstack(other, wrong, "slot"),
    ]
    commands = [make(wrong) for make in makes for wrong in CONTEXTS]
    await refused(
        h,
        InvalidInputError,
        ("ctx", lambda _, command: do(command), commands),
        ("ctx", lambda ctx, command: do(Commit(End(ctx), command)), commands),
        ("ctx", lambda ctx, wrong: do(Commit(End(ctx), Check(wrong))), CONTEXTS),
        ("ctx", lambda _, wrong: do(Execute(wrong)), CONTEXTS),
        ("ctx", lambda _, wrong: h.engine.execute(wrong), CONTEXTS),
        ("state", lambda _, wrong: StateContext(wrong), [None, "state", State, {"id": "a"}]),
        ("name", lambda ctx, name: do(Stack(ctx, other, name)), [*IDS, "x" * 512]),
        ("name", lambda ctx, name: do(Commit(End(ctx), Unstack(ctx, other, name))), IDS),
    )


@case()
async def context_of_another_store(h: Harness) -> None:
    """G14: a context that was committed to one store is refused by another."""
    ctx = await committed(h, "a")
    elsewhere = ctx.copy()
    elsewhere._store_id = "another store"  # noqa: SLF001 - there is only one store here
    before = snapshot(elsewhere)
    for command in (Transit(elsewhere, "work"), Delay(elsewhere, "work", after=DAY)):
        for tried in (command, Commit(command), Commit(End(elsewhere), command)):
            error = await raised(InvalidCommandError, h.engine.do, tried)
            check((error.field, snapshot(elsewhere)), ("ctx", before), "field and context")
    check(await h.engine.head(), 1, "head")
    async with h.make_engine() as other:
        await other.do(Commit(End(ctx)))
    check(ctx.committed.rev, 2, "revision through another engine of the same store")


CASES: tuple[Case, ...] = (
    bad_data,
    bad_revisions_and_limits,
    bad_times,
    bad_working_copies,
    bad_commands,
    bad_contexts,
    context_of_another_store,
)
