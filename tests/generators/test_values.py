"""Any Python value in any field: refused by a ``FlowstateError``, or read back equal.

All values of a field are committed at once, with commits that nothing is wrong with: these must
succeed, and everything must be readable afterwards.
"""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import Raw
from msgspec.structs import replace

from flowstate import (
    Check,
    Command,
    Commit,
    Data,
    Delay,
    End,
    Engine,
    FlowRegistry,
    FlowstateError,
    GetData,
    GetDelayedStates,
    GetState,
    GetStates,
    Pause,
    Put,
    Resume,
    Retry,
    Stack,
    State,
    StateContext,
    Status,
    StoreData,
    Transit,
    Transition,
    Unstack,
)
from flowstate.data import DataRef
from flowstate.driver import Driver
from flowstate.ground.frozen import FrozenDict
from tests.generators.odd_values import SECRET, odd_values

LONGEST_MESSAGE = 1_200  # Characters: a key of 512 may be named in it.
AFTER = timedelta(days=1)
Make = Callable[[str, Any], Command[Any]]


def _ctx(id: str, **fields: Any) -> StateContext:
    return StateContext(State(id, **fields))


def _labelled(id: str, key: Any, value: Any) -> Command[Any]:
    ctx = _ctx(id)
    ctx.set_label(key, value)
    return Commit(End(ctx))


def _annotated(id: str, key: Any, value: Any) -> Command[Any]:
    ctx = _ctx(id)
    ctx.set_annotation(key, value)
    return Commit(End(ctx))


def _with_data(id: str, alias: Any, blob: Any, **fields: Any) -> Command[Any]:
    ctx = _ctx(id)
    ctx.data[alias] = Data(blob, **fields)
    return Commit(End(ctx), StoreData(ctx, alias))


def _referring(id: str, **fields: Any) -> Command[Any]:
    ref = DataRef(**{"rev": 1, "checksum": "0" * 64, **fields})
    return Commit(End(_ctx(id, data=FrozenDict({"alias": ref}))))


def _kept(state: State) -> Command[Any]:
    """Commit a state with the transition that it has."""
    ctx = StateContext(state)
    ctx.data["kept"] = Data(b"kept")
    return Commit(StoreData(ctx, "kept"))


def _moved(id: str, **fields: Any) -> Command[Any]:
    return _kept(State(id, transition=Transition(**{"to": "work", **fields})))


