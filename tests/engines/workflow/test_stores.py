"""The client and the operators on each of the four stores, in real time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from random import Random

import pytest

from flowstate import Delayer, Engine, FlowRegistry, Status, SystemClock
from flowstate.driver import Driver
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.errors import InstanceFailedError
from flowstate.engines.workflow import step, wait, workflow
from flowstate.engines.workflow.checking import check
from flowstate.engines.workflow.workflows import Workflows
from flowstate.recovery import Recoverer
from tests.engines.stores import STORES, driver_of
from tests.engines.workflow.orders import (
    Approved,
    Order,
    charge,
    count_up,
    order,
    parcel,
    parcels,
    shop,
    stands,
)

SECONDS = 20.0


@workflow("brittle")
async def brittle(s: Order) -> str:
    return await step(charge, s.cart)


@workflow("order")
async def another_order(s: Order) -> str:
    await wait("consent", Approved)
    return s.by


@pytest.fixture(params=STORES)
def driver(request: pytest.FixtureRequest) -> Driver:
    shop.__init__()  # type: ignore[misc]
    return driver_of(request.param, request)


@contextlib.asynccontextmanager
async def workflows_on(driver: Driver) -> AsyncIterator[Workflows]:
    codes: list[Code] = [order, parcels, parcel, count_up, brittle]
    async with (
        Engine(driver, FlowRegistry(), clock=SystemClock(), shutdown_timeout=1.0) as engine,
        Delayer(engine),
        Recoverer(engine),
        Workflows(engine, codes) as workflows,
    ):
        yield workflows


async def test_the_life_of_an_order(driver: Driver) -> None:
    async with workflows_on(driver) as workflows:
        assert await workflows.start(order, "o", Order(["tea"]), labels={"shop": "a"})
        assert not await workflows.start(order, "o", Order(["tea"]))
        waiting = await stands(workflows, "o", "approval")
        assert await workflows.standing(order) == {"approval": 1}
        assert [each.id async for each in workflows.instances(labels={"shop": "a"})] == ["o"]
        assert (await workflows.explain("o")).threads[0].waits_for == "Approved"
        assert not await check(workflows.engine, [order, brittle])
        assert (await check(workflows.engine, [another_order])).stranded[0].ids == ("o",)
        assert await workflows.update("o", "rename", "otto") == ""
        await workflows.edit("o", lambda data: data.cart.append("milk"), by="ops")
        await stands(workflows, "o", "approval")
        await workflows.send("o", Approved("anna"), key="k")
        assert await workflows.result("o", timeout=SECONDS) == "charge 1 by anna"
        assert await workflows.query("o") == Order(["tea", "milk"], "anna")
        assert [each.note.by async for each in workflows.history("o") if each.note] == ["ops"]
        assert await workflows.fork("o", "o2", rev=waiting.rev)
        assert not await workflows.fork("o", "o2", rev=waiting.rev)
        await workflows.send("o2", Approved("otto"), early=True)
        assert await workflows.result("o2", timeout=SECONDS) == "charge 1 by otto"
        assert await workflows.count(order, kind="done") == 2

    assert shop.names() == ["charge", "ship tea", "ship milk", "ship tea"]


async def test_retry_and_goto(driver: Driver) -> None:
    async with workflows_on(driver) as workflows:
        shop.broken.add("charge")
        await workflows.start(brittle, "b", Order([]))
        with pytest.raises(InstanceFailedError):
            await workflows.result("b", timeout=SECONDS)
        assert await workflows.count(kind="failed") == 1
        shop.broken.clear()
        await workflows.retry("b")
        assert await workflows.result("b", timeout=SECONDS) == "charge 2"
        assert len(set(shop.keys("charge"))) == 1
        await workflows.start(parcels, "p", Order(["tea", "milk"]))
        await stands(workflows, "p.parcel.0.0", "sent")
        await stands(workflows, "p.parcel.0.1", "sent")
        await workflows.goto("p", "all_of", names={"sent": ["lost"]})
        await workflows.send("p", Approved("x"))
        assert await workflows.result("p", timeout=SECONDS) == ["lost", "2"]
        state = await workflows.engine.wait_for(
            "p.parcel.0.1", until=lambda s: "outcome" in s.labels, timeout=SECONDS
        )
        assert state.labels["outcome"] == "cancelled"


async def test_a_schedule_starts_what_is_due(driver: Driver) -> None:
    async with workflows_on(driver) as workflows:
        await workflows.schedule("s", brittle, "* * * * * *", Order([]), overlap="queue")
        async with (
            asyncio.timeout(SECONDS),
            workflows.engine.watch(labels={"outcome": "done"}, status=Status.ENDED) as states,
        ):
            for _ in range(2):
                await anext(states)
        await workflows.unschedule("s")
        ids = [each.id async for each in workflows.instances(brittle)]

    assert len(set(ids)) == len(ids) >= 2
    assert len(set(shop.keys("charge"))) == len(shop.keys("charge"))


async def test_what_operators_and_clients_do_at_once_is_all_done(driver: Driver) -> None:
    """Twenty races of edits, messages, updates, pauses and retries: all count, and it ends."""
    rng = Random(1)

    async def late(seconds: float, work: object) -> None:
        await asyncio.sleep(seconds)  # So that each race has another order.
        await work  # type: ignore[misc]

    async with workflows_on(driver) as workflows:
        for number in range(20):
            id = f"o{number}"
            await workflows.start(order, id, Order([]))
            works = [
                workflows.edit(id, lambda data: data.cart.append("a")),
                workflows.edit(id, lambda data: data.cart.append("b")),
                workflows.update(id, "rename", "otto", timeout=SECONDS),
                workflows.pause(id),
            ]
            await asyncio.gather(*(late(rng.random() / 50, work) for work in works))
            await asyncio.gather(workflows.send(id, Approved("anna")), workflows.resume(id))
            assert (await workflows.result(id, timeout=SECONDS)).endswith("by anna")
            data = await workflows.query(id)
            assert sorted(data.cart) == ["a", "b"]
