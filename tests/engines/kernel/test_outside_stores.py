"""Ends of instances, events and progress on each of the four stores, in real time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from random import Random
from typing import Any

import msgspec
import pytest

from flowstate import Delayer, Engine, FlowRegistry, SystemClock
from flowstate.driver import Driver
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.operations import Wait
from flowstate.engines.kernel.outside import Event, Result
from tests.engines.kernel.running import stands
from tests.engines.kernel.tables import join, line, run, wait
from tests.engines.kernel.test_stores import kernel_on
from tests.engines.stores import STORES, driver_of

HOUR = timedelta(hours=1)
SECONDS = 20.0


class Note(msgspec.Struct):
    n: int


class Paid(msgspec.Struct):
    order: str
    cents: int = 0


async def one() -> int:
    return 1


other = line("other", wait("a", Note), run("b", one))
short = line("short", run("a", one))
racing = line(
    "racing",
    lambda _, data: Wait("a", [Result(short, data["of"])]),
    lambda _, data: Wait("b", [Event(Paid, order=data["of"])], None, HOUR),
)


@pytest.fixture(params=STORES)
def driver(request: pytest.FixtureRequest) -> Driver:
    return driver_of(request.param, request)


async def test_results_and_events(driver: Driver) -> None:
    code = line(
        "code",
        wait("a", Result(other, "o")),
        join("b", wait("x", Event(Paid, order="x", cents=5)), wait("y", Result(other, "p"))),
        wait("c", Event(Paid, order="y"), seconds=0.1),
        catch=True,
    )
    late = line("late", lambda *_: Wait("a", [Event(Paid, order="x")], None, HOUR))

    async with kernel_on(driver, code, other, late) as kernel:
        await kernel.start(code, "i", {})
        for id in "op":
            await kernel.start(other, id, {})
        await stands(kernel, "i", "a")
        await kernel.send("o", Note(1))
        await stands(kernel, "i", "b")
        assert await kernel.publish(Paid("x", 4), key="4")
        assert await kernel.publish(Paid("x", 5), key="5")
        assert not await kernel.publish(Paid("x", 5), key="5")
        await kernel.cancel("p")

        assert await kernel.result("i", timeout=SECONDS) == [
            [{"n": 1}, 1],
            "InstanceCancelledError",
            "TimeoutError",
        ]
        await kernel.start(late, "l", {})
        assert await kernel.result("l", timeout=SECONDS) == [{"order": "x", "cents": 4}]
        states = kernel.engine.states(latest_only=True)
        assert not [each async for each in states if each.id.startswith("flowstate.awaited.")]


async def test_the_next_attempt_finds_the_progress(driver: Driver) -> None:
    async def copy() -> Any:
        step = current_step()
        if step.attempt < 3:
            step.heartbeat([*(step.progress or []), step.attempt])
            raise ConnectionError
        return step.progress

    code = line("code", run("a", copy))

    async with kernel_on(driver, code) as kernel:
        await kernel.start(code, "i", {})
        assert await kernel.result("i", timeout=SECONDS) == [[1, 2]]


@contextlib.asynccontextmanager
async def two_kernels(driver: Driver, *codes: Any) -> AsyncIterator[list[Kernel]]:
    """Open two engines on one store, as two processes would."""
    async with kernel_on(driver, *codes) as kernel:
        engine = Engine(driver, FlowRegistry(), clock=SystemClock(), shutdown_timeout=1.0)
        async with engine, Delayer(engine), Kernel(engine, codes) as second:
            yield [kernel, second]


@pytest.mark.parametrize(
    "count", [20, pytest.param(1_000, marks=[pytest.mark.nightly, pytest.mark.timeout(1_200)])]
)
async def test_races_of_waits_with_ends_and_events(driver: Driver, count: int) -> None:
    """Who begins to wait while it happens is told: three of each, and one event for all."""
    room = asyncio.Semaphore(10)

    async def soon(rng: Random, work: Any) -> Any:
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(rng.choice([0, 0, 0.001, 0.004]))  # Another order in each race.
        return await work

    async def race(n: int) -> None:
        rng, id = Random(n), f"short {n}"
        async with room:
            works = [rng.choice(kernels).start(racing, f"{n}.{m}", {"of": id}) for m in range(3)]
            works += [rng.choice(kernels).start(short, id, {})]
            works += [rng.choice(kernels).publish(Paid(id, n), key=id) for _ in range(2)]
            done = await asyncio.gather(*(soon(rng, work) for work in works))
            assert done[:4] == [True] * 4
            assert sorted(done[4:]) == [False, True]
            for m in range(3):
                found = await rng.choice(kernels).result(f"{n}.{m}", timeout=SECONDS)
                assert found == [[1], {"order": id, "cents": n}]

    async with two_kernels(driver, short, racing) as kernels:
        await asyncio.gather(*(race(n) for n in range(count)))
