"""Ours of a workload: the work, on an engine that stays, and its statements, counted once."""

from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from benchmarks.stores.engines import Content, Engines
from benchmarks.workload import Sample
from flowstate import Engine

__all__ = ["Measured", "Work"]

Work = Callable[[Engine, int], Awaitable[Sample]]
"""Does exactly so many units on an engine."""


class Measured:
    """Measures each time it is called.

    Statements are counted in a round of its own, the first time, so that counting slows nothing
    that is measured.

    Args:
        engines: on the store.
        content: of the place to work on.
        work: to be done.
        units: in a round.
        counted: in the round that counts; a quarter of that by default.
    """

    def __init__(
        self,
        engines: Engines,
        content: Content,
        work: Work,
        units: int,
        *,
        counted: int | None = None,
    ) -> None:
        self._engines = engines
        self._content = content
        self._work = work
        self._units = units
        self._counted = counted or max(1, units // 4)
        self._statements: float | None = None

    async def __call__(self) -> Sample:
        async with self._engines.on(self._content) as engine:
            sample = await self._work(engine, self._units)
        if self._statements is None and self._engines.store.is_shared:
            self._statements = await self._count()
        return replace(sample, statements=self._statements)

    async def _count(self) -> float | None:
        async with self._engines.counting(self._content) as engine:
            return (await self._work(engine, self._counted)).statements
