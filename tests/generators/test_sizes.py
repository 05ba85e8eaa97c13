"""Sizes at the limits, many at once, next to small commits, which must succeed."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest

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
    GetStates,
    InvalidInputError,
    Pause,
    State,
    StateContext,
    StoreData,
    Transit,
)
from flowstate.driver import Driver
from flowstate.ground.limits import (
    MAX_ALIASES,
    MAX_ALTERNATIVES,
    MAX_ANNOTATIONS_BYTES,
    MAX_BLOB_BYTES,
    MAX_CHECKS_PER_COMMIT,
    MAX_COMMIT_BYTES,
    MAX_DATA_PER_COMMIT,
    MAX_DELAYS_PER_COMMIT,
    MAX_ID_BYTES,
    MAX_LABELS,
    MAX_PAGE_BYTES,
    MAX_STATES_PER_COMMIT,
)

DAY = timedelta(days=1)
AT_ONCE = 6
INNOCENT = 20
Make = Callable[[str, int], Command[Any]]


def _ctx(id: str, **fields: Any) -> StateContext:
    return StateContext(State(id, **fields))


def _text(size: int) -> str:
    """Return a text of so many bytes, of which most characters have two."""
    return "é" * (size // 2) + "x" * (size % 2)


def _with_label_text(id: str, size: int) -> Command[Any]:
    labels = {_text(size - 4) + f"{number:04}": _text(size) for number in range(MAX_LABELS)}
    return Commit(End(_ctx(id, labels=labels)))


def _with_data(id: str, sizes: Sequence[int]) -> Command[Any]:
    ctx = _ctx(id)
    for number, size in enumerate(sizes):
        ctx.data[f"blob-{number}"] = Data(f"{id}-{number}".encode().ljust(size, b"\0"))
    return Commit(Pause(ctx), *(StoreData(ctx, alias) for alias in ctx.data))


def _with_bytes(id: str, size: int) -> Command[Any]:
    """Return a commit of so many bytes, a little more or less."""
    whole, rest = divmod(size, MAX_BLOB_BYTES)
    return _with_data(id, [MAX_BLOB_BYTES] * whole + ([rest] if rest else []))


def _some_states(id: str, count: int) -> list[Command[Any]]:
    return [Pause(_ctx(f"{id}-{number}")) for number in range(count)]


def _with_checks(id: str, count: int) -> Command[Any]:
    checks = (Check(_ctx(f"{id}-missing-{number}")) for number in range(count))
    return Commit(Pause(_ctx(id)), *checks)


def _with_delays(id: str, count: int) -> Command[Any]:
    ctx = _ctx(id)
    return Commit(*(Delay(ctx, "work", after=DAY) for _ in range(count)))


LIMITS: dict[str, tuple[Make, int]] = {
    "id": (
        lambda id, size: Commit(End(_ctx(f"{id}-" + _text(size - len(id) - 1)))),
        MAX_ID_BYTES,
    ),
    "label text": (_with_label_text, MAX_ID_BYTES),
    "labels": (
        lambda id, count: Commit(End(_ctx(id, labels={str(n): "x" for n in range(count)}))),
        MAX_LABELS,
    ),
    "annotations": (
        lambda id, size: Commit(End(_ctx(id, annotations={"x": _text(size - 1)}))),
        MAX_ANNOTATIONS_BYTES,
    ),
    "transition annotations": (
        lambda id, size: Commit(End(_ctx(id), {"x": _text(size - 1)})),
        MAX_ANNOTATIONS_BYTES,
    ),
    "flow": (lambda id, size: Commit(Transit(_ctx(id), _text(size))), MAX_ID_BYTES),
    "blob": (lambda id, size: _with_data(id, [size]), MAX_BLOB_BYTES),
    "data": (lambda id, count: _with_data(id, [20] * count), MAX_DATA_PER_COMMIT),
    "states": (lambda id, count: Commit(*_some_states(id, count)), MAX_STATES_PER_COMMIT),
    "checks": (_with_checks, MAX_CHECKS_PER_COMMIT),
    "delays": (_with_delays, MAX_DELAYS_PER_COMMIT),
}


@pytest.fixture
def flows() -> FlowRegistry:
    registry = FlowRegistry()
    for flow in ("work", _text(MAX_ID_BYTES)):
        registry.declare(flow)
    return registry


async def innocent(engine: Engine) -> None:
    """Commit small states, one after the other, in tasks of their own."""
    async with asyncio.TaskGroup() as group:
        for number in range(INNOCENT):
            group.create_task(engine.do(Commit(End(_ctx(f"innocent-{number}")))))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("limit", LIMITS)
async def test_what_is_at_a_limit_is_stored_and_one_more_is_refused(
    limit: str, store: Driver, flows: FlowRegistry
) -> None:
    make, size = LIMITS[limit]
    async with Engine(store, flows) as engine:
        async with asyncio.TaskGroup() as group:
            for number in range(AT_ONCE):
                group.create_task(engine.do(make(f"large-{number}", size)))
            group.create_task(innocent(engine))
        with pytest.raises((InvalidInputError, FlowstateError)) as refused:
            await engine.do(make("larger", size + 1))
        assert isinstance(refused.value, InvalidInputError), repr(refused.value)
        await everything_is_readable(engine)


async def everything_is_readable(engine: Engine) -> None:
    log = [state async for state in engine.states()]
    assert [state.rev for state in log] == list(range(1, len(log) + 1))
    assert sum(state.id.startswith("innocent-") for state in log) == INNOCENT
    async with engine.watch(since_rev=0) as states:
        assert [(await anext(states)).rev for _ in log] == [state.rev for state in log]


@pytest.mark.timeout(300)
async def test_large_commits_fail_and_hold_up_no_small_one(
    store: Driver, flows: FlowRegistry
) -> None:
    """Commits up to the limit in bytes, several at once: each succeeds, or fails alone."""
    async with Engine(store, flows) as engine:
        sizes = [MAX_COMMIT_BYTES - 100_000, *[MAX_BLOB_BYTES] * 3]
        large = [
            asyncio.create_task(engine.do(_with_bytes(f"large-{number}", size)))
            for number, size in enumerate(sizes)
        ]
        await innocent(engine)
        outcomes = await asyncio.gather(*large, return_exceptions=True)
        assert outcomes == [None] * len(large)
        with pytest.raises(InvalidInputError):
            await engine.do(_with_bytes("larger", MAX_COMMIT_BYTES + 1))
        await everything_is_readable(engine)


async def test_pages_are_bounded_in_bytes(store: Driver, flows: FlowRegistry) -> None:
    """Large states come on several pages, none much larger than the limit."""
    size, count = MAX_ANNOTATIONS_BYTES - 1, 24
    async with Engine(store, flows) as engine:
        for number in range(count):
            ctx = _ctx(f"large-{number}", annotations={"x": "x" * size})
            await engine.do(Commit(End(ctx)))
        found: list[int] = []
        command = GetStates(limit=1_000)
        while True:
            page = await engine.do(command)
            found += [state.rev for state in page.states]
            if not store.stores_objects:
                assert len(page.states) * size <= MAX_PAGE_BYTES + 2 * size
            if not page.more:
                break
            command = page.next
        assert found == list(range(1, count + 1))


async def test_the_alternatives_of_a_filter_are_bounded(store: Driver, flows: FlowRegistry) -> None:
    async with Engine(store, flows) as engine:
        labels = [{"kind": f"{number}"} for number in range(MAX_ALTERNATIVES)]
        await engine.do(Commit(End(_ctx("a", labels={"kind": "99"}))))
        for query in all_filters(labels):
            assert len((await engine.do(query)).states) == 1
        with pytest.raises(InvalidInputError):
            await engine.get_states(labels=[*labels, {"kind": "x"}])


def all_filters(labels: list[dict[str, str]]) -> Iterator[GetStates]:
    yield GetStates(labels)
    yield GetStates(labels, latest_only=True)
    yield GetStates(labels, since_latest=True)


async def test_the_aliases_of_a_state_are_bounded(store: Driver, flows: FlowRegistry) -> None:
    async with Engine(store, flows) as engine:
        ctx = _ctx("a")
        for start in range(0, MAX_ALIASES, MAX_DATA_PER_COMMIT):
            aliases = [f"{number}" for number in range(start, start + MAX_DATA_PER_COMMIT)]
            ctx.data.update((alias, Data(alias.encode())) for alias in aliases)
            await engine.do(Commit(Pause(ctx), *(StoreData(ctx, alias) for alias in aliases)))
        ctx.data["more"] = Data(b"more")
        with pytest.raises(InvalidInputError):
            await engine.do(Commit(Pause(ctx), StoreData(ctx, "more")))
        assert len((await engine.get_state("a")).data) == MAX_ALIASES
