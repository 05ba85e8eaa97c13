"""Workflows of sections, opened on a store."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from flowstate import Clock, Delayer, Engine, FakeClock, FlowRegistry, State
from flowstate.driver import Driver
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.workflow.sections import Sections
from flowstate.engines.workflow.workflows import Workflows

__all__ = ["SECONDS", "ended", "in_memory", "opened", "stands"]

SECONDS = 20.0


@contextlib.asynccontextmanager
async def opened(
    driver: Driver, clock: Clock, *codes: Sections, **options: Any
) -> AsyncIterator[Workflows]:
    async with (
        Engine(driver, FlowRegistry(), clock=clock, shutdown_timeout=1.0) as engine,
        Delayer(engine),
        Workflows(engine, codes, **options) as workflows,
    ):
        yield workflows


@contextlib.asynccontextmanager
async def in_memory(
    *codes: Sections, clock: FakeClock | None = None, driver: Driver | None = None, **options: Any
) -> AsyncIterator[Workflows]:
    clock = clock or FakeClock()
    async with opened(driver or MemoryDriver(clock), clock, *codes, **options) as workflows:
        yield workflows


async def stands(workflows: Workflows, id: str, stop: str) -> State:
    """Wait until the main thread of an instance waits at a stop."""
    return await workflows.engine.wait_for(
        id,
        until=lambda each: each.labels.get("stop") == stop and each.status == "paused",
        timeout=SECONDS,
    )


async def ended(workflows: Workflows, id: str) -> Any:
    """Return the data of an instance when it has come to its end."""
    await workflows.result(id, timeout=SECONDS)
    return await workflows.query(id)
