"""The driver of which the broken ones are made."""

import asyncio
import itertools
from collections.abc import Sequence

from flowstate.clock import Clock
from flowstate.driver import StateQuery, States, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver

__all__ = ["Base"]


class Base(MemoryDriver):
    """Commits the batch one by one, so that what follows can break one commit."""

    def __init__(self, clock: Clock | None = None) -> None:
        super().__init__(clock)
        self.serial = itertools.count(1)

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        return [await self.commit_one(writes) for writes in batch]

    async def commit_one(self, writes: Writes) -> Verdict:
        return await self.apply(writes)

    async def apply(self, writes: Writes) -> Verdict:
        (verdict,) = await super().commit([writes])
        return verdict

    async def get_states(self, query: StateQuery) -> States:
        await asyncio.sleep(0)  # reason: a reader that is never satisfied asks again and again
        return await super().get_states(query)
