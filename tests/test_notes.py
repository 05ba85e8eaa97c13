"""Heartbeats carry a note of who executes a state, and of why it failed."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from flowstate import (
    Command,
    Engine,
    Execute,
    FakeClock,
    FlowRegistry,
    StateContext,
)
from flowstate.executions.execution import Note, read_note
from flowstate.ground.limits import MAX_NOTE_BYTES
from tests.heartbeats import Recorder, committed


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def driver(clock: FakeClock) -> Recorder:
    return Recorder(clock)


@pytest.fixture
async def engine(driver: Recorder, clock: FakeClock) -> AsyncIterator[Engine]:
    async with Engine(driver, FlowRegistry(), clock=clock, name="here") as engine:
        yield engine


async def test_why_it_failed_is_noted(engine: Engine, driver: Recorder) -> None:
    @engine.flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        raise ValueError("no " + "luck " * 10_000)

    ctx = await committed(engine)
    (before,) = await driver.get_liveness(["a"])
    await engine.do(Execute(ctx))
    await engine.idle()
    while not driver.beats:  # noqa: ASYNC110 - it is sent by a task that cannot be waited for
        await asyncio.sleep(0)  # reason: that task needs its turn
    (found,) = await driver.get_liveness(["a"])
    assert found is not None
    assert before is not None
    assert found.stalls_at == before.stalls_at
    note = read_note(found.note)
    assert (note.engine, note.seconds) == ("here", None)
    assert note.error.startswith("ValueError: no luck")
    assert len(found.note.encode()) <= MAX_NOTE_BYTES


async def test_failures_are_noted_before_the_engine_closes(
    driver: Recorder, clock: FakeClock
) -> None:
    flows = FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        raise ValueError(ctx.current.id)

    async with Engine(driver, flows, clock=clock) as engine:
        for number in range(10):
            await engine.do(Execute(await committed(engine, str(number))))
    assert {read_note(beat.note).error for beat in driver.beats} == {
        f"ValueError: {number}" for number in range(10)
    }


def test_any_error_can_be_noted() -> None:
    for text in ("\ud800", "\0" * 10_000, "\U0001f600" * 10_000, '"\\' * 10_000):
        note = Note.of_failure("here", ValueError(text)).encode()
        assert len(note.encode()) <= MAX_NOTE_BYTES
        assert read_note(note).error.startswith("ValueError: ")


@pytest.mark.parametrize("text", ["", "x", "[]", '{"seconds": "x"}', "[" * 100_000])
def test_odd_notes_are_empty(text: str) -> None:
    assert read_note(text) == Note()
