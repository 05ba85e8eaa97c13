"""Workflows of sections, opened on a store."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from flowstate import Clock, Engine, FakeClock, FlowRegistry
from flowstate.driver import Driver
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.workflow.sections import Sections
from flowstate.engines.workflow.workflows import Workflows
from flowstate.testing import open_workflows, stands_at

__all__ = ["SECONDS", "ended", "in_memory", "opened", "stands"]

SECONDS = 20.0
stands = partial(stands_at, timeout=SECONDS)


@contextlib.asynccontextmanager
async def opened(
    driver: Driver, clock: Clock, *codes: Sections, **options: Any
) -> AsyncIterator[Workflows]:
    engine = Engine(driver, FlowRegistry(), clock=clock, shutdown_timeout=1.0)
    async with open_workflows(*codes, engine=engine, **options) as workflows:
        yield workflows


@contextlib.asynccontextmanager
async def in_memory(
    *codes: Sections, clock: FakeClock | None = None, driver: Driver | None = None, **options: Any
) -> AsyncIterator[Workflows]:
    clock = clock or FakeClock()
    async with opened(driver or MemoryDriver(clock), clock, *codes, **options) as workflows:
        yield workflows


async def ended(workflows: Workflows, id: str) -> Any:
    """Return the data of an instance when it has come to its end."""
    await workflows.result(id, timeout=SECONDS)
    return await workflows.query(id)
