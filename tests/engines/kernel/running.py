"""Kernels on the memory driver, in virtual time."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from flowstate import Delayer, Engine, FakeClock, FlowRegistry, State
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.kernel import Kernel

__all__ = ["kernel_of", "revisions", "stands"]


@contextlib.asynccontextmanager
async def kernel_of(
    *codes: Code, clock: FakeClock | None = None, driver: Any = None, **options: Any
) -> AsyncIterator[Kernel]:
    """Open an engine with a delayer and a kernel."""
    clock = clock or FakeClock()
    async with (
        Engine(driver or MemoryDriver(clock), FlowRegistry(), clock=clock) as engine,
        Delayer(engine),
        Kernel(engine, codes, **options) as kernel,
    ):
        yield kernel


async def revisions(kernel: Kernel, id: str) -> list[State]:
    return [state async for state in kernel.engine.history(id)]


async def stands(kernel: Kernel, id: str, stop: str) -> State:
    """Wait until an instance waits at a stop."""
    return await kernel.engine.wait_for(
        id, until=lambda each: each.labels.get("stop") == stop and each.status == "paused"
    )
