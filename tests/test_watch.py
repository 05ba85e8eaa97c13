"""Watches: what is damaged, whose they are, and how far they have come."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator

import pytest

from flowstate import (
    Engine,
    EngineStoppedError,
    FlowRegistry,
    InvalidCommandError,
    InvalidInputError,
)
from flowstate.errors import DamagedRevisionError
from tests.scripted import Scripted, pause, settled, turns_until


@pytest.fixture
def driver() -> Scripted:
    return Scripted()


@pytest.fixture
async def engine(driver: Scripted) -> AsyncIterator[Engine]:
    async with Engine(driver, FlowRegistry()) as engine:
        yield engine


# Damage


@pytest.mark.parametrize("how", ["from the log", "live", "live from others"])
async def test_a_damaged_revision_is_raised_in_its_place_and_hides_nothing(
    driver: Scripted, engine: Engine, how: str
) -> None:
    driver.damaged = {3}
    async with Engine(Scripted(driver._driver), FlowRegistry()) as other, engine.watch() as states:
        writer = other if how != "live" else engine
        waiting = asyncio.create_task(anext(states)) if how != "from the log" else None
        await settled()
        for number in range(1, 6):
            await pause(writer, str(number))
        if waiting is not None and how == "live":
            # What this process has committed is whole.
            assert [(await waiting).rev] == [1]
            assert [(await anext(states)).rev for _ in range(4)] == [2, 3, 4, 5]
            return
        got = [(await waiting).rev if waiting else (await anext(states)).rev]
        got.append((await anext(states)).rev)
        with pytest.raises(DamagedRevisionError, match="on purpose") as raised:
            await anext(states)
        assert (raised.value.rev, raised.value.id, got) == (3, "of 3", [1, 2])
        assert states.cursor in {3, 5}
        assert [(await anext(states)).rev for _ in range(2)] == [4, 5]
        await pause(writer, "6")
        assert (await anext(states)).rev == 6
        async with engine.watch(since_rev=raised.value.rev) as again:
            assert (await anext(again)).rev == 4


@pytest.mark.parametrize("is_named", [False, True])
async def test_a_watch_by_labels_hears_of_damage_that_the_store_finds_by_them(
    driver: Scripted, engine: Engine, is_named: bool
) -> None:
    driver.damaged = {2}
    driver.labelled = {2} if is_named else set()
    async with (
        Engine(Scripted(driver._driver), FlowRegistry()) as other,
        engine.watch(labels={"kind": "a"}) as states,
    ):
        waiting = asyncio.create_task(anext(states))
        await settled()
        for number in range(1, 5):
            await pause(other, str(number), kind="a" if number in {1, 4} else "b")
            await settled()
        assert (await waiting).rev == 1
        if is_named:
            with pytest.raises(DamagedRevisionError, match="on purpose"):
                await anext(states)
        assert (await anext(states)).rev == 4
        await pause(other, "5", kind="a")
        assert (await anext(states)).rev == 5


async def test_an_iteration_over_pages_raises_what_is_damaged_in_its_place(
    driver: Scripted, engine: Engine
) -> None:
    for number in range(1, 6):
        await pause(engine, str(number))
    driver.damaged = {3}
    states = engine.states()
    assert [(await anext(states)).rev for _ in range(2)] == [1, 2]
    with pytest.raises(DamagedRevisionError) as raised:
        await anext(states)
    assert [s.rev async for s in engine.states(since_rev=raised.value.rev)] == [4, 5]


# Whose a watch is


async def test_a_watch_is_refused_to_a_second_task(engine: Engine) -> None:
    async with engine.watch() as states:
        first = asyncio.create_task(anext(states))
        await settled()
        with pytest.raises(InvalidCommandError, match="another task"):
            await anext(states)
        await pause(engine, "a")
        assert (await first).rev == 1


async def test_tasks_that_take_turns_get_each_revision_once(engine: Engine) -> None:
    for number in range(300):
        await pause(engine, str(number))
    got: list[int] = []
    async with engine.watch() as states:

        async def take() -> None:
            with contextlib.suppress(InvalidCommandError):
                async for state in states:
                    got.append(state.rev)
                    await asyncio.sleep(0)  # reason: lets the others take some

        tasks = [asyncio.create_task(take()) for _ in range(3)]
        await turns_until(lambda: len(got) == 300)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    assert sorted(got) == list(range(1, 301))


async def test_a_watch_belongs_to_the_event_loop_of_its_engine(engine: Engine) -> None:
    states = engine.watch()
    caught: list[BaseException] = []

    def elsewhere() -> None:
        try:
            asyncio.run(states.__aenter__())
        except InvalidInputError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    await asyncio.to_thread(thread.join)
    assert [str(error) for error in caught] == ["engine: is open in another event loop"]


async def test_the_cursor_passes_what_does_not_match(engine: Engine) -> None:
    async with engine.watch(labels={"kind": "a"}) as states:
        waiting = asyncio.create_task(anext(states))
        await settled()
        for number in range(1, 4):
            await pause(engine, str(number), kind="b")
        await settled()
        assert states.cursor == 3
        await pause(engine, "4", kind="a")
        await pause(engine, "5", kind="a")
        assert (await waiting).rev == 4
        assert states.cursor == 4
        assert (await anext(states)).rev == 5
        await pause(engine, "6", kind="b")
    assert states.cursor == 6


async def test_a_watch_that_was_left_raises_in_a_task_that_still_waits(engine: Engine) -> None:
    async with engine.watch() as states:
        waiting = asyncio.create_task(anext(states))
        await settled()
    with pytest.raises(EngineStoppedError):
        await waiting
