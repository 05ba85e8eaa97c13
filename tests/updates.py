"""A driver, and changes, for tests of updates."""

import asyncio

from flowstate import (
    Commit,
    Engine,
    Pause,
    State,
    StateContext,
)
from flowstate.driver import Verdict, Writes
from tests.scripted import Scripted

__all__ = ["MANY", "Store", "add", "commit_elsewhere", "count"]

MANY = 16


class Store(Scripted):
    """A scripted driver that also counts reads, and answers the next commits otherwise.

    Attributes:
        reads: of single states, so far.
        answers: what the next batches are answered, instead of being stored.
        gates: each holds the verdicts of one batch back, after it was stored.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.answers: list[Exception] = []
        self.gates: list[asyncio.Event] = []

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        self.reads += 1
        return await super().get_state(id, rev)

    async def commit(self, batch: list[Writes]) -> list[Verdict]:  # type: ignore[override]
        if self.answers:
            return [self.answers.pop(0)] * len(batch)  # type: ignore[list-item]
        verdicts = list(await super().commit(batch))
        if self.gates:
            gate = self.gates.pop(0)
            self.reached.set()
            await gate.wait()
            self.reached.clear()
        return verdicts


def add(ctx: StateContext) -> None:
    ctx.put(ctx.get(int, "n", default=0) + 1, "n")


async def count(engine: Engine, id: str = "a") -> int:
    return (await engine.get_state(id)).get(int, "n", default=0)


async def commit_elsewhere(engine: Engine, id: str = "a") -> None:
    """Commit a state as another process would: without a turn."""
    ctx = StateContext(await engine.get_state(id))
    await engine.do(Commit(Pause(ctx)))
