"""What a watch, a page or an execution holds in memory is bounded, and given back."""

import asyncio
import gc
import tracemalloc
from pathlib import Path

import pytest

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FlowRegistry,
    Pause,
    State,
    StateContext,
    Transition,
)
from flowstate.drivers.memory import MemoryDriver
from tests.world.places import Place

MIB = 1024 * 1024
REVISION = 100 * 1024
NUMBER = 1_500  # Revisions, of 150 MB.


async def fill(engine: Engine, number: int) -> None:
    text = "x" * REVISION
    for start in range(0, number, 50):
        contexts = [
            StateContext(State(f"{n}", annotations={"text": f"{text}{n}"}))
            for n in range(start, min(start + 50, number))
        ]
        await engine.do(Commit(*map(Pause, contexts)))


def held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.slow
async def test_slow_consumers_hold_a_bounded_number_of_bytes(tmp_path: Path) -> None:
    place = Place("sqlite", str(tmp_path / "store.db"))
    tracemalloc.start()
    try:
        async with Engine(place.driver(synchronous="NORMAL"), FlowRegistry()) as engine:
            before = held()
            async with engine.watch() as first, engine.watch() as second:
                watches = first, second
                await engine.do(Commit(Pause(StateContext(State("first")))))
                for watch in watches:
                    await anext(watch)
                await fill(engine, NUMBER)
                assert held() - before < 64 * MIB + 2 * 8 * MIB + 8 * MIB
                for watch in watches:
                    for number in range(NUMBER):
                        assert (await anext(watch)).id == f"{number}"
            await asyncio.sleep(0)
            del watch, watches, first, second
            assert held() - before < 8 * MIB
            tracemalloc.reset_peak()
            page = await engine.get_states(limit=1_000)
            assert page.more
            assert tracemalloc.get_traced_memory()[1] - before < 64 * MIB
            assert held() - before < 24 * MIB
            del page
            await asyncio.sleep(0.05)  # reason: the reader has to let go of it, too
            assert held() - before < 8 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("place", ["postgres", "redis"], indirect=True)
@pytest.mark.slow
async def test_a_watch_that_comes_late_reads_on_in_bounded_pages(place: Place) -> None:
    async with Engine(place.driver(), FlowRegistry()) as engine:
        await fill(engine, 600)
        tracemalloc.start()
        try:
            before = held()
            async with engine.watch() as states:
                for number in range(600):
                    assert (await anext(states)).id == f"{number}"
            assert tracemalloc.get_traced_memory()[1] - before < 48 * MIB
            assert held() - before < 8 * MIB
        finally:
            tracemalloc.stop()


def contexts() -> int:
    return sum(type(each) is StateContext for each in gc.get_objects())


async def test_an_execution_that_is_over_waits_for_no_garbage_collector() -> None:
    flows = FlowRegistry()

    @flows.flow("end")
    async def end(ctx: StateContext, engine: Engine) -> Command:
        return Commit(End(ctx))

    async with Engine(MemoryDriver(), flows) as engine:
        gc.collect()
        gc.disable()
        try:
            before = contexts()
            for number in range(10):
                state = State(f"{number}", transition=Transition("end"))
                await engine.execute(StateContext(state))
            assert contexts() == before
        finally:
            gc.enable()
