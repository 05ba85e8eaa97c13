"""Events on each of the four stores, in real time: all are seen, once, in one order."""

import asyncio
from random import Random
from typing import Any

import pytest

from flowstate import SystemClock
from flowstate.driver import Driver
from flowstate.engines.events.consuming import Filter, Strategy
from flowstate.engines.events.publishing import publish
from flowstate.engines.events.starting import Plan, Starter, Starters, starter_id
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.kernel import Kernel
from tests.engines.events.listeners import Gathered, gathering, paid
from tests.engines.events.starters import job, starting
from tests.engines.kernel.test_outside_stores import two_kernels
from tests.engines.stores import STORES, driver_of

SECONDS = 20.0
code = gathering("code")


@pytest.fixture(params=STORES)
def driver(request: pytest.FixtureRequest) -> Driver:
    return driver_of(request.param, request)


@pytest.mark.parametrize(
    "count", [25, pytest.param(1_000, marks=[pytest.mark.nightly, pytest.mark.timeout(1_200)])]
)
async def test_races_of_listeners_with_publishers(driver: Driver, count: int) -> None:
    """Two listeners and two publishers of two events each, in two processes, in any order."""
    room = asyncio.Semaphore(5)

    async def race(n: int) -> None:
        rng, race_id = Random(n), str(n)

        async def pause() -> None:
            for _ in range(rng.randrange(6)):
                await asyncio.sleep(rng.choice([0, 0, 0.001, 0.004]))

        async def listen(name: str) -> None:
            await pause()
            wanted = Gathered(4, [("subject", race_id)], after=0)
            await rng.choice(kernels).start(code, f"{n} {name}", wanted)

        async def send(name: str) -> None:
            for number in (1, 2):
                await pause()
                event = paid(f"{n} {name}{number}", subject=race_id)
                await publish(rng.choice(kernels).engine, event)

        async with room:
            await asyncio.gather(*map(listen, "xy"), *map(send, "ab"))
            one, other = [
                await rng.choice(kernels).result(f"{n} {name}", timeout=SECONDS) for name in "xy"
            ]
            assert one == other
            assert sorted(one) == [f"{n} {each}" for each in ("a1", "a2", "b1", "b2")]
            for name in "ab":
                assert one.index(f"{n} {name}1") < one.index(f"{n} {name}2")

    async with two_kernels(driver, code) as kernels:
        await asyncio.gather(*(race(n) for n in range(count)))


@pytest.mark.parametrize(
    "count", [25, pytest.param(1_000, marks=[pytest.mark.nightly, pytest.mark.timeout(1_200)])]
)
async def test_each_event_starts_one_while_the_target_changes(driver: Driver, count: int) -> None:
    """Two processes set the starter, again and again, while events come."""

    async def start(target: str, id: str, given: Any, after: int | None) -> None:
        data = {"target": target, "ids": [each["id"] for each in given], "after": after}
        await Kernel(current_step().engine, [job]).start(job, id, data)

    clock, plan = SystemClock(), Plan(on=Strategy("all", [Filter({"type": "paid"})]))
    starter = starting(start, clock.now)
    async with two_kernels(driver, job, starter) as kernels:

        async def set_all(kernel: Kernel) -> None:
            for order in range(1, 6):
                await Starters(kernel, starter).set("n", f"v{order}", plan, order=order)
                await asyncio.sleep(0.01)

        async def send(kernel: Kernel, parity: int) -> None:
            for n in range(parity, count, 2):
                await publish(kernel.engine, paid(str(n)))

        await Starters(kernels[0], starter).set("n", "v0", plan)
        await asyncio.gather(*map(set_all, kernels), *map(send, kernels, (0, 1)))
        found: dict[str, list[str]] = {}
        async with asyncio.timeout(SECONDS * max(1, count / 100)):
            async with kernels[0].engine.watch(labels={"workflow": "job"}, since_rev=0) as states:
                async for state in states:
                    found[state.id] = state.get(dict[str, Any], "data")["ids"]
                    if len(found) == count:
                        break

        assert sorted(found.values()) == sorted([str(n)] for n in range(count))
        state = await kernels[0].engine.wait_for(
            starter_id("n"),
            until=lambda each: each.get(Starter, "data").order == 5,
            timeout=SECONDS,
        )
        assert state.get(Starter, "data").target == "v5"
