"""The example of an order: it ends one way or the other, wherever its process dies."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from flowstate import Engine, FakeClock, FlowRegistry
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.engines.workflow import WorkflowCancelled, WorkflowFailed, Workflows
from flowstate.testing import explore_crashes
from flowstate.testing.faults import Worker

pytestmark = pytest.mark.repository

example = pytest.importorskip("examples.order_workflow")
ROOT = Path(__file__).parents[3]
UNDONE = ["charge 995", "put back tea", "refund tea"]


def world(stock: int = 1) -> dict[str, str]:
    example.booked.clear()
    example.stock["tea"] = stock
    return example.booked  # type: ignore[no-any-return]


def explored(ordered: Callable[[Workflows], object], stock: int = 1) -> list[str]:
    """Let the process die everywhere; return what the services have done then."""
    ends: set[tuple[str, ...]] = set()

    async def run(engine: Engine, _: dict[str, str]) -> None:
        async with Workflows(engine, [example.order], rng=Random(0)) as workflows:
            await workflows.start(example.order, "o", example.Order("tea", 995))
            await ordered(workflows)  # type: ignore[misc]

    def outside(booked: dict[str, str]) -> list[str]:
        ends.add(tuple(booked.values()))
        return sorted(booked.values())

    explore_crashes(lambda: world(stock), lambda _: FlowRegistry(), run, outside=outside)
    (end,) = {tuple(sorted(each)) for each in ends}
    return [*end]


async def approves(workflows: Workflows) -> None:
    await workflows.send("o", example.Approved("anna"), key="k", early=True)
    assert await workflows.result("o") == "shipped, approved by anna"


async def forgets(workflows: Workflows) -> None:
    with pytest.raises(WorkflowFailed, match="TimeoutError"):
        await workflows.result("o")


async def finds_nothing(workflows: Workflows) -> None:
    with pytest.raises(WorkflowFailed, match="OutOfStockError: tea"):
        await workflows.result("o")


async def cancels(workflows: Workflows) -> None:
    await workflows.engine.wait_for("o", until=example.is_settled)
    await workflows.cancel("o")
    with pytest.raises(WorkflowCancelled):
        await workflows.result("o")


def test_an_approved_order_is_shipped() -> None:
    assert explored(approves) == ["charge 995", "reserve tea", "ship tea"]


def test_an_order_without_an_approval_is_undone() -> None:
    assert explored(forgets) == sorted([*UNDONE, "reserve tea"])


def test_an_order_that_is_cancelled_is_undone() -> None:
    assert explored(cancels) == sorted([*UNDONE, "reserve tea"])


def test_an_order_without_stock_is_refunded() -> None:
    assert explored(finds_nothing, stock=0) == sorted(UNDONE)


async def test_a_killed_process_goes_on(tmp_path: Path) -> None:
    arguments = "-m", "examples.order_workflow", tmp_path / "orders.db"
    async with Worker(*arguments, folder=ROOT, timeout=60) as first:
        await first.said("order-1:")
        first.kill()
        await first.ended()
    async with Worker(*arguments, "--approve", folder=ROOT, timeout=60) as second:
        assert await second.said("shipped,") == ["approved", "by", "anna"]
        await second.finish()
    async with Engine(SQLiteDriver(tmp_path / "orders.db"), FlowRegistry()) as engine:
        stops = [each.labels.get("stop", "") async for each in engine.history("order-1")]
    assert stops.count("charge") == stops.count("reserve") == 1


async def test_a_timeout_of_two_days_takes_no_time() -> None:
    clock = FakeClock()
    began = clock.now()
    world()
    async with (
        Engine(MemoryDriver(clock), FlowRegistry(), clock=clock) as engine,
        example.Delayer(engine),
        Workflows(engine, [example.order]) as workflows,
    ):
        await workflows.start(example.order, "o", example.Order("tea", 995))
        await forgets(workflows)
    assert clock.now() - began == timedelta(days=2)
