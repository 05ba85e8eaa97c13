"""What tests of timers share: a driver that disturbs their commits, and first states."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from flowstate import (
    Commit,
    Engine,
    FakeClock,
    FlowRegistry,
    SetTimer,
    State,
    StateContext,
    Transit,
)
from flowstate.driver import DuePage, DueQuery, NewTimer, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.testcases.support import DriverWrapper, end

__all__ = ["AT", "HOUR", "Recorder", "SECOND", "begun", "opened"]

SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)
AT = datetime(2030, 1, 1, tzinfo=UTC)


class Recorder(DriverWrapper):
    """Keeps what was committed; does something else first, or fails, when told to.

    Attributes:
        writes: of each commit.
        before: is awaited, once, before a commit that a timer makes.
        error: is what such a commit has as its verdict, once.
    """

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryDriver(clock))
        self.writes: list[Writes] = []
        self.pages = 0
        self.before: list[Any] = []
        self.error: Exception | None = None

    async def get_due(self, query: DueQuery) -> DuePage:
        self.pages += query.kind == "delay"
        return await super().get_due(query)

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        self.writes += batch
        if any(put.transition.cause == "timer" for writes in batch for put in writes.puts):
            if self.before:
                await self.before.pop(0)()
            if self.error is not None:
                error, self.error = self.error, None
                raise error
        return await super().commit(batch)

    @property
    def rows(self) -> tuple[list[NewTimer], list[str]]:
        """The rows that the last commit has stored, and the ids of those that it has removed."""
        return list(self.writes[-1].timers), [drop.id for drop in self.writes[-1].drops]


@contextlib.asynccontextmanager
async def opened(driver: Recorder, clock: FakeClock) -> AsyncIterator[Engine]:
    """Open an engine whose flows, work and ring, end their states."""
    flows = FlowRegistry()
    for flow in ("work", "ring"):
        flows.set(flow, end)
    async with Engine(driver, flows, clock=clock) as engine:
        yield engine


async def begun(engine: Engine, *commands: str, id: str = "a") -> StateContext:
    """Return a new state, with a timer for each name, which is due in an hour."""
    ctx = StateContext(State(id))
    timers = [SetTimer(ctx, name, "ring", after=HOUR) for name in commands]
    await engine.do(Commit(Transit(ctx, "work"), *timers))
    return ctx
