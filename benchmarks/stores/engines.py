"""Engines that stay open from round to round, on stores that all suites of a run share."""

import asyncio
import gc
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct

from benchmarks.flows import registry
from benchmarks.setting import Setting
from benchmarks.stores.filling import commit_all
from benchmarks.stores.memory import MemoryStore
from benchmarks.stores.postgres import PostgresStore
from benchmarks.stores.redis import RedisStore
from benchmarks.stores.sqlite import SQLiteStore
from benchmarks.stores.store import Store
from flowstate import Commit, Driver, End, Engine, State, StateContext, Transit

__all__ = ["WARM_UP_TASKS", "Content", "Engines", "engines_of"]

WARM_UP_TASKS = 64
WARM_UP_COMMITS = 10  # Of each task.

_known: dict[Setting, tuple["Engines", ...]] = {}


class Content(Struct, frozen=True):
    """A place of a store, and what it holds at first.

    Attributes:
        place: its name.
        states: how many it was filled with.
        timers: how many are pending for years, each with a state that it belongs to.
        sleeping: how many instances of a workflow sleep.
    """

    place: str
    states: int = 0
    timers: int = 0
    sleeping: int = 0

    @property
    def is_filled(self) -> bool:
        """Whether it holds anything at first."""
        return bool(self.states or self.timers or self.sleeping)


class Engines:
    """The engines on one kind of store.

    Attributes:
        store: that they are on.
    """

    def __init__(self, setting: Setting, store: Store) -> None:
        self.store = store
        self._stack = setting.stack
        self._open: dict[Content, Engine] = {}
        self._numbers = itertools.count()

    @property
    def small(self) -> Content:
        """A store with few revisions."""
        return Content("small", self.store.small_log)

    @property
    def large(self) -> Content:
        """A store with many."""
        return Content("large", self.store.log)

    def unique(self) -> str:
        """Return a name that no state of this run has."""
        return f"n{next(self._numbers)}"

    @asynccontextmanager
    async def on(self, content: Content) -> AsyncIterator[Engine]:
        """Lend an engine whose connections are warm.

        In memory, a place that is empty at first is another one each time: else it would grow from
        round to round by as much as one round can commit, which is a lot.
        """
        if self.store.is_shared or content.is_filled:
            yield await self._kept(content)
        else:
            async with Engine(self.store.driver(self.unique()), registry()) as engine:
                await _warm_up(engine, self.unique())
                yield engine

    async def _kept(self, content: Content) -> Engine:
        engine = self._open.get(content)
        if engine is None:
            engine = Engine(self._driver(content), registry())
            await self._stack.enter_async_context(engine)
            if content.states:
                await self.store.fill(content.place, content.states)
            if content.timers:
                await _set_timers(engine.driver, content.timers)
            if content.sleeping:
                await _put_to_sleep(engine.driver, content.sleeping)
            await _warm_up(engine, self.unique())
            self._open[content] = engine
        return engine

    @asynccontextmanager
    async def counting(self, content: Content) -> AsyncIterator[Engine]:
        """Lend another engine on the same place; samples say how many statements it sends."""
        await self._kept(content)
        with self.store.counting():
            async with Engine(self._driver(content), registry()) as engine:
                await _warm_up(engine, self.unique())
                yield engine

    def _driver(self, content: Content) -> Driver:
        return self.store.driver(content.place)


def engines_of(setting: Setting) -> tuple[Engines, ...]:
    """Return what all suites of a run share."""
    if setting not in _known:
        setting.stack.callback(_known.pop, setting)
        kinds = (MemoryStore, SQLiteStore, PostgresStore, RedisStore)
        _known[setting] = tuple(Engines(setting, kind(setting)) for kind in kinds)
    return _known[setting]


async def _set_timers(driver: Driver, count: int) -> None:
    # The library of an older checkout has no timers.
    from benchmarks.stores.pending import timed_writes  # noqa: PLC0415

    await commit_all(driver, timed_writes(count))
    gc.collect()
    gc.freeze()  # In memory: else everything later pays for looking through them.


async def _put_to_sleep(driver: Driver, count: int) -> None:
    # The library of an older checkout has no workflows.
    from benchmarks.stores.sleeping import asleep, sleeping_writes  # noqa: PLC0415

    await commit_all(driver, sleeping_writes(await asleep(), count))
    gc.collect()
    gc.freeze()  # As above.


async def _warm_up(engine: Engine, name: str) -> None:
    """Open connections, and have them prepare their statements."""

    async def work(task: int) -> None:
        ctx = StateContext(State(f"warm-{name}-{task}"))
        for _ in range(WARM_UP_COMMITS):
            await engine.do(Commit(Transit(ctx, "first")))
        await engine.do(Commit(End(ctx)))  # Else a look for stalled states finds it.

    await work(WARM_UP_TASKS)
    await asyncio.gather(*map(work, range(WARM_UP_TASKS)))
