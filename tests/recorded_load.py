"""Commits, reads and watches of all kinds by several tasks, all recorded.

``python -m tests.recorded_load STORE SCHEMA HISTORY OPERATIONS SEED`` does that in a process of its
own; the store is a file for SQLite, or the URL of a server.
"""

import asyncio
import contextlib
import random
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from flowstate import (
    Check,
    Command,
    Commit,
    Data,
    Delay,
    Engine,
    FlowRegistry,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
    Status,
    StoreData,
    Transit,
)
from flowstate.driver import Driver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.testing.history import HistoryFile, Record
from flowstate.testing.recorder import RecordedWatch, Recorder

__all__ = ["driver_on", "work"]

IDS = [f"state-{number}" for number in range(40)]
KINDS = "abc"
LABELS: list[list[dict[str, str]]] = [[], [{"kind": "a"}], [{"kind": "b"}, {"kind": "c"}]]
TASKS = 4
LONG = timedelta(days=1)


def driver_on(store: str, schema: str) -> Driver:
    """Return a driver for a file or a URL."""
    if store.startswith("redis"):
        return RedisDriver(store, namespace=schema)
    if store.startswith("postgres"):
        return PostgresDriver(store, schema=schema)
    return SQLiteDriver(store)


class Worker:
    """One task, with contexts of its own, which others make out of date."""

    def __init__(self, engine: Engine, rng: random.Random) -> None:
        self._engine = engine
        self._rng = rng
        self._contexts: dict[str, StateContext] = {}

    async def step(self) -> None:
        """Do one operation."""
        act = self._rng.choices([self._commit, self._get, self._page], [6, 5, 1])[0]
        await act()

    async def _commit(self) -> None:
        rng = self._rng
        contexts = [self._context(id) for id in rng.sample(IDS, rng.choice([1, 1, 1, 2, 3]))]
        commands = [await self._step(ctx) for ctx in contexts]
        if len(contexts) > 1 and rng.random() < 0.3:
            commands[-1] = Check(contexts[-1])
        try:
            await self._engine.do(Commit(*commands))
        except RevisionMismatchError as error:
            for id in error.ids:
                await self._refresh(id)

    async def _step(self, ctx: StateContext) -> Command[Any]:
        rng = self._rng
        ctx.set_label("kind", rng.choice(KINDS))
        match rng.randrange(20):
            case 0:
                ctx.data["blob"] = Data(f"{rng.random()}".encode())
                return StoreData(ctx, "blob")
            case 1:
                return Delay(ctx, "next", after=LONG)
            case 2 | 3 | 4:
                return Pause(ctx)
            case _:
                return Transit(ctx, "next")

    def _context(self, id: str) -> StateContext:
        return self._contexts.setdefault(id, StateContext(State(id)))

    async def _refresh(self, id: str) -> None:
        with contextlib.suppress(StateNotFoundError):
            self._contexts[id] = StateContext(await self._engine.get_state(id))

    async def _get(self) -> None:
        await self._refresh(self._rng.choice(IDS))

    async def _page(self) -> None:
        rng = self._rng
        await self._engine.get_states(
            labels=rng.choice(LABELS),
            since_rev=rng.randrange(max(1, await self._engine.head())),
            status=rng.choice([None, Status.PAUSED]),
            latest_only=rng.random() < 0.3,
            limit=rng.randrange(1, 50),
        )


class Watcher:
    """Watches for ever, with a new watch now and then."""

    def __init__(self, recorder: Recorder, engine: Engine, rng: random.Random) -> None:
        self._recorder = recorder
        self._engine = engine
        self._rng = rng
        self._watch: RecordedWatch | None = None

    async def run(self, **filters: Any) -> None:
        """Watch until cancelled."""
        name, cursor = None, 0
        while True:
            watch = self._recorder.watch(self._engine, name, since_rev=cursor, **filters)
            async with watch as self._watch:
                name = watch.name
                for _ in range(self._rng.randrange(1, 300)):
                    await anext(watch)
                cursor = watch.cursor

    async def reach(self, rev: int) -> None:
        """Wait until everything up to ``rev`` was delivered."""
        # A cursor tells nobody that it moves.
        while self._watch is None or self._watch.cursor < rev:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def work(
    driver: Driver, record: Callable[[Record], object], operations: int, seed: int
) -> None:
    """Do so many operations in several tasks, and watch meanwhile."""
    flows = FlowRegistry()
    flows.declare("next")
    recorder = Recorder(driver, record)

    async def task(engine: Engine, number: int) -> None:
        worker = Worker(engine, random.Random(f"{seed} {number}"))
        for _ in range(operations // TASKS):
            await worker.step()

    async with Engine(recorder, flows) as engine:
        watchers = [Watcher(recorder, engine, random.Random(f"{seed} {i}")) for i in range(2)]
        filters: list[dict[str, Any]] = [{}, {"labels": {"kind": "a"}}]
        watching = [
            asyncio.create_task(watcher.run(**each))
            for watcher, each in zip(watchers, filters, strict=True)
        ]
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(TASKS):
                    group.create_task(task(engine, number))
            last = StateContext(State(f"last-{seed}", labels={"kind": "a"}))
            await engine.do(Commit(Pause(last)))
            reaching = asyncio.gather(*(each.reach(last.committed.rev) for each in watchers))
            pending: list[asyncio.Future[Any]] = [reaching, *watching]
            await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            assert reaching.done(), watching
        finally:
            for running in watching:
                running.cancel()
            await asyncio.wait(watching)


async def main(store: str, schema: str, path: str, operations: str, seed: str) -> None:
    with HistoryFile(path) as file:
        await work(driver_on(store, schema), file.append, int(operations), int(seed))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
