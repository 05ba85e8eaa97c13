"""Bad text gets one clear error, which names the field, before anything is written."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from flowstate import recovery
from flowstate.commands import (
    Check,
    Commit,
    Delay,
    End,
    Execute,
    GetState,
    Pause,
    Stack,
    StoreData,
    Transit,
)
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.errors import (
    InvalidInputError,
    UnknownFlowError,
)
from flowstate.recovery import Recoverer
from flowstate.state import State, Transition
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.refusals import BIG, DAY, IDS, KEYS, MAPPINGS, Try, changed, refused
from flowstate.testcases.support import committed, end, raised

__all__ = ["CASES"]

TEXTS = ("\0", "\ud800", None, 1, b"text", ["a"], BIG + "x")
HALF = BIG[: len(BIG) // 2]
LABEL_TEXTS = (*TEXTS, "x" * 513)


@case()
async def bad_ids_of_states(h: Harness) -> None:
    """G14: a bad id of a state is refused by every command that would use it."""
    h.flows.set("work", end)
    do, field = h.engine.do, "state.id"
    await refused(
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
    ctx = changed(await committed(h, "named"), id="renamed")
    error = await raised(InvalidInputError, h.engine.do, Commit(End(ctx)))
    check(error.field, "state.id", "field")
    check(await h.engine.head(), 1, "head")


@case()
async def bad_labels(h: Harness) -> None:
    """G14: bad labels are refused in states and in filters."""
    field, many = "state.labels", {f"k{n}": "v" for n in range(65)}

    def commit(ctx: StateContext, labels: Any) -> Any:
        return h.engine.do(Commit(End(changed(ctx, labels=labels))))

    def find(labels: Any) -> Any:
        return h.engine.get_states(labels=labels)

    await refused(
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
        return do(Commit(End(changed(ctx, annotations=found))))

    def on_transition(ctx: StateContext, found: Any) -> Any:
        moved = changed(ctx, transition=Transition("work", found))
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
    await refused(h, InvalidInputError, *tries)


@case()
async def bad_flow_ids(h: Harness) -> None:
    """G14: what cannot be a flow is refused wherever a flow is named or registered."""
    h.flows.set("work", end)
    do, flows = h.engine.do, h.flows
    await refused(
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
    await refused(
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
async def recovery_settings_are_checked(h: Harness) -> None:
    """G14: bad settings name the field, and change nothing."""
    ctx = h.ctx("a")
    for after in (timedelta(0), timedelta(seconds=-1), timedelta(days=400_000), 5, None):
        error = await raised(InvalidInputError, recovery.set_retry_after, ctx, after)
        check(error.field, "after", "field")
    for attempts in (-1, 1.5, "3", None, True, 10**7):
        error = await raised(InvalidInputError, recovery.set_max_attempts, ctx, attempts)
        check(error.field, "attempts", "field")
    check(dict(ctx.current.annotations), {}, "annotations")
    for field, bad in (("rate", 0), ("max_running", 0), ("lease", 0.0), ("group", "")):
        error = await raised(InvalidInputError, Recoverer, h.engine, **{field: bad})
        check(error.field, field, "field")
    await raised(InvalidInputError, Recoverer, h.engine, poll_interval=0)


CASES: tuple[Case, ...] = (
    bad_ids_of_states,
    changed_id,
    bad_labels,
    bad_annotations,
    bad_flow_ids,
    unknown_flows,
    recovery_settings_are_checked,
)
