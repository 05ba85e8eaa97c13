"""Workflows for a test: open, in memory, on a fake clock."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from flowstate.clock import FakeClock
from flowstate.delayer import Delayer
from flowstate.drivers.memory import MemoryDriver
from flowstate.engine import Engine
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.workflow.explaining import explain
from flowstate.engines.workflow.workflows import Workflows
from flowstate.errors import StateNotFoundError
from flowstate.registry import FlowRegistry
from flowstate.state import State, Status

__all__ = ["open_workflows", "stands_at"]


@contextlib.asynccontextmanager
async def open_workflows(
    *codes: Code, engine: Engine | None = None, **options: Any
) -> AsyncIterator[Workflows]:
    """Open workflows with all that they need, and close it at the end.

    On the fake clock no time passes while anything runs; when everything waits, it jumps to the
    next time at which something goes on.

    Args:
        *codes: the workflows.
        engine: not open yet; ``None``: one in memory, on a fake clock of its own.
        **options: of ``Workflows``.
    """
    if engine is None:
        clock = FakeClock()
        engine = Engine(MemoryDriver(clock), FlowRegistry(), clock=clock, shutdown_timeout=1.0)
    async with engine, Delayer(engine), Workflows(engine, codes, **options) as workflows:
        yield workflows


async def stands_at(
    workflows: Kernel,
    id: str,
    stop: str,
    *,
    timeout: float = 5.0,  # noqa: ASYNC109 - the error says more than that of asyncio.timeout
) -> State:
    """Wait until an instance waits, its main thread at a stop; return that revision.

    Args:
        workflows: on whose store the instance is.
        id: of the instance.
        stop: its name.
        timeout: real seconds, also with a fake clock.

    Raises:
        AssertionError: it has ended, is parked, or took longer; says where it stands instead.
    """

    def is_there(state: State) -> bool:
        return state.status is Status.PAUSED and state.labels.get("stop") == stop

    def is_known(state: State) -> bool:
        return is_there(state) or not {"outcome", "parked"}.isdisjoint(state.labels)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            state = await workflows.engine.wait_for(id, until=is_known)
            if is_there(state):
                return state
    raise AssertionError(f"{id!r} does not wait at {stop!r}: {await _why(workflows, id)}")


async def _why(workflows: Kernel, id: str) -> str:
    try:
        return str(await explain(workflows.engine, workflows.codes, id))
    except StateNotFoundError:
        return "there is no such instance"
