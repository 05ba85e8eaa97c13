"""Kernels on the memory driver, in virtual time."""

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from flowstate import Delayer, Engine, FakeClock, FlowRegistry, State
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.kernel import Kernel
from flowstate.testing import stands_at

__all__ = ["kernel_of", "revisions", "stands"]

stands = partial(stands_at, timeout=20.0)


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
