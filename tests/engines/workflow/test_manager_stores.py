"""Locks, rate limits and compensations on each of the four stores, in real time, in races."""

import asyncio
import contextlib
from random import Random

import pytest

from flowstate import Delayer, Engine, FlowRegistry, SystemClock
from flowstate.driver import Driver
from flowstate.engines.workflow import (
    WorkflowCancelled,
    WorkflowFailed,
    Workflows,
    compensating,
    lock,
    lock_line,
    rate_limit,
    step,
    workflow,
)
from tests.engines.stores import STORES, driver_of
from tests.engines.workflow.orders import Order, shop

SECONDS = 30.0
COUNT = 12


async def work(item: str) -> None:
    await shop.do(f"begin {item}")
    try:
        await asyncio.sleep(0)  # Others get their turn meanwhile.
    finally:
        await shop.do(f"end {item}")


async def put_back(item: str) -> None:
    await shop.do(f"undo {item}")


@workflow("busy")
async def busy(s: Order) -> str:
    async with compensating() as undo, lock("stock", timeout=SECONDS):
        undo(put_back, s.by)
        await step(work, s.by)
        if s.cart:
            raise ValueError(s.by)
    async with rate_limit("mails", 6, per=0.2):
        return s.by


@pytest.fixture(params=STORES)
def driver(request: pytest.FixtureRequest) -> Driver:
    shop.__init__()  # type: ignore[misc]
    return driver_of(request.param, request)


async def test_locks_are_passed_on_whatever_happens_to_who_waits(driver: Driver) -> None:
    rng, ids = Random(0), [f"b{number}" for number in range(COUNT)]

    async def cancel(workflows: Workflows, id: str) -> None:
        await asyncio.sleep(rng.random() / 20)  # So that it finds each in another place.
        await workflows.cancel(id)

    async with (
        Engine(driver, FlowRegistry(), clock=SystemClock(), shutdown_timeout=1.0) as engine,
        Delayer(engine),
        Workflows(engine, [busy]) as workflows,
    ):
        for number, id in enumerate(ids):
            await workflows.start(busy, id, Order(["fail"] * (number % 3 == 2), id))
        await asyncio.gather(*(cancel(workflows, id) for id in ids[:4]))
        for id in ids:
            with contextlib.suppress(WorkflowCancelled, WorkflowFailed):
                assert await workflows.result(id, timeout=SECONDS) == id
        assert await lock_line(engine, "stock") == ()

    names = shop.names()
    done = [each for each in names if not each.startswith("undo")]
    assert [each.partition(" ")[2] for each in done[::2]] == [
        each.partition(" ")[2] for each in done[1::2]
    ]
    assert {each for each in names if each.startswith("undo")} >= {"undo b5", "undo b8", "undo b11"}
