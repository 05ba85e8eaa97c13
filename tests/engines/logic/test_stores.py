"""Machines on each of the four stores, in real time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from flowstate import Delayer, Engine, FlowRegistry, SystemClock
from flowstate.driver import Driver
from flowstate.engines.kernel.errors import InstanceCancelledError
from flowstate.engines.logic import Machines
from flowstate.recovery import Recoverer
from tests.engines.logic.driving import event, shop, stands
from tests.engines.logic.test_crashes import child, listens, parallel, retries, sets
from tests.engines.logic.test_ends import cancels
from tests.engines.stores import STORES, driver_of

pytestmark = pytest.mark.slow
SECONDS = 20.0


@pytest.fixture(params=STORES)
def driver(request: pytest.FixtureRequest) -> Driver:
    shop.__init__()  # type: ignore[misc]
    shop.broken = {"flaky": ["busy", None], "down": ["bad"]}
    return driver_of(request.param, request)


@contextlib.asynccontextmanager
async def machines_on(driver: Driver) -> AsyncIterator[Machines]:
    async with (
        Engine(driver, FlowRegistry(), clock=SystemClock(), shutdown_timeout=1.0) as engine,
        Delayer(engine),
        Recoverer(engine),
        Machines(engine, [retries, parallel, listens, sets, cancels, child]) as machines,
    ):
        yield machines


async def test_the_life_of_machines(driver: Driver) -> None:
    async with machines_on(driver) as machines:
        await machines.start(parallel, "p")
        await machines.start(sets, "s")
        values = await machines.result("p", timeout=SECONDS)
        assert values[:5] == ["a done", "b done", "c done", "d done", 1]
        assert values[5]["code"] == "bad"
        assert (await machines.result("s", timeout=SECONDS))["once"]
        await machines.start(cancels, "c", {"wants": "flows", "cleans": True})
        await stands(machines, "c", "work")
        await machines.cancel("c")
        with pytest.raises(InstanceCancelledError):
            await machines.result("c", timeout=SECONDS)


async def test_events_race_with_the_waits_for_them(driver: Driver) -> None:
    """Twelve instances each are given each event once, whatever is faster."""
    async with machines_on(driver) as machines:
        ids = [f"l{number}" for number in range(12)]

        async def publish() -> None:
            for number, kind in enumerate("abaacb"):
                by = "anna" if number > 1 else "x"
                await machines.publish(event(kind, str(number), number, by=by))

        await asyncio.gather(*(machines.start(listens, id) for id in ids[:6]), publish())
        for id in ids[:6]:
            state = await machines.engine.get_state(id)
            data = state.values["data"]
            assert bytes(data).count(b"got") <= 1
        for id in ids[6:]:
            await machines.start(listens, id)
        for number, kind in enumerate("baacb", 10):
            await machines.publish(event(kind, str(number), number, by="anna"))
        late = [machines.engine.wait_for(id, until=_is_last) for id in ids[6:]]
        async with asyncio.timeout(SECONDS):
            for state in await asyncio.gather(*late):
                assert b"[[10,1],[11,14],13]" in bytes(state.values["data"])


def _is_last(state: object) -> bool:
    return b'"type":"never"' in bytes(state.values["threads"])  # type: ignore[attr-defined]
