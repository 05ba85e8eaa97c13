"""A driver that tests of watches can script, and what they do with it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence

from msgspec.structs import replace

from flowstate import Commit, Engine, Pause, State, StateContext
from flowstate.driver import DamagedRevision, Driver, Seen, StateQuery, States, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.testcases.support import DriverWrapper

__all__ = ["Scripted", "consume", "consuming", "pause", "settled", "turns_until"]


class Scripted(DriverWrapper):
    """Counts pages; loses, damages and rewinds when told to; holds answers back.

    Attributes:
        pages: how many were read.
        waits: how many calls wait for a change.
        lost: revisions that pages leave out.
        damaged: revisions that cannot be read; those in ``labelled`` are found by labels.
        error: what the next wait for a change raises.
        before: is awaited before the next page is read; ``after`` before it is returned.
        verdicts: is awaited before the verdicts of the next batch are returned.
        reached: set when one of these is awaited.
        head: replaces that of the store, if it is not ``None``.
    """

    def __init__(self, driver: Driver | None = None) -> None:
        super().__init__(driver or MemoryDriver())
        self.max_batch_size = 16
        self.pages = self.waits = 0
        self.lost: set[int] = set()
        self.damaged: set[int] = set()
        self.labelled: set[int] = set()
        self.error: Exception | None = None
        self.before: asyncio.Event | None = None
        self.after: asyncio.Event | None = None
        self.verdicts: asyncio.Event | None = None
        self.reached = asyncio.Event()
        self.head: int | None = None
        self._nudged = asyncio.Event()

    def nudge(self) -> None:
        """Let each wait for a change return, as a hint that may be wrong."""
        self._nudged.set()

    async def get_states(self, query: StateQuery) -> States:
        self.pages += 1
        await self._hold("before")
        page = await super().get_states(query)
        await self._hold("after")
        if self.head is not None:
            page = replace(page, head=self.head, states=[])
        missing = self.lost | self.damaged
        named = self.labelled if query.labels else self.damaged
        last = page.states[-1].rev if page.more and page.states else page.head
        bad = [
            DamagedRevision(rev, f"of {rev}", "on purpose")
            for rev in sorted(named)
            if query.after < rev <= last
        ]
        states = [state for state in page.states if state.rev not in missing]
        return replace(page, states=states, damaged=bad)

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        verdicts = await super().commit(batch)
        await self._hold("verdicts")
        return verdicts

    async def changed(self, seen: Seen) -> Seen:
        if self.error is not None:
            raise self.error
        if self.head is not None and seen.head != self.head:
            return Seen(self.head, seen.due)
        self.waits += 1
        nudged = asyncio.ensure_future(self._nudged.wait())
        changed = asyncio.ensure_future(super().changed(seen))
        try:
            await asyncio.wait([nudged, changed], return_when=asyncio.FIRST_COMPLETED)
            self._nudged.clear()
            return changed.result() if changed.done() else seen
        finally:
            self.waits -= 1
            nudged.cancel()
            changed.cancel()

    async def _hold(self, name: str) -> None:
        event: asyncio.Event | None = getattr(self, name)
        if event is not None:
            self.reached.set()
            await event.wait()
            setattr(self, name, None)


async def pause(engine: Engine, id: str, **labels: str) -> None:
    await engine.do(Commit(Pause(StateContext(State(id, labels=labels)))))


async def settled() -> None:
    """Return when all that can run without an event from outside has run."""
    for _ in range(30):
        await asyncio.sleep(0)  # reason: lets the others go on


async def turns_until(reached: Callable[[], bool]) -> None:
    while not reached():  # noqa: ASYNC110 - what is waited for sends no event
        await asyncio.sleep(0)  # reason: lets the others go on


async def consume(engine: Engine, seen: list[int], count: int, **labels: str) -> list[int]:
    async with engine.watch(labels=labels) as states:
        while len(seen) < count:
            seen.append((await anext(states)).rev)
    return seen


@contextlib.asynccontextmanager
async def consuming(
    engine: Engine, count: int, **labels: str
) -> AsyncIterator["asyncio.Task[list[int]]"]:
    """Have a watch that waits for so many revisions."""
    task = asyncio.create_task(consume(engine, [], count, **labels))
    await settled()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
