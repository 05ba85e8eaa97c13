"""``start``: one revision, and the state is executed: here, or by another engine."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstate import (
    Command,
    Commit,
    Delayer,
    End,
    Engine,
    EngineStoppedError,
    FakeClock,
    FlowRegistry,
    InvalidInputError,
    Noop,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    Status,
    Transit,
    UnknownFlowError,
)
from flowstate.drivers.memory import MemoryDriver
from tests.scripted import Scripted, settled

Seen = dict[str, Any]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> Scripted:
    return Scripted(MemoryDriver(clock))


@pytest.fixture
def seen() -> Seen:
    """What the flow has seen of its context."""
    return {}


@pytest.fixture
def flows(seen: Seen) -> FlowRegistry:
    flows = FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        transition = ctx.current.transition
        assert ctx.current.id not in seen, "it runs twice"
        seen[ctx.current.id] = {
            "engine": engine.name,
            "rev": ctx.committed.rev,
            "step": (transition.to, transition.cause, dict(transition.annotations)),
            "key": ctx.effect_key,
            "is delayed": ctx.delayed,
        }
        return Commit(End(ctx))

    return flows


@pytest.fixture
def only_names() -> FlowRegistry:
    flows = FlowRegistry()
    flows.declare("work")
    return flows


@pytest.fixture
async def engine(driver: Scripted, flows: FlowRegistry, clock: FakeClock) -> AsyncIterator[Engine]:
    async with Engine(driver, flows, clock=clock, name="here") as engine:
        yield engine


def new(id: str = "a", **state: Any) -> StateContext:
    return StateContext(State(id, **state))


def expected(engine: str, rev: int = 1, id: str = "a", **annotations: str) -> Seen:
    return {
        "engine": engine,
        "rev": rev,
        "step": ("work", "transit", annotations),
        "key": f"{id}:{rev}:work",
        "is delayed": False,
    }


async def ended(engine: Engine, id: str = "a") -> State:
    return await engine.wait_for(id, status=Status.ENDED)


async def test_it_is_committed_and_executed_here(engine: Engine, seen: Seen) -> None:
    ctx = new()
    await engine.start(ctx, "work", {"why": "x"})
    assert (ctx.committed.rev, ctx.current.transition.to) == (1, "work")
    assert (await ended(engine)).rev == 2
    assert seen == {"a": expected("here", why="x")}


async def test_without_a_flow_it_is_the_one_that_the_working_copy_is_in(
    engine: Engine, seen: Seen
) -> None:
    not_committed = new("a")
    await engine.do(Transit(not_committed, "work", {"why": "x", "who": "y"}))
    await engine.start(not_committed, annotations={"who": "z"})
    paused = new("b")
    await engine.do(Commit(Transit(paused, "work", {"why": "x"})))
    await engine.do(Commit(Pause(paused, {"why": "y"})))
    rev = paused.committed.rev + 1
    await engine.start(paused)
    await asyncio.gather(ended(engine, "a"), ended(engine, "b"))
    assert seen["a"] == expected("here", seen["a"]["rev"], why="x", who="z")
    assert seen["b"]["step"] == ("work", "transit", {})
    assert seen["b"]["rev"] >= rev


async def test_an_engine_without_the_flow_leaves_it_to_one_that_has_it(
    driver: Scripted, engine: Engine, only_names: FlowRegistry, clock: FakeClock, seen: Seen
) -> None:
    async with Engine(driver, only_names, clock=clock) as other, Delayer(engine), Delayer(other):
        ctx = new()
        await other.start(ctx, "work", {"why": "x"})
        assert ctx.committed.rev == 1
        last = await ended(other)
    assert (last.rev, last.transition.origin, await engine.head()) == (2, "1", 2)
    assert seen == {"a": expected("here", why="x")}
    assert list((await engine.get_delayed_states()).delayed) == []


async def test_it_can_be_left_to_others_in_any_case(engine: Engine, seen: Seen) -> None:
    await engine.start(new(), "work", elsewhere=True)
    await settled()
    assert (seen, len((await engine.get_delayed_states()).delayed)) == ({}, 1)
    async with Delayer(engine):
        await ended(engine)
    assert seen == {"a": expected("here")}


async def test_a_flow_of_an_engine_that_stops_leaves_it_to_others(
    driver: Scripted, flows: FlowRegistry, clock: FakeClock, engine: Engine, seen: Seen
) -> None:
    stopping = FlowRegistry()
    stopping.set("work", flows.runnable("work").call)  # type: ignore[arg-type]

    @stopping.flow("parent")
    async def parent(ctx: StateContext, engine: Engine) -> Command[None]:
        await ctx.wait_stopping()
        await engine.start(new("a"), "work")
        return Commit(End(ctx))

    async with Engine(driver, stopping, clock=clock) as other:
        await other.start(new("parent"), "parent")
    assert (seen, (await engine.get_state("parent")).status) == ({}, Status.ENDED)
    async with Delayer(engine):
        await ended(engine)
    assert seen["a"]["engine"] == "here"


async def test_a_flow_in_a_full_engine_leaves_it_to_others(
    driver: Scripted, flows: FlowRegistry, clock: FakeClock, engine: Engine, seen: Seen
) -> None:
    done = asyncio.Event()

    @flows.flow("parent")
    async def parent(ctx: StateContext, engine: Engine) -> Command[None]:
        await engine.start(new("a"), "work")
        done.set()
        await asyncio.Event().wait()
        return Noop()

    full = Engine(driver, flows, clock=clock, max_executions=1, max_pending=0, shutdown_timeout=0.0)
    async with full, Delayer(engine):
        await full.start(new("parent"), "parent")
        await done.wait()
        await ended(engine)
    assert seen["a"] == expected("here", 2)


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_after_its_commit_it_is_left_to_others(
    driver: Scripted, engine: Engine, seen: Seen, times: int
) -> None:
    driver.verdicts = asyncio.Event()
    ctx = new()
    starting = asyncio.create_task(engine.start(ctx, "work"))
    await driver.reached.wait()
    starting.cancel()
    await settled()
    driver.verdicts.set()
    await asyncio.wait([starting])
    assert (starting.cancelled(), ctx.committed.rev, seen) == (True, 1, {})
    async with Delayer(engine):
        await ended(engine)
    assert seen == {"a": expected("here")}


async def test_cancelled_while_it_waits_for_room_it_is_left_to_others(
    driver: Scripted, flows: FlowRegistry, clock: FakeClock, engine: Engine, seen: Seen
) -> None:
    @flows.flow("busy")
    async def busy(ctx: StateContext, engine: Engine) -> Command[None]:
        await asyncio.Event().wait()
        return Noop()

    full = Engine(driver, flows, clock=clock, max_executions=1, max_pending=0, shutdown_timeout=0.0)
    async with full, Delayer(engine):
        await full.start(new("busy"), "busy")
        starting = asyncio.create_task(full.start(new(), "work"))
        await settled()
        assert not starting.done()
        starting.cancel()
        await asyncio.wait([starting])
        await ended(engine)
    assert (starting.cancelled(), seen["a"]["engine"]) == (True, "here")


async def test_what_loses_its_race_is_not_executed(engine: Engine, seen: Seen) -> None:
    ctx = new()
    await engine.do(Commit(Pause(ctx.copy())))
    for elsewhere in (False, True):
        with pytest.raises(RevisionMismatchError):
            await engine.start(ctx, "work", elsewhere=elsewhere)
    await engine.idle()
    assert (seen, await engine.head(), ctx.committed.rev) == ({}, 1, 0)


async def test_what_is_refused_is_not_committed(engine: Engine) -> None:
    refusals: list[tuple[type[Exception], Any, Any]] = [
        (UnknownFlowError, new(), "unknown"),
        (InvalidInputError, new(), None),
        (InvalidInputError, new(), 5),
        (InvalidInputError, new(labels={"a": "\0"}), "work"),
        (InvalidInputError, State("a"), "work"),
    ]
    for error, ctx, to in refusals:
        for elsewhere in (False, True):
            with pytest.raises(error):
                await engine.start(ctx, to, elsewhere=elsewhere)
    assert await engine.head() == 0


async def test_an_engine_that_is_not_open_starts_nothing(flows: FlowRegistry) -> None:
    with pytest.raises(EngineStoppedError):
        await Engine(MemoryDriver(), flows).start(new(), "work")
