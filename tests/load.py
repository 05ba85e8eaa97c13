"""Commits under load while something breaks; afterwards: does the log agree with the answers?"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Self

from flowstate import (
    Commit,
    CommitUnknownError,
    DriverError,
    Engine,
    FlowRegistry,
    RevisionMismatchError,
    State,
    StateContext,
    StateNotFoundError,
    Transit,
)
from flowstate.driver import Driver

__all__ = ["MARKER", "Load"]

LABEL = "attempt"
MARKER = LABEL.encode()
"""What requests that commit have in them, and no other ones."""
IDS = [f"state-{number}" for number in range(40)]
MOST_AT_ONCE = 3


class Load:
    """Tasks that commit one state, or a few at once, and a watcher; an async context manager.

    At the end it checks the log against what the commits and the watcher were told.

    Attributes:
        outcomes: how often commits ended how.
    """

    def __init__(self, driver: Driver, *, tasks: int = 16, seed: int = 1) -> None:
        flows = FlowRegistry()
        flows.declare("next")
        self._engine = Engine(driver, flows)
        self._random = random.Random(seed)
        self._count = tasks
        self._stopping = False
        self._attempts: list[tuple[str, ...]] = []
        self._told: dict[int, str | tuple[int, ...]] = {}
        self._watched: list[State] = []
        self._progress = asyncio.Condition()
        self._acknowledged = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.outcomes: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        await self._engine.__aenter__()
        self._tasks = [asyncio.create_task(self._commits()) for _ in range(self._count)]
        self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                await self.more(2 * self._count)
                self._stopping = True
                await asyncio.gather(*self._tasks)
                await self._check()
        finally:
            for task in (*self._tasks, self._watcher):
                task.cancel()
            await asyncio.wait([*self._tasks, self._watcher])
            await self._engine.__aexit__(None, None, None)

    async def more(self, count: int) -> None:
        """Wait until so many further commits are acknowledged."""
        enough = self._acknowledged + count
        async with self._progress:
            await self._progress.wait_for(lambda: self._acknowledged >= enough or self._failed())
        for task in (*self._tasks, self._watcher):
            if task.done():
                task.result()

    def _failed(self) -> bool:
        return any(task.done() for task in (*self._tasks, self._watcher))

    async def _commits(self) -> None:
        try:
            while not self._stopping:
                await self._attempt()
        finally:
            await self._tell()

    async def _tell(self) -> None:
        async with self._progress:
            self._progress.notify_all()

    async def _attempt(self) -> None:
        count = self._random.choice([1, 1, self._random.randint(2, MOST_AT_ONCE)])
        try:
            contexts = [await self._context(id) for id in self._random.sample(IDS, count)]
        except DriverError as error:
            self.outcomes[f"read: {type(error).__name__}"] += 1
            return
        number = len(self._attempts)
        self._attempts.append(tuple(ctx.current.id for ctx in contexts))
        for ctx in contexts:
            ctx.set_label(LABEL, str(number))
        try:
            await self._engine.do(Commit(*(Transit(ctx, "next") for ctx in contexts)))
        except (DriverError, CommitUnknownError, RevisionMismatchError) as error:
            self._told[number] = type(error).__name__
            self.outcomes[type(error).__name__] += 1
        else:
            self._told[number] = tuple(ctx.committed.rev for ctx in contexts)
            self.outcomes["acknowledged"] += 1
            self._acknowledged += 1
            await self._tell()

    async def _context(self, id: str) -> StateContext:
        try:
            return StateContext(await self._engine.get_state(id))
        except StateNotFoundError:
            return StateContext(State(id))

    async def _watch(self) -> None:
        cursor = 0
        try:
            while True:
                async with self._engine.watch(since_rev=cursor) as states:
                    with contextlib.suppress(DriverError):
                        async for state in states:
                            self._watched.append(state)
                            cursor = state.rev
                            await self._tell()
        finally:
            await self._tell()

    async def _check(self) -> None:
        log = [state async for state in self._engine.states()]
        assert [state.rev for state in log] == list(range(1, len(log) + 1))
        async with self._progress:
            await self._progress.wait_for(
                lambda: len(self._watched) >= len(log) or self._watcher.done()
            )
        assert self._watched == log
        for one, later in pairwise(log):
            assert one.committed_at is not None
            assert later.committed_at is not None
            assert one.committed_at <= later.committed_at
        self._check_attempts(log)

    def _check_attempts(self, log: Sequence[State]) -> None:
        found: dict[int, list[State]] = {}
        for state in log:
            found.setdefault(int(state.labels[LABEL]), []).append(state)
        for number, ids in enumerate(self._attempts):
            states = found.pop(number, [])
            told = self._told[number]
            if isinstance(told, tuple):
                assert tuple(state.rev for state in states) == told
            elif told != CommitUnknownError.__name__:
                assert states == [], told
            if states:
                revs = [state.rev for state in states]
                assert revs == list(range(revs[0], revs[0] + len(ids)))
                assert tuple(state.id for state in states) == ids
        assert found == {}
