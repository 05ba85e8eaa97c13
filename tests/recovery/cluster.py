"""Workers as processes of their own, which are killed, replaced, stopped and continued."""

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

from flowstate.testing.faults import Worker

__all__ = ["Cluster", "Suspension"]

ROOT = Path(__file__).parents[2]
KILL_EVERY = 2.0
STOP_EVERY = 7.0
STOPPED_FOR = 3.5  # Longer than the lease, and than most executions may stand still.
TIME_LIMIT = 30.0


class Suspension(Struct):
    """A time in which a worker did nothing.

    Attributes:
        worker: its name.
        began: in nanoseconds, just before the signal was sent.
        ended: when it went on; ``None`` when it was killed.
    """

    worker: str
    began: int
    ended: int | None = None


class Cluster:
    """Workers on one store; an async context manager.

    Args:
        command: what starts a worker; its journal is the last argument.
        folder: for the journals, and for what the workers write to stderr.
        size: how many of them run.
        chance: whom it hits.

    Attributes:
        suspensions: what was done to the workers.
    """

    def __init__(self, command: list[str], folder: Path, size: int, chance: random.Random) -> None:
        self._command = command
        self._folder = folder
        self._size = size
        self._chance = chance
        self._names = (f"worker-{number}" for number in itertools.count(1))
        self._running: dict[str, Worker] = {}
        self._processes = contextlib.AsyncExitStack()
        self.suspensions: list[Suspension] = []

    async def __aenter__(self) -> Self:
        for _ in range(self._size):
            await self._start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let the workers end in order; kill them when something has failed."""
        async with self._processes:
            if exc_type is None:
                await asyncio.gather(*(worker.finish() for worker in self._running.values()))

    def journals(self) -> list[Path]:
        """Return the files in which the workers have noted what they did."""
        return sorted(self._folder.glob("*.journal"))

    def check(self) -> None:
        """Raise if a worker has ended by itself."""
        for name, worker in self._running.items():
            code = worker.exit_code
            assert code is None, f"{name} ended with {code}: see {self._folder}"

    def tell(self, line: str) -> None:
        """Send a line to some worker, whatever becomes of it then."""
        self._chance.choice(list(self._running.values())).tell(line)

    async def burn(self, leader: Callable[[], str]) -> None:
        """Kill and replace, stop and continue workers, until cancelled.

        Args:
            leader: tells the name of the worker that recovers.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(self._kill_and_replace())
            group.create_task(self._stop_and_continue(leader))

    async def _kill_and_replace(self) -> None:
        while True:
            await asyncio.sleep(KILL_EVERY)
            self.check()
            name = self._chance.choice(
                [each for each, w in self._running.items() if not w.is_stopped]
            )
            self.suspensions.append(Suspension(name, time.monotonic_ns()))
            victim = self._running.pop(name)
            victim.kill()
            await victim.ended()
            await self._start()

    async def _stop_and_continue(self, leader: Callable[[], str]) -> None:
        for turn in itertools.count():
            await asyncio.sleep(STOP_EVERY - STOPPED_FOR)
            name = self._chance.choice(list(self._running))
            if turn % 2 == 0 and leader() in self._running:
                name = leader()  # Every other time it is the one that recovers.
            victim = self._running[name]
            suspension = Suspension(name, time.monotonic_ns())
            victim.stop()
            try:
                await asyncio.sleep(STOPPED_FOR)
            finally:
                suspension.ended = time.monotonic_ns()
                self.suspensions.append(suspension)
                victim.go_on()

    async def _start(self) -> None:
        name = next(self._names)
        journal = self._folder / f"{name}.journal"
        log = journal.with_suffix(".log")
        worker = Worker(*self._command, journal, folder=ROOT, log=log, timeout=TIME_LIMIT)
        self._running[name] = await self._processes.enter_async_context(worker)
