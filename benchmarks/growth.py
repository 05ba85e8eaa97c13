"""The same work on a small log and on a large one."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from benchmarks import workloads
from benchmarks.comparison import Comparison, Measure, Sizes
from flowstate import Driver, Engine

__all__ = ["Filled", "growth"]


class Filled:
    """A store with many revisions, from the time that somebody asks for it.

    A million objects make the garbage collector slow, and with it the bare loops.
    """

    def __init__(
        self,
        stack: AsyncExitStack,
        make: Callable[[], Driver],
        fill: Callable[[Driver], Awaitable[None]],
    ) -> None:
        self._stack = stack
        self._make = make
        self._fill = fill
        self._engine: Engine | None = None

    async def engine(self) -> Engine:
        if self._engine is None:
            driver = self._make()
            engine = Engine(driver, workloads.registry())
            self._engine = await self._stack.enter_async_context(engine)
            await self._fill(driver)
        return self._engine


def growth(name: str, small: Filled, large: Filled, sizes: Sizes) -> list[Comparison]:
    """Return what to measure on two stores of one driver."""
    rounds = iter(range(1_000_000))

    def on(store: Filled, what: str) -> Measure:
        async def measure() -> float:
            engine = await store.engine()
            unique = f"{what}{next(rounds)}"
            if what == "commit":
                return await workloads.commits(engine, sizes.operations, name=unique)
            if what == "get by id":
                return await workloads.gets(engine, sizes.operations)
            if what == "page by label":
                return await workloads.pages(engine, sizes.operations)
            return await workloads.delivery(engine, sizes.operations, unique)

        return measure

    operations = ("commit", "get by id", "page by label", "watch")
    return [
        Comparison(f"{name}: {what}", "operation", on(large, what), on(small, what), 1.3)
        for what in operations
    ]
