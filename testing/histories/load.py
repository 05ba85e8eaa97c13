"""Commits, reads and watches of all kinds by several tasks, all recorded for the checker."""
# ruff: noqa: S311 - this chance is no secret

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from itertools import chain
from random import Random
from typing import Any

from flowstate.commands import (
    CancelTimer,
    Check,
    Command,
    Commit,
    Delay,
    End,
    Forget,
    Pause,
    SetTimer,
    StoreData,
    Transit,
)
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.driver import Driver
from flowstate.engine import Engine
from flowstate.errors import RevisionMismatchError, StateNotFoundError
from flowstate.ground.tasks import cancel_and_wait
from flowstate.registry import FlowRegistry
from flowstate.state import State, Status
from flowstate.testing.histories.history import Record
from flowstate.testing.histories.ledger import Ledger
from flowstate.testing.histories.recorder import RecordedWatch, Recorder

__all__ = ["run_load"]

IDS = [f"state-{number}" for number in range(40)]
KINDS = "abc"
LABELS: list[list[dict[str, str]]] = [[], [{"kind": "a"}], [{"kind": "b"}, {"kind": "c"}]]
WATCHED: list[dict[str, Any]] = [{}, {"labels": {"kind": "a"}}]
TASKS = 4
LONG = timedelta(days=1)
CANCELLED_AGAIN = 0.2
MOST_TURNS = 5
LONGEST_PAUSE = 0.003  # Seconds: about what a commit takes where there is a disk or a network.


class Client:
    """One task, with contexts of its own, which others make out of date."""

    def __init__(self, engine: Engine, ledger: Ledger, rng: Random, cancelling: float) -> None:
        self._engine = engine
        self._ledger = ledger
        self._rng = rng
        self._cancelling = cancelling
        self._contexts: dict[str, StateContext] = {}

    async def run(self, operations: int) -> None:
        """Do so many operations."""
        for _ in range(operations):
            act = self._rng.choices([self._commit, self._get, self._page], [6, 5, 1])[0]
            await act()

    async def _commit(self) -> None:
        rng = self._rng
        contexts = [self._context(id) for id in rng.sample(IDS, rng.choice([1, 1, 1, 2, 3]))]
        steps = [self._steps(ctx) for ctx in contexts]
        if len(contexts) > 1 and rng.random() < 0.3:  # noqa: PLR2004 - as good as any
            steps[-1] = [Check(contexts[-1])]
        commit = Commit(*chain.from_iterable(steps))
        try:
            if rng.random() < self._cancelling:
                await self._cancelled(commit, contexts)
            else:
                await self._engine.do(commit)
        except RevisionMismatchError as error:
            for id in error.ids:
                await self._refresh(id)

    async def _cancelled(self, commit: Commit, contexts: Sequence[StateContext]) -> None:
        """Commit, and cancel that at some moment, if it is not done by then."""
        task = asyncio.create_task(self._engine.do(commit))
        with self._ledger.following(task):
            try:
                await self._pause()
                again = task.cancel() and self._rng.random() < CANCELLED_AGAIN
                if again:
                    await asyncio.sleep(0)
                    task.cancel()
                await asyncio.wait([task])
            finally:
                task.cancel()
            if not task.cancelled():
                task.result()
            elif again:  # It did not wait for the outcome, so these may be out of date.
                for ctx in contexts:
                    await self._refresh(ctx.current.id)
            elif self._engine.driver.max_batch_size == 1:
                # Nothing stands between the driver and the task: cancelled, it has said no.
                self._ledger.deny(task)

    async def _pause(self) -> None:
        """Let a commit begin, or get on, or be done."""
        if self._rng.random() < 0.5:  # noqa: PLR2004 - as good as any
            await asyncio.sleep(self._rng.uniform(0, LONGEST_PAUSE))
        else:
            for _ in range(self._rng.randrange(MOST_TURNS)):
                await asyncio.sleep(0)

    def _steps(self, ctx: StateContext) -> list[Command[Any]]:
        rng = self._rng
        ctx.set_label("kind", rng.choice(KINDS))
        step: Command[Any] = Transit(ctx, "next")
        match rng.randrange(20):
            case 0:
                ctx.data["blob"] = Data(f"{rng.random()}".encode())
                step = StoreData(ctx, "blob")
            case 1:
                step = Delay(ctx, "next", after=LONG)
            case 2 | 3 | 4:
                step = Pause(ctx)
            case 5:
                return [step, SetTimer(ctx, "alarm", "next", after=LONG)]
            case 6:
                return [step, CancelTimer(ctx, "alarm")]
            case 7:
                return [End(ctx), Forget(ctx)]
        return [step]

    def _context(self, id: str) -> StateContext:
        ctx = self._contexts.get(id)
        if ctx is None or ctx.committed.transition.cause == "forget":
            ctx = self._contexts[id] = StateContext(State(id))
        return ctx

    async def _refresh(self, id: str) -> None:
        try:
            self._contexts[id] = StateContext(await self._engine.get_state(id))
        except StateNotFoundError:
            self._contexts.pop(id, None)

    async def _get(self) -> None:
        await self._refresh(self._rng.choice(IDS))

    async def _page(self) -> None:
        rng = self._rng
        await self._engine.get_states(
            labels=rng.choice(LABELS),
            since_rev=rng.randrange(max(1, await self._engine.head())),
            status=rng.choice([None, Status.PAUSED]),
            latest_only=rng.random() < 0.3,  # noqa: PLR2004 - as good as any
            limit=rng.randrange(1, 50),
            id=rng.choice([None, rng.choice(IDS)]),
        )


