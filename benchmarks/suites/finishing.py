"""Waiting until an engine has executed so many states to their end."""

import asyncio

from benchmarks.flows import FINISH
from flowstate import Command, Commit, End, Engine, StateContext

__all__ = ["Finishing"]

TIME_LIMIT = 300.0


class Finishing:
    """Counts the executions of the flow that ends states."""

    def __init__(self, engine: Engine, count: int) -> None:
        self._engine = engine
        self._left = count
        self._all = asyncio.Event()

        async def finish(ctx: StateContext, engine: Engine) -> Command:
            self._count()
            return Commit(End(ctx))

        engine.flows.set(FINISH, finish, replace=True)

    def _count(self) -> None:
        self._left -= 1
        if not self._left:
            self._all.set()

    async def wait(self) -> None:
        """Return when all of them are committed as ended.

        Raises:
            TimeoutError: they are not.
        """
        async with asyncio.timeout(TIME_LIMIT):
            await self._all.wait()
            await self._engine.idle()
