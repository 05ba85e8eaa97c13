"""Messages while commits are lost, callers are cancelled, processes die, and all by chance."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from flowstate import (
    Command,
    Commit,
    CommitUnknownError,
    Delay,
    Delayer,
    End,
    Engine,
    EngineStoppedError,
    FakeClock,
    FlowRegistry,
    Receive,
    RevisionMismatchError,
    SetTimer,
    State,
    StateContext,
    Status,
    runtime,
)
from flowstate.driver import Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.testing import explore_crashes
from flowstate.turns import Turns, turns_of
from tests.receivers import BOX, begun, paused, received, receiving
from tests.scripted import Scripted, settled


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> Scripted:
    return Scripted(MemoryDriver(clock))


@pytest.fixture
def got() -> list[tuple[str, Any]]:
    """Names and values of the messages with which the flow ``next`` was entered."""
    return []


@pytest.fixture
def flows(got: list[tuple[str, Any]]) -> FlowRegistry:
    return receiving(got)


@pytest.fixture
async def engine(driver: Scripted, flows: FlowRegistry, clock: FakeClock) -> AsyncIterator[Engine]:
    async with Engine(driver, flows, clock=clock, rng=Random(1)) as engine:
        yield engine
        assert turns_of(driver.store_id)._lines == {}


# Races within one process, unknown outcomes, and cancellation


class Troubled(Scripted):
    """A driver with trouble.

    Attributes:
        after_reading: is awaited once, after the mailbox was read.
        loses: whether it commits without finding out that it has.
    """

    after_reading: Callable[[], Awaitable[object]] | None = None
    loses = False

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        found = await super().get_state(id, rev)
        if id == BOX and self.after_reading is not None:
            do, self.after_reading = self.after_reading, None
            await do()
        return found

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        verdicts = await super().commit(batch)
        return [CommitUnknownError("t")] if self.loses else verdicts


@pytest.mark.parametrize("kept", [0, 1])
async def test_a_race_with_the_mailbox_alone_ends_no_execution(
    flows: FlowRegistry,
    clock: FakeClock,
    got: list[tuple[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    kept: int,
) -> None:
    monkeypatch.setattr(runtime, "turns_of", lambda _: Turns())  # As of other processes.
    driver = Troubled(MemoryDriver(clock))
    async with (
        Engine(driver, flows, clock=clock) as engine,
        Engine(driver._driver, FlowRegistry(), clock=clock) as other,
    ):
        for value in range(kept):
            await other.signal("a", "m", value, early=True)
        driver.after_reading = lambda: other.signal("a", "n", 5)
        await engine.start(StateContext(State("a")), "wait")
        await engine.wait_for("a", until=lambda state: state.status is Status.PAUSED)
        assert driver.after_reading is None
        history = [state async for state in engine.history("a")]
    assert got == [*[("m", value) for value in range(kept)], ("n", 5)]
    assert [state.transition.cause for state in history] == [
        "transit",
        *["signal"] * (kept + 1),
        "pause",
    ]


async def test_an_unknown_outcome_is_told_and_a_key_makes_it_safe_to_ask_again(
    clock: FakeClock, flows: FlowRegistry
) -> None:
    driver = Troubled(MemoryDriver(clock))
    async with Engine(driver, flows, clock=clock) as engine:
        await begun(engine)
        driver.loses = True
        with pytest.raises(CommitUnknownError):
            await engine.signal("a", "m", 1, key="k")
        driver.loses = False
        assert not await engine.signal("a", "m", 1, key="k")
        assert await received(engine) == [("m", 1)]


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_after_its_delivery_the_receiver_goes_on_elsewhere(
    driver: Scripted, engine: Engine, got: list[tuple[str, Any]], times: int
) -> None:
    await engine.start(StateContext(State("a")), "wait")
    await paused(engine)
    driver.verdicts = asyncio.Event()
    sent = asyncio.create_task(engine.signal("a", "m", 1))
    await driver.reached.wait()
    for _ in range(times):
        sent.cancel()
        await settled()
    driver.verdicts.set()
    await asyncio.wait([sent])
    assert sent.cancelled()
    if times == 1:  # A second cancellation does not wait, and leaves the rest to recovery.
        async with Delayer(engine):
            await engine.wait_for("a", until=lambda s: s.status is Status.PAUSED and s.rev > 3)
        assert got == [("m", 1)]
    else:
        assert (await engine.get_state("a")).transition.cause == "signal"


async def test_cancelled_before_its_turn_it_is_not_sent(driver: Scripted, engine: Engine) -> None:
    await begun(engine)
    driver.verdicts = asyncio.Event()
    first = asyncio.create_task(engine.signal("a", "m", 1))
    await driver.reached.wait()
    second = asyncio.create_task(engine.signal("a", "m", 2))
    await settled()
    second.cancel()
    await asyncio.wait([second])
    driver.verdicts.set()
    assert await first
    assert await received(engine) == [("m", 1)]


async def test_an_engine_that_has_stopped_sends_nothing(driver: Scripted) -> None:
    async with Engine(driver, FlowRegistry()) as engine:
        pass
    with pytest.raises(EngineStoppedError):
        await engine.signal("a", "m", 1)


# Crashes and chance


class World:
    """What was done with messages, by the key of the step that did it."""

    def __init__(self) -> None:
        self.effects: dict[str, int] = {}


def make_flows(world: World) -> FlowRegistry:
    flows = FlowRegistry()

    @flows.flow("collect")
    async def collect(ctx: StateContext, engine: Engine) -> Command[None]:
        late = SetTimer(ctx, "late", "give up", after=timedelta(days=1))
        return Commit(Receive(ctx, "item", to="add"), late)

    @flows.flow("add")
    async def add(ctx: StateContext, engine: Engine) -> Command[None]:
        item = ctx.get(int, "item")
        world.effects[ctx.effect_key] = item
        items = [*ctx.get(list[int], "items", default=[]), item]
        ctx.put(items, "items")
        ctx.set_annotation("items", str(sorted(items)))
        if len(items) == 3:
            return Commit(End(ctx))
        return Commit(Receive(ctx, "item", to="add"))

    @flows.flow("give up")
    async def give_up(ctx: StateContext, engine: Engine) -> Command[None]:
        raise AssertionError("every item came in time")

    return flows


async def send_three(engine: Engine, world: World) -> None:
    with contextlib.suppress(RevisionMismatchError):  # It was started before the crash.
        await engine.start(StateContext(State("a")), "collect")
    for item in range(3):
        await engine.signal("a", "item", item, key=f"{item}")


@pytest.mark.slow
def test_a_crash_anywhere_neither_misses_nor_doubles_a_message() -> None:
    explored = explore_crashes(
        World,
        make_flows,
        send_three,
        outside=lambda world: sorted(world.effects.values()),
        crashes=2,
        max_runs=400,
    )
    assert explored.runs >= 100


def receiving_by_chance(rng: Random, came: list[int]) -> FlowRegistry:
    """Return flows that note what they receive, and sometimes sleep before they receive again."""
    flows = FlowRegistry()

    @flows.flow("receive")
    async def receive(ctx: StateContext, engine: Engine) -> Command[None]:
        if ctx.signal:
            came.append(ctx.get(int, "m"))
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)  # reason: lets the others go on
        if rng.random() < 0.2:
            return Commit(Delay(ctx, "rested", after=timedelta(seconds=rng.random())))
        return Commit(Receive(ctx, "m", to="receive"))

    @flows.flow("rested")
    async def rested(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(Receive(ctx, "m", to="receive"))

    return flows


async def send_by_chance(rng: Random, engine: Engine, values: list[int]) -> None:
    for value in values:
        await asyncio.sleep(0)  # reason: lets the others go on
        key = f"{value}" if value % 3 else None
        assert await engine.signal(f"{value % 4}", "m", value, key=key)
        if key is not None and rng.random() < 0.3:
            assert not await engine.signal(f"{value % 4}", "m", value, key=key)


@pytest.mark.parametrize("apart", [False, True], ids=["one process", "two processes"])
@pytest.mark.parametrize("seed", range(8))
async def test_chance_neither_misses_nor_doubles_a_message(
    driver: Scripted, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, seed: int, apart: bool
) -> None:
    if apart:
        monkeypatch.setattr(runtime, "turns_of", lambda _: Turns())
    rng, came, values = Random(seed), list[int](), list(range(200))
    rng.shuffle(values)
    flows = receiving_by_chance(rng, came)
    async with (
        Engine(driver, flows, clock=clock, rng=rng) as engine,
        Engine(Scripted(driver._driver), flows, clock=clock, rng=rng) as other,
        Delayer(engine),
        Delayer(other),
    ):
        for id in range(4):
            await engine.start(StateContext(State(f"{id}")), "receive")
        engines = (engine, other)
        sending = [send_by_chance(rng, engines[n % 2], values[n::8]) for n in range(8)]
        await asyncio.gather(*sending)
        while len(came) < len(values):
            await clock.sleep(1.0)
    assert sorted(came) == list(range(200))
