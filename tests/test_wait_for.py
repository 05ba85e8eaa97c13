"""``wait_for``: what it returns, what it raises, what it leaves behind, and what it costs."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstate import (
    Commit,
    DamagedRevisionError,
    End,
    Engine,
    EngineStoppedError,
    FakeClock,
    FlowRegistry,
    Forget,
    InvalidInputError,
    Pause,
    Resume,
    State,
    StateContext,
    Status,
    StoreUnavailableError,
)
from flowstate.driver import StateQuery, States
from flowstate.drivers.memory import MemoryDriver
from flowstate.log.log_tail import tail_of
from tests.scripted import Scripted, pause, settled, turns_until

WAITERS = 10_000


@pytest.fixture
def driver() -> Scripted:
    return Scripted()


@pytest.fixture
async def engine(driver: Scripted) -> AsyncIterator[Engine]:
    async with Engine(driver, FlowRegistry(), clock=FakeClock()) as engine:
        yield engine


async def paused(engine: Engine, id: str, **labels: str) -> StateContext:
    ctx = StateContext(State(id, labels=labels))
    await engine.do(Commit(Pause(ctx)))
    return ctx


def is_ended(state: State) -> bool:
    return state.status is Status.ENDED


# What it returns


async def test_what_is_as_wanted_already_costs_one_read(driver: Scripted, engine: Engine) -> None:
    ctx = await paused(engine, "a")
    await engine.do(Commit(End(ctx)))
    driver.pages = 0
    found = await engine.wait_for("a", status=Status.ENDED)
    assert (found, driver.pages, tail_of(driver).watches) == (ctx.committed, 1, {})


async def test_a_missing_state_is_waited_for(engine: Engine) -> None:
    waiting = asyncio.create_task(engine.wait_for("a", status=Status.PAUSED))
    await settled()
    await paused(engine, "b")
    await settled()
    assert not waiting.done()
    ctx = await paused(engine, "a")
    assert await waiting == ctx.committed


async def test_each_revision_from_the_latest_on_is_asked_about_in_order(engine: Engine) -> None:
    ctx = await paused(engine, "a")
    for _ in range(2):
        await engine.do(Commit(Resume(ctx)))
        await engine.do(Commit(Pause(ctx)))
    asked: list[int] = []

    def is_seventh(state: State) -> bool:
        asked.append(state.rev)
        return state.rev == 7

    waiting = asyncio.create_task(engine.wait_for("a", until=is_seventh))
    await turns_until(lambda: asked == [5])
    for _ in range(4):  # What has passed by the time that it is looked at is found all the same.
        await engine.do(Commit(Pause(ctx)))
    assert (await waiting).rev == 7
    assert asked == [5, 6, 7]


async def test_what_was_forgotten_before_is_not_there(engine: Engine) -> None:
    ctx = await paused(engine, "a")
    await engine.do(Commit(End(ctx), Forget(ctx)))
    waiting = asyncio.create_task(engine.wait_for("a", status=Status.ENDED))
    await settled()
    assert not waiting.done()
    ctx = await paused(engine, "a")
    await engine.do(Commit(End(ctx)))
    assert await waiting == ctx.committed


async def test_what_is_forgotten_in_the_commit_that_ends_it_is_found(engine: Engine) -> None:
    ctx = await paused(engine, "a")
    waiting = asyncio.create_task(engine.wait_for("a", status=Status.ENDED))
    await settled()
    await engine.do(Commit(End(ctx), Forget(ctx)))
    assert ((await waiting).rev, (await waiting).transition.cause) == (2, "forget")


async def test_what_others_commit_is_found(driver: Scripted, engine: Engine) -> None:
    async with Engine(Scripted(driver._driver), FlowRegistry()) as other:
        waiting = asyncio.create_task(engine.wait_for("a", status=Status.ENDED))
        await settled()
        ctx = await paused(other, "a")
        await other.do(Commit(End(ctx)))
        assert await waiting == ctx.committed


# What it raises


async def test_the_time_out_is_by_the_clock_of_the_engine(engine: Engine) -> None:
    ctx = await paused(engine, "a")
    before = engine.clock.monotonic()
    with pytest.raises(TimeoutError, match="'a' was not as wanted within 259200 seconds"):
        await engine.wait_for("a", status=Status.ENDED, timeout=3 * 86_400.0)
    assert engine.clock.monotonic() - before == 3 * 86_400.0
    assert tail_of(engine.driver).watches == {}
    await engine.do(Commit(End(ctx)))
    assert (await engine.wait_for("a", until=is_ended, timeout=1.0)).rev == 2


async def test_no_time_at_all_looks_at_what_is_stored(engine: Engine) -> None:
    with pytest.raises(TimeoutError, match="'a' was not as wanted within 0 seconds"):
        await engine.wait_for("a", status=Status.PAUSED, timeout=0)
    ctx = await paused(engine, "a")
    assert (await engine.wait_for("a", status=Status.PAUSED, timeout=0)) == ctx.committed
    with pytest.raises(TimeoutError, match="'a' was not as wanted within 0 seconds"):
        await engine.wait_for("a", status=Status.ENDED, timeout=0)


@pytest.mark.parametrize("seconds", [None, 5.0])
async def test_a_damaged_revision_is_raised(
    driver: Scripted, engine: Engine, seconds: float | None
) -> None:
    await paused(engine, "a")
    driver.damaged = {1}
    with pytest.raises(DamagedRevisionError) as raised:
        await engine.wait_for("a", status=Status.ENDED, timeout=seconds)
    assert raised.value.rev == 1


@pytest.mark.parametrize("seconds", [None, 5.0])
async def test_an_engine_that_stops_ends_the_wait(seconds: float | None) -> None:
    async with Engine(MemoryDriver(), FlowRegistry(), clock=FakeClock(autojump=False)) as engine:
        wait = engine.wait_for("a", status=Status.ENDED, timeout=seconds)
        waiting = asyncio.create_task(wait)
        await settled()
    with pytest.raises(EngineStoppedError):
        await waiting
    with pytest.raises(EngineStoppedError):
        await engine.wait_for("a", status=Status.ENDED)


async def test_an_engine_that_stops_ends_those_that_have_not_looked_yet(driver: Scripted) -> None:
    driver.after = held = asyncio.Event()
    async with Engine(driver, FlowRegistry()) as engine:
        waits = [
            asyncio.create_task(engine.wait_for(str(number), status=Status.ENDED))
            for number in range(1_000)
        ]
        await driver.reached.wait()
        await settled()
        driver.pages = 0
        asyncio.get_running_loop().call_later(0.01, held.set)
    found = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(each) for each in found} == {EngineStoppedError}
    assert driver.pages == 0


async def test_those_that_begin_at_once_read_a_few_at_a_time(
    driver: Scripted, engine: Engine
) -> None:
    reading = most = 0
    get_states = driver.get_states

    async def counting(query: StateQuery) -> States:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await asyncio.sleep(0)  # reason: lets the others begin
        page = await get_states(query)
        reading -= 1
        return page

    driver.get_states = counting  # type: ignore[method-assign]
    waits = [engine.wait_for(str(number), until=bool) for number in range(100)]
    waiting = asyncio.gather(*waits)
    await turns_until(lambda: len(tail_of(driver)._topics) == 100)
    for number in range(100):
        await pause(engine, str(number))
    await waiting
    assert most == 16


async def test_a_store_that_fails_ends_the_wait(driver: Scripted, engine: Engine) -> None:
    waiting = asyncio.create_task(engine.wait_for("a", status=Status.ENDED))
    await settled()
    driver.error = StoreUnavailableError("on purpose")
    driver.nudge()
    with pytest.raises(StoreUnavailableError, match="on purpose"):
        await waiting


async def test_what_the_function_raises_is_raised(engine: Engine) -> None:
    await paused(engine, "a")
    with pytest.raises(ZeroDivisionError):
        await engine.wait_for("a", until=lambda state: 1 / (state.rev - 1))
    assert tail_of(engine.driver).watches == {}


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("id", {"id": "", "status": Status.ENDED}),
        ("id", {"id": 5, "status": Status.ENDED}),
        ("until", {}),
        ("until", {"status": Status.ENDED, "until": is_ended}),
        ("until", {"until": "ended"}),
        ("status", {"status": "ended"}),
        ("timeout", {"status": Status.ENDED, "timeout": -1}),
        ("timeout", {"status": Status.ENDED, "timeout": float("nan")}),
        ("timeout", {"status": Status.ENDED, "timeout": "1"}),
    ],
)
async def test_bad_arguments_are_refused(
    engine: Engine, field: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await engine.wait_for(**{"id": "a", **arguments})
    assert caught.value.field == field


# What it leaves behind, and what it costs


@pytest.mark.parametrize("seconds", [None, 5.0])
async def test_a_wait_that_is_cancelled_leaves_nothing(seconds: float | None) -> None:
    clock = FakeClock(autojump=False)
    async with Engine(MemoryDriver(), FlowRegistry(), clock=clock) as engine:
        before = asyncio.all_tasks()
        wait = engine.wait_for("a", status=Status.ENDED, timeout=seconds)
        waiting = asyncio.create_task(wait)
        await settled()
        assert len(tail_of(engine.driver).watches) == 1
        waiting.cancel()
        await asyncio.wait([waiting])
        assert (tail_of(engine.driver).watches, asyncio.all_tasks() - before) == ({}, set())


async def test_many_waiters_cost_a_read_each_and_hear_of_nothing_else(
    driver: Scripted, engine: Engine
) -> None:
    asked = 0

    def is_there(state: State) -> bool:
        nonlocal asked
        asked += 1
        return True

    async with asyncio.TaskGroup() as group:
        waits = [
            group.create_task(engine.wait_for(str(number), until=is_there))
            for number in range(WAITERS)
        ]
        tail = tail_of(driver)
        await turns_until(lambda: len(tail._topics) == WAITERS)
        driver.pages = 0
        for number in range(WAITERS, WAITERS + 100):
            await pause(engine, str(number))
        assert asked == 0
        for number in range(WAITERS):
            await pause(engine, str(number))
    assert [wait.result().id for wait in waits] == [str(number) for number in range(WAITERS)]
    assert (asked, driver.pages) == (WAITERS, 0)
    assert (tail.watches, tail._topics) == ({}, {})
