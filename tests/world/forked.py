"""A program that forks, as web servers that preload their application do.

What it makes before the fork is entered in four children, or used there although it is open.
"""

import asyncio
import functools
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    End,
    Engine,
    FlowRegistry,
    FlowstateError,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    Status,
)
from flowstate.recovery import Lease, Recoverer
from tests.world.places import Place

CHILDREN = 4
LIMIT = 30  # Seconds for a child.
LEASE_SECONDS = 2.0
flows = FlowRegistry()


@flows.flow("fired")
async def fired(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))


def in_children(number: int, work: Callable[[int], Coroutine[Any, Any, object]]) -> list[Any]:
    """Run a coroutine in each of some children at the same time, and return what they return."""
    pipes = []
    for each in range(number):
        read, write = os.pipe()
        if not os.fork():
            _child(write, work(each))
        os.close(write)
        pipes.append(read)
    told = []
    for read in pipes:
        told.append(json.loads(os.read(read, 1_000_000) or '"no answer"'))
        os.close(read)
    for _ in pipes:
        os.wait()
    return told


def _child(write: int, work: Coroutine[Any, Any, object]) -> None:
    signal.alarm(LIMIT)
    try:
        told = asyncio.run(work)
    except BaseException:  # noqa: BLE001 - it is a result
        told = traceback.format_exc()
    os.write(write, json.dumps(told).encode())
    os._exit(0)


async def take(engine: Engine, id: str, by: str) -> bool:
    """Return whether a state is ours."""
    try:
        await engine.do(Commit(Pause(StateContext(State(id, annotations={"by": by})))))
    except RevisionMismatchError:
        return False
    return True


async def preloaded(place: Place) -> dict[str, Any]:
    """Enter what was made before the fork; return who got what."""
    engine = Engine(place.driver(), flows)
    lease = Lease(engine, "nightly", seconds=LEASE_SECONDS, poll_interval=0.1)
    delayer, recoverer = Delayer(engine, poll_interval=0.1), Recoverer(engine)

    async def child(number: int) -> dict[str, Any]:
        async with engine, delayer, recoverer:
            won = await take(engine, "seat", str(number))
            own = StateContext(State(f"timer-{number}"))
            await engine.do(Commit(Pause(own), Delay(own, "fired", after=timedelta(days=1))))
            soon = StateContext(State(f"soon-{number}"))
            await engine.do(Commit(Delay(soon, "fired", after=timedelta(milliseconds=50))))
            async with lease:
                await asyncio.sleep(LEASE_SECONDS / 2)  # reason: all four try to get it
                held = lease.is_held
                await asyncio.sleep(LEASE_SECONDS / 4)  # reason: it is still held then
            async with engine.watch(status=Status.ENDED) as states:
                while (await anext(states)).id != soon.current.id:
                    pass  # A delayer of any child fires it.
            return {"won": won, "held": held, "name": engine.name, "number": number}

    told = await asyncio.to_thread(in_children, CHILDREN, child)
    async with Engine(place.driver(), flows) as fresh:
        page = await fresh.get_delayed_states(until=datetime(9000, 1, 1, tzinfo=UTC))
        seat = await fresh.get_state("seat")
        return {
            "told": told,
            "seat": seat.annotations["by"],
            "timers": sorted(each.state.id for each in page.delayed),
        }


async def used_before(place: Place) -> dict[str, Any]:
    """Open and close a driver, fork, and enter the same object in each child."""
    driver = place.driver()
    async with Engine(driver, flows) as engine, engine.watch() as states:
        await take(engine, "migrated", "parent")
        await anext(states)

    async def child(number: int) -> bool:
        async with Engine(driver, flows) as engine, engine.watch() as states:
            for each in range(5):
                await take(engine, f"{number}-{each}", str(number))
            return (await anext(states)).id == "migrated"

    told = await asyncio.to_thread(in_children, CHILDREN, child)
    async with Engine(driver, flows) as engine:
        return {"told": told, "head": await engine.head()}


async def open_in_child(place: Place) -> dict[str, Any]:
    """Use an engine that is open and busy in a child; then go on with it here."""
    async with Engine(place.driver(), flows) as engine, engine.watch() as states:
        mine = [asyncio.create_task(_busy(engine, f"busy-{n}")) for n in range(4)]
        await anext(states)
        watch = engine.watch()  # Holds nothing yet.
        await watch.__aenter__()
        ctx = StateContext(State("child"))
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: engine.do(Commit(Pause(ctx))),
            lambda: engine.do(Pause(ctx)),
            lambda: engine.get_state("busy-0"),
            engine.head,
            lambda: engine.execute(ctx),
            lambda: watch.__anext__(),  # noqa: PLW0108 - it is called in the child
            lambda: engine.driver.commit([]),
            lambda: engine.__aexit__(None, None, None),
        ]

        async def child(_: int) -> list[str]:
            return [await _outcome(call) for call in calls]

        told = await asyncio.to_thread(in_children, 1, child)
        for task in mine:
            task.cancel()
        await asyncio.wait(mine)
        await take(engine, "after", "parent")
        failed = [repr(task.exception()) for task in mine if not task.cancelled()]
        return {"told": told[0], "failed": failed}


async def opened_anew(place: Place) -> dict[str, Any]:
    """Open an engine of its own in each child, while the parent has one open and busy."""
    async with Engine(place.driver(), flows) as engine:
        mine = [asyncio.create_task(_busy(engine, f"busy-{n}")) for n in range(4)]

        async def child(number: int) -> str:
            async def commit() -> None:
                async with Engine(place.driver(), flows) as own:
                    await take(own, f"child-{number}", "child")

            return await _outcome(commit)

        told = [
            await asyncio.to_thread(in_children, 1, functools.partial(_later, child, number))
            for number in range(8)
        ]
        for task in mine:
            task.cancel()
        await asyncio.wait(mine)
        failed = [repr(task.exception()) for task in mine if not task.cancelled()]
        stored = [state.id async for state in engine.states() if state.id.startswith("child")]
        return {"told": [each[0] for each in told], "failed": failed, "stored": stored}


async def _later(child: Callable[[int], Coroutine[Any, Any, str]], number: int, _: int) -> str:
    return await child(number)


async def _busy(engine: Engine, id: str) -> None:
    ctx = StateContext(State(id))
    while True:
        await engine.do(Commit(Pause(ctx)))


async def _outcome(call: Callable[[], Awaitable[object]]) -> str:
    try:
        async with asyncio.timeout(5):
            await call()
    except (FlowstateError, TimeoutError) as error:
        return type(error).__name__
    return "done"


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Python warns of forks while threads run.
    *words, what = sys.argv[1:]
    sys.stdout.write(json.dumps(asyncio.run(globals()[what](Place(*words)))))
