"""Calls from other threads and event loops: they work, or are refused at once."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    End,
    Engine,
    Execute,
    FlowRegistry,
    InvalidInputError,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    Status,
    Transit,
)
from flowstate.recovery import Lease, Recoverer
from tests.world.places import Place

LIMIT = 10.0
flows = FlowRegistry()


@flows.flow("end")
async def end(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))


def pause(id: str) -> Commit:
    return Commit(Pause(StateContext(State(id))))


async def entered(manager: Any) -> None:
    async with manager:
        pass


async def first(states: AsyncIterator[State]) -> State:
    return await anext(states)


CALLS: dict[str, Callable[[Engine], Awaitable[object]]] = {
    "do": lambda engine: engine.do(pause("elsewhere")),
    "do several": lambda engine: engine.do(pause("elsewhere"), pause("also")),
    "execute": lambda engine: engine.execute(StateContext(State("elsewhere"))),
    "start": lambda engine: engine.do(Execute(StateContext(State("elsewhere")))),
    "read": lambda engine: engine.get_state("busy-0"),
    "page": lambda engine: engine.get_states(),
    "states": lambda engine: first(engine.states()),
    "head": lambda engine: engine.head(),
    "watch": lambda engine: entered(engine.watch()),
    "lease": lambda engine: entered(Lease(engine, "elsewhere")),
    "delayer": lambda engine: entered(Delayer(engine)),
    "recoverer": lambda engine: entered(Recoverer(engine)),
}


async def busy(engine: Engine, id: str) -> None:
    ctx = StateContext(State(id))
    while True:
        await engine.do(Commit(Pause(ctx)))


@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
async def test_code_in_a_thread_runs_a_loop_of_its_own(any_place: Place, is_busy: bool) -> None:
    async with Engine(any_place.driver(), flows) as engine:
        mine = [asyncio.create_task(busy(engine, f"busy-{n}")) for n in range(10 * is_busy)]
        await engine.do(pause("first"))
        for name, call in CALLS.items():
            async with asyncio.timeout(LIMIT):
                outcome = await asyncio.to_thread(outcome_elsewhere, call, engine)
            assert isinstance(outcome, InvalidInputError), (name, outcome)
        for task in mine:
            assert not task.done()
            task.cancel()
        await asyncio.wait(mine or [asyncio.ensure_future(asyncio.sleep(0))])
        await engine.do(pause("last"))


def outcome_elsewhere(call: Callable[[Engine], Awaitable[object]], engine: Engine) -> object:
    async def do() -> object:
        async with asyncio.timeout(LIMIT / 2):
            return await call(engine)

    try:
        return asyncio.run(do())
    except Exception as error:  # noqa: BLE001 - it is the outcome
        return error


async def test_a_watch_is_not_iterated_elsewhere(any_place: Place) -> None:
    async with Engine(any_place.driver(), flows) as engine, engine.watch() as states:
        outcome = await asyncio.to_thread(outcome_elsewhere, lambda _: anext(states), engine)
        assert isinstance(outcome, InvalidInputError)
        await engine.do(pause("a"))
        assert (await anext(states)).id == "a"


async def test_threads_hand_their_calls_to_the_loop_of_the_engine(any_place: Place) -> None:
    loop = asyncio.get_running_loop()
    losses: list[int] = []

    def view(number: int) -> None:
        for each in range(5):
            call = engine.do(pause(f"{number % 4}-{each}"))
            try:
                asyncio.run_coroutine_threadsafe(call, loop).result(LIMIT)
            except RevisionMismatchError:
                losses.append(number)

    async with Engine(any_place.driver(), flows) as engine:
        threads = [threading.Thread(target=view, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert len(losses) == await engine.head() == 20


def test_a_driver_is_opened_in_one_loop_after_the_other(any_place: Place) -> None:
    driver = any_place.driver()

    async def use(number: int) -> list[str]:
        async with Engine(driver, flows) as engine, Delayer(engine, poll_interval=0.1):
            ctx = StateContext(State(f"{number}"))
            await engine.do(Commit(Delay(ctx, "end", after=timedelta(milliseconds=20))))
            async with engine.watch(status=Status.ENDED) as states:
                ended: list[str] = []
                while f"{number}" not in ended:
                    ended.append((await anext(states)).id)
                return ended

    for number in range(3):
        assert asyncio.run(asyncio.wait_for(use(number), LIMIT))[-1] == f"{number}"


def test_engines_in_two_threads_on_drivers_of_their_own(place: Place) -> None:
    outcomes: dict[int, object] = {}

    async def use(number: int) -> int:
        async with Engine(place.driver(), flows) as engine, engine.watch() as states:
            for each in range(20):
                await engine.do(pause(f"{number}-{each}"))
            return len([await anext(states) for _ in range(40)])

    def run(number: int) -> None:
        try:
            outcomes[number] = asyncio.run(asyncio.wait_for(use(number), LIMIT))
        except Exception as error:  # noqa: BLE001 - it is the outcome
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == {0: 40, 1: 40}


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_engines_in_two_threads_share_a_driver(kind: str, tmp_path: Any) -> None:
    """Where any loop may use a driver: what one commits wakes the watch of the other."""
    driver = Place(kind, str(tmp_path / "store.db")).driver()
    test = threading.Barrier(2, timeout=LIMIT)
    found: dict[int, list[str]] = {}

    async def use(number: int) -> None:
        async with Engine(driver, flows) as engine, engine.watch() as states:
            await asyncio.to_thread(test.wait)
            for each in range(20):
                await engine.do(Commit(Transit(StateContext(State(f"{number}-{each}")), "end")))
            async with asyncio.timeout(LIMIT):
                found[number] = [(await anext(states)).id for _ in range(40)]
            await asyncio.to_thread(test.wait)

    threads = [threading.Thread(target=lambda n=n: asyncio.run(use(n))) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert len(set(found[0])) == 40
