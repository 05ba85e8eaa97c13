"""A process that can die in the middle of anything: an event loop of its own, which then stops.

What a real process has not done when it is killed, it never does: no ``finally`` runs, no task is
told. So the loop of a process that dies is left as it stands, until the outcome has been looked
at. Only then are its tasks cancelled, so that nothing is left behind.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Self, TypeVar

from flowstate.clock import FakeClock
from flowstate.driver import Driver, Verdict, Writes
from flowstate.errors import DriverClosedError
from flowstate.recovery.policy import attempt

__all__ = ["Fault", "Process", "Script"]

T = TypeVar("T")

LEASES = "flowstate.lease."
SECONDS_TO_BURY = 1.0
ATTEMPTS_TO_BURY = 5


class Fault(StrEnum):
    """What goes wrong at a point at which a process writes to its store."""

    BEFORE = "the process died right before"
    AFTER = "the process died right after"
    REPLY_LOST = "the process died before it heard of"
    ASKED_AGAIN = "the driver lost the reply, and asked again, to"


class Script:
    """What goes wrong in a run, and at which points its processes have written so far.

    Args:
        faults: by the number of the point, from 1.

    Attributes:
        points: what was written at each, in words.
        faults: as given.
    """

    def __init__(self, faults: dict[int, Fault]) -> None:
        self.faults = faults
        self.points: list[str] = []

    def next(self, what: str) -> Fault | None:
        """Note a point; return what goes wrong there."""
        self.points.append(what)
        return self.faults.get(len(self.points))


class Process:
    """An event loop, a clock and a connection to the store, until it dies.

    Args:
        store: survives it.
        script: when it dies.
        start: the time of day.

    Attributes:
        clock: of this process; its monotonic time begins at 0, as after a reboot.
        driver: what its engine gets for a driver.
        is_dead: whether it has died.
    """

    def __init__(self, store: Driver, script: Script, start: datetime) -> None:
        # Not new_event_loop(): the fake clock looks into the loop, and others look different.
        self._loop = asyncio.SelectorEventLoop()
        # A loop that is told to stop still runs what is ready, and has no public way not to.
        self._ready: deque[asyncio.Handle] = self._loop._ready  # type: ignore[attr-defined]  # noqa: SLF001
        self._loop.set_exception_handler(_ignore)
        self._frozen: list[asyncio.Handle] = []
        self._dies_next = False
        self._is_buried = False
        self.clock = FakeClock(start)
        self.driver = Connection(store, self, script)
        self.is_dead = False

    def run(self, main: Coroutine[Any, Any, T]) -> T | None:
        """Run ``main`` to its end, and return what it returns; ``None`` if the process dies."""
        task = self._loop.create_task(main)
        task.add_done_callback(self._stop)
        self._loop.run_forever()
        task.remove_done_callback(self._stop)
        return None if self.is_dead else task.result()

    def _stop(self, _: object) -> None:
        self._loop.stop()

    def die(self) -> None:
        """Let nothing run any more, not even what is ready to."""
        if self.is_dead:
            return
        self.is_dead = True
        self._frozen = list(self._ready)
        nothing = asyncio.Handle(lambda: None, (), self._loop)
        for place in range(len(self._frozen)):
            self._ready[place] = nothing
        self._loop.stop()

    def die_soon(self) -> None:
        """Die when the store is asked next, or as soon as whatever runs now waits."""
        self._dies_next = True
        self._ready.appendleft(asyncio.Handle(self.die, (), self._loop))

    async def check(self) -> None:
        """Return if the process lives."""
        if self._is_buried:
            raise DriverClosedError("the process is dead")
        if self._dies_next:
            await self.death()

    async def death(self) -> None:
        """Die, and never return, but for the burial."""
        self.die()
        await self._loop.create_future()

    def bury(self) -> None:
        """Cancel whatever is left; it cannot reach the store."""
        self._is_buried = True
        self._ready.extend(self._frozen)
        self._frozen.clear()
        level = logging.root.manager.disable
        logging.disable()  # Engines complain when their store is gone.
        try:
            for _ in range(ATTEMPTS_TO_BURY):
                left = asyncio.all_tasks(self._loop)
                if not left:
                    break
                self._loop.run_until_complete(_cancel(left))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
            logging.disable(level)


def _ignore(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    pass  # There is no process any more to see to what is left.


async def _cancel(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=SECONDS_TO_BURY)


class Connection:
    """A driver that is gone with its process, and counts the points at which it writes.

    What it does not have itself is that of the store, as long as the process lives.
    """

    def __init__(self, store: Driver, process: Process, script: Script) -> None:
        self._store = store
        self._process = process
        self._script = script

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found

        async def call(*args: Any) -> Any:
            await self._process.check()
            return await found(*args)

        return call

    async def __aenter__(self) -> Self:
        await self._store.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        pass

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Commit, unless the script says otherwise. Leases are no business of the user."""
        what = "; ".join(filter(None, map(_in_words, batch)))
        if not what:
            await self._process.check()
            return await self._store.commit(batch)
        await self._process.check()
        fault = self._script.next(what)
        if fault is Fault.BEFORE:
            await self._process.death()
        verdicts = await self._store.commit(batch)
        if fault is Fault.REPLY_LOST:
            await self._process.death()
        elif fault is Fault.ASKED_AGAIN:
            # What has happened is found by its token, so it has the verdict that it had.
            again = await self._store.commit(batch)
            pairs = zip(verdicts, again, strict=True)
            verdicts = [one if isinstance(one, tuple) else other for one, other in pairs]
        elif fault is Fault.AFTER:
            self._process.die_soon()
        return verdicts


def _in_words(writes: Writes) -> str:
    """Say what a commit writes; nothing if that is only a lease."""
    parts = []
    for state in writes.puts:
        if not state.id.startswith(LEASES):
            parts.append(f"{state.id!r} {state.status} in {state.transition.to!r}")
            if number := attempt(state):
                parts.append(f"attempt {number}")
    parts += [f"delay of {delay.state.id!r} to {delay.to!r}" for delay in writes.delays]
    parts += [f"data of {len(data.blob)} bytes" for data in writes.data]
    parts += [f"claim of delay {claim.id}" for claim in writes.claims]
    parts += [f"drop of delay {drop.id}" for drop in writes.drops]
    return ", ".join(parts)
