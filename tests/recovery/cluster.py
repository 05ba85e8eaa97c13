"""Workers as processes of their own, which are killed, replaced, stopped and continued."""

import asyncio
import itertools
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

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


class Worker:
    """A process."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.process = process
        self.is_stopped = False


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
        self._running: list[Worker] = []
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
        for worker in self._running:
            if exc_type is None:
                assert worker.process.stdin is not None
                worker.process.stdin.close()
            else:
                _kill(worker.process)
        try:
            async with asyncio.timeout(TIME_LIMIT):
                codes = [await worker.process.wait() for worker in self._running]
        except BaseException:
            self._kill_all()
            raise
        assert exc_type is not None or codes == [0] * self._size, f"they ended with {codes}"

    def journals(self) -> list[Path]:
        """Return the files in which the workers have noted what they did."""
        return sorted(self._folder.glob("*.journal"))

    def check(self) -> None:
        """Raise if a worker has ended by itself."""
        for worker in self._running:
            code = worker.process.returncode
            assert code is None, f"{worker.name} ended with {code}: see {self._folder}"

    def tell(self, line: str) -> None:
        """Send a line to some worker, whatever becomes of it then."""
        worker = self._chance.choice(self._running)
        assert worker.process.stdin is not None
        worker.process.stdin.write(f"{line}\n".encode())

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
            victim = self._chance.choice([each for each in self._running if not each.is_stopped])
            self.suspensions.append(Suspension(victim.name, time.monotonic_ns()))
            victim.process.kill()
            self._running.remove(victim)
            await victim.process.wait()
            await self._start()

    async def _stop_and_continue(self, leader: Callable[[], str]) -> None:
        for turn in itertools.count():
            await asyncio.sleep(STOP_EVERY - STOPPED_FOR)
            victim = self._chance.choice(self._running)
            if turn % 2 == 0:  # Every other time it is the one that recovers.
                victim = next((each for each in self._running if each.name == leader()), victim)
            suspension = Suspension(victim.name, time.monotonic_ns())
            victim.is_stopped = True
            victim.process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(STOPPED_FOR)
            finally:
                suspension.ended = time.monotonic_ns()
                self.suspensions.append(suspension)
                victim.process.send_signal(signal.SIGCONT)
                victim.is_stopped = False

    async def _start(self) -> None:
        name = next(self._names)
        journal = self._folder / f"{name}.journal"
        with journal.with_suffix(".log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._command,
                str(journal),
                stdin=asyncio.subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
            )
        self._running.append(Worker(name, process))

    def _kill_all(self) -> None:
        for worker in self._running:
            _kill(worker.process)


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
