"""What a definition enters by ``async with``: locks, rate limits, compensations, and its own."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from msgspec import Struct

from flowstate import FakeClock, InvalidInputError
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.workflow import (
    Cancelled,
    DeadlockError,
    Manager,
    MarkError,
    StepFailed,
    WorkflowCancelled,
    WorkflowFailed,
    Workflows,
    compensating,
    free_lock,
    helper,
    lock,
    lock_line,
    rate_limit,
    sleep,
    step,
    wait,
    workflow,
)
from tests.engines.workflow.orders import Approved, Order, opened, shop, stands


async def do(what: str) -> str:
    return await shop.do(what)


async def undo_it(what: str, times: int = 1) -> None:
    await shop.do(f"undo {what} {times}")


def undo_in_thread(item: Approved) -> None:
    asyncio.run_coroutine_threadsafe  # noqa: B018 - it runs without a loop
    shop.did.append((f"undo {item.by}", "thread"))


@workflow("keeper")
async def keeper(s: Order) -> int:
    async with lock("stock") as held:
        await wait("approval", Approved)
        return held.number


@workflow("hasty")
async def hasty(s: Order) -> str:
    try:
        async with lock("stock", timeout=timedelta(seconds=30)):
            return "held"
    except TimeoutError:
        await wait("approval", Approved)
        return "late"


@workflow("crossing")
async def crossing(s: Order) -> str:
    first, second = s.cart
    async with lock(first, name="one"):
        await wait("approval", Approved)
        try:
            async with lock(second, name="two"):
                return "both"
        except DeadlockError as error:
            return f"not {error.lock}"


async def test_one_instance_at_a_time_holds_a_lock() -> None:
    async with opened(keeper) as workflows:
        for number in range(4):
            await workflows.start(keeper, f"k{number}", Order([]))
            await stands(workflows, f"k{number}", "lock" if number else "approval")
        line = await lock_line(workflows.engine, "stock")
        numbers = []
        for number in range(4):
            await stands(workflows, f"k{number}", "approval")
            await workflows.send(f"k{number}", Approved("x"))
            numbers.append(await workflows.result(f"k{number}"))

        assert [each.instance for each in line] == ["k0", "k1", "k2", "k3"]
        assert numbers == sorted(set(numbers))
        assert await lock_line(workflows.engine, "stock") == ()
        assert [each.id async for each in workflows.engine.states(latest_only=True)] == [
            "k0", "k1", "k2", "k3",
        ]
