"""Bad input gets one clear error, which names the field, before anything is written."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from msgspec.structs import replace

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
from flowstate.data import Data, checksum_of
from flowstate.errors import (
    FlowstateError,
    InvalidCommandError,
    InvalidInputError,
    UnknownFlowError,
)
from flowstate.state import State, Transition
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed, contents, end, raised, snapshot

__all__ = ["CASES"]

BIG = "x" * 1024 * 1024
HALF = BIG[: len(BIG) // 2]
DAY = timedelta(days=1)
EAST = timezone(timedelta(hours=14))
NAIVE = datetime(2030, 1, 1)  # noqa: DTZ001 - on purpose
SOME_TIME = datetime(2030, 1, 1, tzinfo=EAST)

IDS = ("", "\0", "a\0b", "\ud800", "a\udfff", "x" * 513, "é" * 257, BIG, None, 1, b"id", ["a"])
KEYS = IDS[:-1]
TEXTS = ("\0", "\ud800", None, 1, b"text", ["a"], BIG + "x")
LABEL_TEXTS = (*TEXTS, "x" * 513)
MAPPINGS = (None, "ab", 1, ["a"], [("a", "b")])
REVS = (-1, 2**63, "1", 1.0, True)
LIMITS = (0, -1, 1_001, 2**70, None, "10", 1.0, True)
TIMES = (NAIVE, datetime(1, 1, 1, tzinfo=EAST), "2030-01-01", 1893456000, NAIVE.date())
CONTEXTS = (None, "ctx", State("state"), StateContext)
COMMANDS = (None, "end", Commit, 1)
ONCE = (None,)

Try = tuple[str, Callable[[StateContext, Any], Any], Sequence[Any]]
"""The field that must be named, what to do with a context and a bad value, and the values."""


async def _refused(h: Harness, kind: type[FlowstateError], *tries: Try) -> None:
    """Try every bad value with a new and a committed context; look at what it leaves."""
    base = await committed(h, "base", labels={"k": "v"})
    for field, do, values in tries:
        for value in values:
            for ctx in (h.ctx("new"), base.copy()):
                ctx.data["x"] = Data(b"blob")
                before, store = snapshot(ctx), await contents(h)
                what = f"{field} {value!r:.80}"
                error = await raised(kind, do, ctx, value)
                check(getattr(error, "field", ""), field, f"field of {error!r:.200} for {what}")
                check(snapshot(ctx), before, f"context after {what}")
                check(await contents(h), store, f"contents of the store after {what}")
    check(await h.driver.get_data(checksum_of(Data(b"blob"))), None, "data in the store")


def _changed(ctx: StateContext, **changes: Any) -> StateContext:
    """Return a copy with another working copy."""
    other = ctx.copy()
    other.current = replace(ctx.current, **changes)
    return other


@case()
async def bad_ids_of_states(h: Harness) -> None:
    """G14: a bad id of a state is refused by every command that would use it."""
    h.flows.set("work", end)
    do, field = h.engine.do, "state.id"
    await _refused(
        h,
        InvalidInputError,
        (field, lambda _, id: do(Commit(End(StateContext(State(id))))), IDS),
        (field, lambda ctx, id: do(Commit(End(ctx.fork(id)))), IDS),
        (field, lambda ctx, id: do(Commit(End(ctx), End(ctx.fork(id)))), IDS),
        (field, lambda ctx, id: do(Commit(End(ctx), Check(ctx.fork(id)))), IDS),
        (field, lambda ctx, id: do(Stack(ctx, ctx.fork(id), "slot")), IDS),
        (field, lambda ctx, id: do(Delay(ctx.fork(id), "work", after=DAY)), IDS),
        (field, lambda _, id: do(Execute(h.ctx(id, "work"))), IDS),
        (field, lambda _, id: h.engine.execute(h.ctx(id, "work")), IDS),
        ("id", lambda _, id: h.engine.get_state(id), IDS),
        ("id", lambda ctx, id: do(Commit(End(ctx), GetState(id))), IDS),
        ("id", lambda _, labels: do(GetState(rev=1, labels=labels)), [{"k": "v"}]),
    )


@case()
async def changed_id(h: Harness) -> None:
    """G14: a state that was committed cannot be given another id."""
    ctx = _changed(await committed(h, "named"), id="renamed")
    error = await raised(InvalidInputError, h.engine.do, Commit(End(ctx)))
    check(error.field, "state.id", "field")
    check(await h.engine.head(), 1, "head")


@case()
async def bad_labels(h: Harness) -> None:
    """G14: bad labels are refused in states and in filters."""
    field, many = "state.labels", {f"k{n}": "v" for n in range(65)}

    def commit(ctx: StateContext, labels: Any) -> Any:
        return h.engine.do(Commit(End(_changed(ctx, labels=labels))))

    def find(labels: Any) -> Any:
        return h.engine.get_states(labels=labels)

    await _refused(
        h,
        InvalidInputError,
        (field, commit, [*MAPPINGS, many]),
        (f"{field} key", lambda ctx, key: commit(ctx, {key: "v"}), KEYS),
        (f"{field}['k']", lambda ctx, text: commit(ctx, {"k": text}), LABEL_TEXTS),
        ("labels", lambda _, labels: find(labels), [*MAPPINGS[:-1], many, [{}, None], ["kv"]]),
        ("labels key", lambda _, key: find([{"k": "v"}, {key: "v"}]), KEYS),
        ("labels['k']", lambda _, text: find({"k": text}), LABEL_TEXTS),
        ("labels", lambda _, labels: h.engine.get_state("base", labels=labels), [{"k": "v"}]),
        ("labels", lambda _, labels: h.engine.get_state(labels=labels), ["k", {1}]),
    )


def _bad_annotations(field: str, do: Callable[[StateContext, Any], Any]) -> list[Try]:
    """Return what must be refused as annotations of anything."""
    return [
        (field, do, [{"a": HALF, "b": HALF}]),
        (f"{field} key", lambda ctx, key: do(ctx, {key: "v"}), KEYS),
        (f"{field}['k']", lambda ctx, text: do(ctx, {"k": text}), TEXTS),
    ]


@case()
async def bad_annotations(h: Harness) -> None:
    """G14: bad annotations are refused in states, transitions, delays and data."""
    h.flows.set("work", end)
    do, field = h.engine.do, "annotations"

    def on_state(ctx: StateContext, found: Any) -> Any:
        return do(Commit(End(_changed(ctx, annotations=found))))

    def on_transition(ctx: StateContext, found: Any) -> Any:
        moved = _changed(ctx, transition=Transition("work", found))
        return do(Commit(StoreData(moved, "x")))

    def on_data(ctx: StateContext, found: Any) -> Any:
        other = ctx.copy()
        other.data["y"] = Data(b"", found)
        return do(Commit(StoreData(other, "y")))

    places: dict[str, list[Callable[[StateContext, Any], Any]]] = {
        "annotations": [
            lambda ctx, found: do(Transit(ctx, "work", found)),
            lambda ctx, found: do(Commit(End(ctx), Pause(ctx, found))),
            lambda ctx, found: do(Delay(ctx, "work", after=DAY, annotations=found)),
        ],
        "state.annotations": [on_state],
        "state.transition.annotations": [on_transition],
        "data['y'].annotations": [on_data],
    }
    tries: list[Try] = [("data.annotations", on_data, MAPPINGS)]
    for field, ways in places.items():
        for way in ways:
            tries += _bad_annotations(field, way)
            if way is not on_data:
                tries.append((field, way, MAPPINGS))
    await _refused(h, InvalidInputError, *tries)


@case()
async def bad_flow_ids(h: Harness) -> None:
    """G14: what cannot be a flow is refused wherever a flow is named or registered."""
    h.flows.set("work", end)
    do, flows = h.engine.do, h.flows
    await _refused(
        h,
        InvalidInputError,
        ("to", lambda ctx, id: do(Transit(ctx, id)), IDS),
        ("to", lambda ctx, id: do(Commit(End(ctx), Transit(ctx, id))), IDS),
        ("to", lambda ctx, id: do(Delay(ctx, id, after=DAY)), IDS),
        ("flow id", lambda _, id: flows.set(id, end), [*IDS, "work"]),
        ("flow id", lambda _, id: flows.declare(id), [*IDS, "work"]),
        ("flow", lambda _, flow: flows.set("new", flow), [None, "flow", 1]),
        ("blocking", lambda _, flow: flows.set("new", flow, blocking=True), [end]),
    )
    check(list(flows), ["work"], "registered flows")


@case()
async def unknown_flows(h: Harness) -> None:
    """G14: a flow that the registry does not know is refused by every command to it."""
    do, ids = h.engine.do, ["wrok", "Work", "work ", "w", "é", "e\u0301"]
    h.flows.set("\u00e9\u0301", end)
    await _refused(
        h,
        UnknownFlowError,
        ("", lambda ctx, id: do(Transit(ctx, id)), ids),
        ("", lambda ctx, id: do(Commit(End(ctx), Transit(ctx, id))), ids),
        ("", lambda ctx, id: do(Delay(ctx, id, after=DAY)), ids),
        ("", lambda ctx, id: do(Commit(Delay(ctx, id, after=DAY))), ids),
        ("", lambda _, id: do(Execute(h.ctx("x", id))), ids),
        ("", lambda _, id: h.engine.execute(h.ctx("x", id)), ids),
        ("", lambda _, id: h.flows.unset(id), ids),
    )


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
        return do(Commit(End(_changed(ctx, data=data))))

    blobs = ["text", None, bytearray(b"x"), memoryview(b"x"), [1], large]
    await _refused(
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
    await _refused(
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
    await _refused(
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
            (field, lambda ctx, c: do(Commit(StoreData(_changed(ctx, **c), "x"))), [change]),
            (field, lambda ctx, c: do(Delay(_changed(ctx, **c), "work", DAY)), [change]),
            (field, lambda ctx, c: do(Commit(Delay(_changed(ctx, **c), "work", DAY))), [change]),
            (field, lambda ctx, c: do(Stack(ctx, _changed(ctx, **c), "slot")), [change]),
        ]
    await _refused(h, InvalidInputError, *tries)


@case()
async def bad_commands(h: Harness) -> None:
    """G14: commands that make no sense, or are none, are refused before anything is done."""
    do = h.engine.do
    await _refused(
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
    await _refused(
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
    bad_ids_of_states,
    changed_id,
    bad_labels,
    bad_annotations,
    bad_flow_ids,
    unknown_flows,
    bad_data,
    bad_revisions_and_limits,
    bad_times,
    bad_working_copies,
    bad_commands,
    bad_contexts,
    context_of_another_store,
)