class Watcher:
    """Watches without end, with a new watch now and then."""

    def __init__(self, recorder: Recorder, engine: Engine, rng: Random) -> None:
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
        # A cursor gives no sign that it moves.
        while self._watch is None or self._watch.cursor < rev:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def run_load(
    drivers: Sequence[Driver],
    record: Callable[[Record], object],
    *,
    operations: int,
    seed: int,
    cancelling: float = 0.0,
) -> None:
    """Do so many operations on one store in several tasks, while others watch, and record it all.

    Each commit that was cancelled once, and did not happen as far as its caller was told, is
    recorded as one that failed: a driver that has stored it all the same has not told the truth.

    Args:
        drivers: objects on one store, which is empty but for what other loads do; they are
            opened here, and each task uses one of them.
        record: takes each record, such as ``list.append`` or ``HistoryFile.append``.
        operations: how many, watches left aside.
        seed: of the chance of this load; when tasks take turns is the event loop's.
        cancelling: which part of the commits is cancelled at some moment, from 0 to 1.

    Raises:
        Exception: what an operation raised, but for states that others have changed.
    """
    flows = FlowRegistry()
    flows.declare("next")
    ledger = Ledger(record)
    recorders = [Recorder(driver, ledger.record) for driver in drivers]
    async with contextlib.AsyncExitStack() as opened:
        engines = [
            await opened.enter_async_context(Engine(recorder, flows, tokens=ledger.token))
            for recorder in recorders
        ]
        watchers = [
            Watcher(recorders[i % len(drivers)], engines[i % len(drivers)], Random(f"{seed} {i}"))
            for i in range(len(WATCHED))
        ]
        clients = [
            Client(engines[i % len(drivers)], ledger, Random(f"{seed} {i}"), cancelling)
            for i in range(TASKS)
        ]
        async with _watching(watchers) as watching:
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(client.run(operations // TASKS))
            last = StateContext(State(f"last-{seed}", labels={"kind": "a"}))
            await engines[0].do(Commit(Pause(last)))
            await _all_reach(watchers, last.committed.rev, watching)


@contextlib.asynccontextmanager
async def _watching(watchers: Sequence[Watcher]) -> AsyncIterator["list[asyncio.Task[None]]"]:
    tasks = [
        asyncio.create_task(watcher.run(**filters))
        for watcher, filters in zip(watchers, WATCHED, strict=True)
    ]
    try:
        yield tasks
    finally:
        await cancel_and_wait(*tasks)


async def _all_reach(
    watchers: Sequence[Watcher], rev: int, watching: Sequence["asyncio.Task[None]"]
) -> None:
    """Wait until each watch has come so far; raise what one of them has raised."""
    reaching = asyncio.gather(*(watcher.reach(rev) for watcher in watchers))
    try:
        pending: list[asyncio.Future[Any]] = [reaching, *watching]
        await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for task in watching:
            if task.done():
                task.result()
    finally:
        reaching.cancel()
