"""Starters of a job that notes how it was started, for tests."""

import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import attrs

from flowstate import FakeClock
from flowstate.engines.events.starting import Starters, Starting
from flowstate.engines.kernel.kernel import Kernel
from tests.engines.events.test_consuming import evaluate
from tests.engines.kernel.running import kernel_of
from tests.engines.kernel.tables import Ask, line, run

__all__ = ["Jobs", "job", "starting"]


async def one() -> int:
    return 1


job = line("job", run("a", one))


def starting(start: Callable[..., Any], now: Callable[[], datetime], runs: Any = job) -> Starting:
    """Return the code of starters that call a function."""
    return Starting("starter", runs, start, evaluate, now)


@attrs.define
class Jobs:
    """An open kernel with starters."""

    kernel: Kernel
    starters: Starters
    clock: FakeClock

    async def all(self) -> dict[str, Any]:
        """Return how each job was started, by its id, in that order."""
        found: dict[str, Any] = {}
        states = [s async for s in self.kernel.engine.states(labels={"workflow": "job"})]
        for state in states:
            found.setdefault(state.id, state.get(dict[str, Any], "data"))
        return {
            id: ([each["id"] for each in data["given"]] if data.get("given") else data["target"])
            for id, data in found.items()
        }

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, *asks: Ask, driver: Any = None, clock: Any = None) -> AsyncIterator["Jobs"]:
        """Open them, with what a job does."""
        clock = clock or FakeClock()
        code = line("job", *asks) if asks else job

        async def start(target: str, id: str, given: Any, after: int | None) -> None:
            data = {"target": target, "given": given, "after": after}
            await kernel.start(code, id, data)

        starter = starting(start, clock.now, code)
        async with kernel_of(code, starter, clock=clock, driver=driver) as kernel:
            yield cls(kernel, Starters(kernel, starter), clock)
