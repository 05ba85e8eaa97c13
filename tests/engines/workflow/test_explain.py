"""What an operator is told about an instance."""

import asyncio
from datetime import timedelta

from flowstate import FakeClock
from flowstate.engines.workflow import go, helper, sleep, step, sub, until, wait, workflow
from flowstate.engines.workflow.workflows import Workflows
from tests.engines.workflow.orders import (
    Approved,
    Order,
    charge,
    count_up,
    opened,
    order,
    parcels,
    shop,
    stands,
)


def still() -> FakeClock:
    return FakeClock(autojump=False)


@helper
async def ask_twice(s: dict[str, int]) -> None:
    await wait("first", Approved)
    await wait("second", Approved, Order, timeout=timedelta(hours=1))


@helper
async def side(s: dict[str, int]) -> None:
    await until(lambda data: data.get("go") == 1, name="ready")


@workflow("asking")
async def asking(s: dict[str, int]) -> None:
    go(side)
    await sub(ask_twice)
    await sleep(60)


async def test_each_thread_is_explained() -> None:
    clock = still()
    async with opened(asking, clock=clock) as workflows:
        await workflows.start(asking, "a", {})
        await stands(workflows, "a", "first")
        began = clock.now()
        clock.advance(100)
        await workflows.send("a", Approved("x"))
        await stands(workflows, "a", "second")
        found = await workflows.explain("a")
        main, other = found.threads

        assert (found.workflow, found.status) == ("asking", "waiting")
        assert main.stops == ("asking:ask_twice", "ask_twice:second")
        assert main.waits_for == "Approved or Order"
        assert main.since == began + timedelta(seconds=100)
        assert main.until == began + timedelta(seconds=3700)
        assert main.line == ask_twice.stops["second"].line > 0
        assert other.waits_for == "a condition of the data"
        assert other.since == began
        assert str(found).splitlines()[0] == "a: asking, waiting"
        assert "main: wait at asking:ask_twice > ask_twice:second (line" in str(found)


async def test_failures_are_explained() -> None:
    async with opened(clock=still()) as workflows:
        shop.broken.add("charge")
        await workflows.start(order, "o", Order([]))
        await stands(workflows, "o", "charge")
        standing = (await workflows.explain("o")).threads[0]

        assert (standing.does, standing.failures) == ("pause", 1)
        assert "charge is down" in standing.error
        assert "1 failures, the last: ConnectionError: charge is down" in str(standing)


async def test_branches_and_children_are_counted() -> None:
    async with opened(clock=still()) as workflows:
        await workflows.start(parcels, "p", Order(["tea", "milk"]))
        await stands(workflows, "p.parcel.0.0", "sent")
        await stands(workflows, "p", "parcel")
        assert (await workflows.explain("p")).threads[0].waits_for == "2 of 2 children"
        await workflows.goto("p", "all_of", names={"sent": []})
        await workflows.engine.wait_for(
            "p", until=lambda s: bool(shop.did) and s.status == "paused"
        )
        standings = {each.thread: each for each in (await workflows.explain("p")).threads}

        assert standings["main"].waits_for == "1 of 2 branches"
        assert standings["main.all_of.1.0"].waits_for == "Approved"


async def test_each_status_is_told() -> None:
    async def status(workflows: Workflows, id: str) -> str:
        return (await workflows.explain(id)).status

    async with opened(clock=still()) as workflows:
        shop.held["charge"] = asyncio.Event()
        await workflows.start(order, "o", Order([]))
        await shop.begun["charge"].wait()
        assert await status(workflows, "o") == "running"
        shop.held["charge"].set()
        await stands(workflows, "o", "approval")
        assert await status(workflows, "o") == "waiting"
        await workflows.pause("o")
        await workflows.engine.wait_for(
            "o", until=lambda s: "notes" in s.values and s.status == "paused"
        )
        assert await status(workflows, "o") == "paused"
        await workflows.resume("o")
        await workflows.send("o", Approved("x"))
        await workflows.result("o")
        assert await status(workflows, "o") == "done"
        await workflows.start(count_up, "c", {}, {"to": 1})
        await workflows.cancel("c", hard=True)
        assert await status(workflows, "c") == "cancelled"


async def test_what_failed_and_what_is_parked_says_why() -> None:
    @workflow("bad")
    async def old(s: dict[str, int], n: int) -> int:
        await wait("go_on", Approved)
        await step(charge, [])
        return n

    @workflow("bad")
    async def new(s: dict[str, int], n: int) -> int:
        await wait("go_further", Approved)
        return n

    clock = still()
    async with opened(old, clock=clock) as workflows:
        shop.broken.add("charge")
        for id in ("a", "b"):
            await workflows.start(old, id, {}, {"n": 1})
            await stands(workflows, id, "go_on")
        await workflows.send("a", Approved("x"))
        await workflows.engine.wait_for("a", until=lambda s: "outcome" in s.labels)
        failed = await workflows.explain("a")
        assert (failed.status, failed.why) == (
            "failed",
            "StepFailed: step 'charge' failed once: ConnectionError: charge is down",
        )
        async with Workflows(workflows.engine, [new]) as newer:
            await newer.send("b", Approved("x"))
            await newer.engine.wait_for("b", until=lambda s: "parked" in s.labels)
            parked = await newer.explain("b")
            assert parked.status == "parked"
            assert parked.why == "bad: has no stop 'go_on'; its stops: go_further"
            assert await newer.count(kind="parked") == 1
            await newer.goto("b", "go_further", by="ops")
            assert await newer.result("b", timeout=60) == 1  # By the message that came before.
