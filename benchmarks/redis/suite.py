"""The comparisons on Redis, each with its mark."""

import itertools
import os
from contextlib import AsyncExitStack
from functools import partial

from msgspec.structs import replace

from benchmarks import workloads
from benchmarks.comparison import Comparison, Sizes
from benchmarks.growth import Filled, growth
from benchmarks.redis.limits import PIPELINE, Bare
from flowstate import Engine
from flowstate.drivers.redis import RedisDriver
from tests.redis_servers import DURABLE, RedisServer

__all__ = ["comparisons"]

GIVEN = "FLOWSTATE_TEST_REDIS_URL"
SMALL_LOG = 10_000
MANY = 8  # Times as many commits by 64 tasks as by one.
GROWTH = 1.2


class _Server:
    """The one that the environment names, or one of our own that starts when it is needed first.

    Ours is as durable as Redis can be.
    """

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack
        self._url = os.environ.get(GIVEN, "")
        self._engine: Engine | None = None
        self._bare: Bare | None = None

    def url(self) -> str:
        if not self._url:
            self._url = self._stack.enter_context(RedisServer(DURABLE)).url()
        return self._url

    async def engine(self) -> Engine:
        """Return an engine whose connections are warm."""
        if self._engine is None:
            driver = RedisDriver(self.url(), namespace=f"benchmarks-{os.getpid()}")
            engine = Engine(driver, workloads.registry())
            self._engine = await self._stack.enter_async_context(engine)
            await workloads.commits(self._engine, 10 * 64, 64, name="warm")
        return self._engine

    async def bare(self) -> Bare:
        if self._bare is None:
            self._bare = await Bare.open(self._stack, self.url())
        return self._bare


def comparisons(stack: AsyncExitStack, sizes: Sizes) -> list[Comparison]:
    """Return what to measure."""
    server = _Server(stack)
    names = (f"hot{number}" for number in itertools.count())
    few = sizes.postgres
    many = max(MANY * sizes.postgres, PIPELINE)

    async def one() -> float:
        return await workloads.commits(await server.engine(), few, 1, next(names))

    async def bare_one() -> float:
        return await (await server.bare()).one(few)

    async def tasks() -> float:
        return await workloads.commits(await server.engine(), many, 64, next(names))

    async def bare_many() -> float:
        return await (await server.bare()).many(many)

    async def delivery() -> float:
        return await workloads.delivery(await server.engine(), sizes.operations, next(names))

    return [
        Comparison("redis: one task", "commit", one, bare_one, 1 / 0.7),
        Comparison("redis: 64 tasks", "commit", tasks, bare_many, 1 / 0.6),
        Comparison("redis: commit to watcher", "s", delivery, None, 0.005),
        *_growth(stack, server, sizes),
    ]


def _growth(stack: AsyncExitStack, server: _Server, sizes: Sizes) -> list[Comparison]:
    revisions = sizes.redis_log

    def filled(size: int) -> Filled:
        def make() -> RedisDriver:
            return RedisDriver(server.url(), namespace=f"growth-{os.getpid()}-{size}")

        return Filled(stack, make, partial(workloads.fill, revisions=size))

    small, large = filled(min(SMALL_LOG, revisions // 10)), filled(revisions)
    found = growth(f"redis, {revisions:,} revisions", small, large, sizes)
    return [replace(comparison, mark=GROWTH) for comparison in found]