WRITING: dict[str, Make] = {
    "id": lambda _, value: Commit(End(_ctx(value))),
    "rev": lambda id, value: Commit(End(_ctx(id, rev=value))),
    "labels": lambda id, value: Commit(End(_ctx(id, labels=value))),
    "label key": lambda id, value: Commit(End(_ctx(id, labels={value: "x"}))),
    "label value": lambda id, value: Commit(End(_ctx(id, labels={"x": value}))),
    "set_label key": lambda id, value: _labelled(id, value, "x"),
    "set_label value": lambda id, value: _labelled(id, "x", value),
    "annotations": lambda id, value: Commit(End(_ctx(id, annotations=value))),
    "annotation key": lambda id, value: Commit(End(_ctx(id, annotations={value: "x"}))),
    "annotation value": lambda id, value: Commit(End(_ctx(id, annotations={"x": value}))),
    "set_annotation key": lambda id, value: _annotated(id, value, "x"),
    "set_annotation value": lambda id, value: _annotated(id, "x", value),
    "transition": lambda id, value: _kept(State(id, transition=value)),
    "transition.to": lambda id, value: _moved(id, to=value),
    "transition.annotations": lambda id, value: _moved(id, annotations=value),
    "transition.cause": lambda id, value: _moved(id, cause=value),
    "transition.unknown": lambda id, value: _moved(id, unknown=value),
    "status": lambda id, value: _kept(State(id, status=value)),
    "committed_at": lambda id, value: Commit(End(_ctx(id, committed_at=value))),
    "delayed_until": lambda id, value: Commit(End(_ctx(id, delayed_until=value))),
    "unknown": lambda id, value: _kept(State(id, unknown=value)),
    "unknown value": lambda id, value: _kept(State(id, unknown=FrozenDict({"new": value}))),
    "unknown name": lambda id, value: _kept(State(id, unknown=FrozenDict({value: b"1"}))),
    "data": lambda id, value: _kept(State(id, data=value)),
    "data.alias": lambda id, value: _with_data(id, value, b"x"),
    "data.blob": lambda id, value: _with_data(id, "alias", value),
    "data.annotations": lambda id, value: _with_data(id, "alias", b"x", annotations=value),
    "data.checksum": lambda id, value: _with_data(id, "alias", b"x", checksum=value),
    "data.rev": lambda id, value: _with_data(id, "alias", b"x", rev=value),
    "reference.rev": lambda id, value: _referring(id, rev=value),
    "reference.checksum": lambda id, value: _referring(id, checksum=value),
    "reference.unknown": lambda id, value: _referring(id, unknown=value),
    "transit.to": lambda id, value: Commit(Transit(_ctx(id), value)),
    "transit.annotations": lambda id, value: Commit(Transit(_ctx(id), "work", value)),
    "transit.annotation": lambda id, value: Commit(Transit(_ctx(id), "work", {"x": value})),
    "pause.annotations": lambda id, value: Commit(Pause(_ctx(id), value)),
    "resume.annotations": lambda id, value: Commit(Resume(_ctx(id), value)),
    "retry.annotations": lambda id, value: Commit(Retry(_ctx(id), value)),
    "end.annotations": lambda id, value: Commit(End(_ctx(id), value)),
    "delay.to": lambda id, value: Commit(Delay(_ctx(id), value, after=AFTER)),
    "delay.after": lambda id, value: Commit(Delay(_ctx(id), "work", after=value)),
    "delay.until": lambda id, value: Commit(Delay(_ctx(id), "work", until=value)),
    "delay.commit": lambda id, value: Commit(Delay(_ctx(id), "work", after=AFTER, commit=value)),
    "delay.annotations": lambda id, value: Commit(
        Delay(_ctx(id), "work", after=AFTER, annotations=value)
    ),
    "stack.name": lambda id, value: Commit(End(_ctx(id)), Stack(_ctx(id + "c"), _ctx("s"), value)),
    "context": lambda _, value: Commit(End(value)),
    "checked": lambda id, value: Commit(End(_ctx(id)), Check(value)),
    "command": lambda _, value: Commit(value),
}
READING: dict[str, Make] = {
    "do": lambda _, value: value,
    "get.id": lambda _, value: GetState(value),
    "get.rev": lambda _, value: GetState("innocent-0", value),
    "get.labels": lambda _, value: GetState(labels=value),
    "find.labels": lambda _, value: GetStates(value),
    "find.label": lambda _, value: GetStates({"x": value}),
    "find.label key": lambda _, value: GetStates({value: "x"}),
    "find.since_rev": lambda _, value: GetStates(since_rev=value),
    "find.since_latest": lambda _, value: GetStates(since_latest=value),
    "find.since_time": lambda _, value: GetStates(since_time=value),
    "find.latest_only": lambda _, value: GetStates(latest_only=value),
    "find.status": lambda _, value: GetStates(status=value),
    "find.committed_before": lambda _, value: GetStates(committed_before=value),
    "find.limit": lambda _, value: GetStates(limit=value),
    "delayed.until": lambda _, value: GetDelayedStates(until=value),
    "delayed.limit": lambda _, value: GetDelayedStates(limit=value),
    "data.alias": lambda id, value: GetData(_ctx(id), value),
    "unstack.name": lambda id, value: Unstack(_ctx(id), _ctx(id), value),
}


@pytest.fixture
def flows() -> FlowRegistry:
    registry = FlowRegistry()
    registry.declare("work")
    return registry


def values_for(field: str) -> list[Any]:
    """Return the values that can be given there at all: a dict takes no others as keys."""
    is_key = field.endswith((" key", " name", "data.alias"))
    return [value for value in odd_values() if not is_key or _is_hashable(value)]


def _is_hashable(value: object) -> bool:
    try:
        hash(value)
    except Exception:  # noqa: BLE001 - some of them raise anything
        return False
    return True


async def attempt(engine: Engine, make: Make, id: str, value: Any) -> bool:
    """Return whether a value is taken; one that is not must be refused as an input is."""
    try:
        await engine.do(make(id, value))
    except FlowstateError as error:
        refusal = str(error)
    else:
        return True
    assert len(refusal) < LONGEST_MESSAGE, f"a message of {len(refusal)} characters"
    assert SECRET not in refusal
    return False


async def innocent(engine: Engine, number: int) -> None:
    ctx = _ctx(f"innocent-{number}", labels={"kind": "innocent"})
    await engine.do(Commit(End(ctx)))


