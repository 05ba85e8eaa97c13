"""Tasks on an engine of their own, and documents for them."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from flowstate import Delayer, Driver, Engine, FakeClock, FlowRegistry
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.expressions.in_process import InProcessExpressions
from flowstate.engines.tasks.service.tasks import Tasks

__all__ = ["SET", "document", "tasks_on"]

SET = "- set: {set: {done: true}}"


def document(do: str = SET, *, name: str = "order", version: str = "1.0.0") -> str:
    """Return a document with some tasks."""
    head = f"document: {{dsl: 1.0.3, namespace: demo, name: {name}, version: {version}}}"
    return f"{head}\ndo:\n{do}\n"


@contextlib.asynccontextmanager
async def tasks_on(
    driver: Driver | None = None, *, clock: FakeClock | None = None, **options: Any
) -> AsyncIterator[Tasks]:
    """Open tasks on a driver; without one, in memory."""
    async with (
        Engine(driver or MemoryDriver(clock), FlowRegistry(), clock=clock) as engine,
        Delayer(engine),
        Tasks(engine, expressions=InProcessExpressions(), **options) as tasks,
    ):
        yield tasks