def exact(value: object) -> object:
    """Return a value as it should be read back: texts as ``str`` has them."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {exact(key): exact(value[key]) for key in value}
    return value


def assert_exact(value: object) -> None:
    """Look whether all that is text is a plain ``str``."""
    for part in value.items() if isinstance(value, Mapping) else ():
        assert all(type(each) is str for each in part)


@pytest.mark.parametrize("field", WRITING)
async def test_written_values(field: str, store: Driver, flows: FlowRegistry) -> None:
    make, values = WRITING[field], values_for(field)
    async with Engine(store, flows, warn_blocked_after=60.0) as engine:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(attempt(engine, make, f"odd-{number}", value))
                for number, value in enumerate(values)
            ]
            for number in range(10):
                group.create_task(innocent(engine, number))
        taken = [
            (number, value)
            for number, (value, task) in enumerate(zip(values, tasks, strict=True))
            if task.result()
        ]
        page = await engine.get_states(labels={"kind": "innocent"})
        assert len(page.states) == 10
        await everything_is_readable(engine)
        for number, value in taken:
            if field != "id":
                await compare(engine, field, f"odd-{number}", value)


CHANGES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "labels": lambda value: {"labels": value},
    "label key": lambda value: {"labels": {value: "x"}},
    "label value": lambda value: {"labels": {"x": value}},
    "annotations": lambda value: {"annotations": value},
    "annotation key": lambda value: {"annotations": {value: "x"}},
    "annotation value": lambda value: {"annotations": {"x": value}},
    "values": lambda value: {"values": value},
    "value name": lambda value: {"values": {value: Raw(b"1")}},
    "value": lambda value: {"values": {"x": value}},
}


@pytest.mark.parametrize("step", ["put", "transit"])
@pytest.mark.parametrize("field", CHANGES)
async def test_values_of_a_state_that_the_store_has(
    field: str, step: str, store: Driver, flows: FlowRegistry
) -> None:
    """What the store gave is not checked again, so what differs from that must be."""
    async with Engine(store, flows, warn_blocked_after=60.0) as engine:
        for number, value in enumerate(values_for(field)):
            ctx = _ctx(f"odd-{number}", labels={"x": "x"}, annotations={"x": "x"})
            ctx.put(1, "x")
            await engine.do(Commit(Transit(ctx, "work")))
            ctx.current = replace(ctx.current, **CHANGES[field](value))
            command = Commit(Put(ctx) if step == "put" else Transit(ctx, "work"))
            await attempt(engine, lambda _, command: command, "", command)
        await everything_is_readable(engine)


async def everything_is_readable(engine: Engine) -> None:
    """Read the log, all latest states, all delays, and the log once more as a watch does."""
    log = [state async for state in engine.states()]
    assert [state.rev for state in log] == list(range(1, len(log) + 1))
    async with engine.watch(since_rev=0) as states:
        assert [await anext(states) for _ in log] == log
    for state in log:
        assert type(state.id) is str
        assert_exact(state.labels)
        assert_exact(state.annotations)
        assert_exact(state.transition.annotations)
        assert all(type(name) is str for name in state.values)
        assert await engine.get_state(state.id, state.rev) == state
    page = await engine.get_delayed_states(limit=1_000)
    assert not page.damaged


async def compare(engine: Engine, field: str, id: str, value: Any) -> None:
    """Compare what was stored of a value that was taken."""
    if field in READ_BACK:
        found = READ_BACK[field](await engine.get_state(id))
        assert found == ({} if value is None and field in MAPPINGS else exact(value))


def _moves(state: State) -> object:
    return state.transition.annotations


MAPPINGS = {f"{step}.annotations" for step in ("end", "pause", "resume", "retry", "transit")}
READ_BACK: dict[str, Callable[[State], object]] = {
    "labels": lambda state: state.labels,
    "label key": lambda state: next(iter(state.labels)),
    "label value": lambda state: state.labels["x"],
    "set_label key": lambda state: next(iter(state.labels)),
    "set_label value": lambda state: state.labels.get("x"),
    "annotations": lambda state: state.annotations,
    "annotation key": lambda state: next(iter(state.annotations)),
    "annotation value": lambda state: state.annotations["x"],
    "set_annotation key": lambda state: next(iter(state.annotations)),
    "set_annotation value": lambda state: state.annotations.get("x"),
    "transition": lambda state: replace(state.transition, origin=""),  # It is kept, with its key.
    "transition.to": lambda state: state.transition.to,
    "transition.cause": lambda state: state.transition.cause,
    "transition.annotations": _moves,
    "status": lambda state: state.status,
    "data.alias": lambda state: next(iter(state.data)),
    "transit.to": lambda state: state.transition.to,
    **dict.fromkeys(MAPPINGS, _moves),
}


@pytest.mark.parametrize("field", READING)
async def test_asked_values(field: str, store: Driver, flows: FlowRegistry) -> None:
    make = READING[field]
    async with Engine(store, flows, warn_blocked_after=60.0) as engine:
        await innocent(engine, 0)
        for number, value in enumerate(values_for(field)):
            await attempt(engine, make, f"odd-{number}", value)
        state = await engine.get_state("innocent-0")
        assert (state.rev, state.status) == (1, Status.ENDED)
        assert state.committed_at is not None
        assert state.committed_at <= datetime.now(UTC) + timedelta(minutes=1)
