"""Runs of a system in processes of its own, and what is taken from each of them."""

import asyncio
import secrets
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median

import msgspec
from msgspec.structs import replace

from benchmarks.peers.places import Places
from benchmarks.peers.systems import SYSTEMS
from benchmarks.peers.work import Kind
from benchmarks.peers.worker import Order
from benchmarks.workload import Measure, Sample

__all__ = ["Column", "Runs"]

ROOT = Path(__file__).parent.parent.parent
WARM_UP = 0.1  # Seconds, before each column.
COUNTING = 0.2  # Seconds.
TIME_LIMIT = 90.0
PATIENCE = 15.0  # Seconds that a process may take to end.
LAST_WORDS = 2_000  # Characters.


class Column(msgspec.Struct, frozen=True):
    """One figure of a run.

    Attributes:
        tasks: how much each process does at once.
        processes: how many there are.
        kind: what is measured.
    """

    tasks: int
    processes: int = 1
    kind: Kind = "rate"


class Runs:
    """Runs of one system; each gives a sample for every column.

    A process is started once for all columns, and not before the last run of another system has
    ended, so that nothing else works meanwhile.
    """

    def __init__(
        self, places: Places, system: str, columns: Sequence[Column], seconds: float
    ) -> None:
        self._places = places
        self._system = system
        self._columns = columns
        self._seconds = seconds
        self._runs: list[dict[Column, Sample]] = []
        self._statements: dict[Column, Sample] | None = None

    def measure(self, column: Column) -> Measure:
        """Return what takes the sample of a column: that of the first run first."""
        taken = 0

        async def measure() -> Sample:
            nonlocal taken
            SYSTEMS[self._system].check()
            if taken == len(self._runs):
                self._runs.append(await self._run())
            taken += 1
            return self._runs[taken - 1][column]

        return measure

    async def _run(self) -> dict[Column, Sample]:
        if self._statements is None:
            self._statements = await self._counted()
        async with AsyncExitStack() as stack:
            place = await stack.enter_async_context(self._places.of(self._system))
            samples = await self._samples(stack, place, self._seconds)
        return {
            column: replace(sample, statements=self._statements[column].statements)
            if column in self._statements
            else sample
            for column, sample in samples.items()
        }

    async def _counted(self) -> dict[Column, Sample]:
        """Count statements in a run of its own, since counting costs time."""
        async with AsyncExitStack() as stack:
            counting = await stack.enter_async_context(self._places.counting(self._system))
            if counting is None:
                return {}
            place, counter = counting
            seconds = min(COUNTING, self._seconds)
            return await self._samples(stack, place, seconds, counter)

    async def _samples(
        self, stack: AsyncExitStack, place: str, seconds: float, counter: str = ""
    ) -> dict[Column, Sample]:
        workers: list[Worker] = []
        samples = {}
        for column in sorted(self._columns, key=lambda column: column.processes):
            if counter and column.processes > 1:
                continue
            while len(workers) < column.processes:
                worker = Worker.started(self._system, place, counter, self._places.folder)
                workers.append(await stack.enter_async_context(worker))
            for duration in (min(WARM_UP, seconds), seconds):
                order = Order(column.kind, column.tasks, duration)
                samples[column] = await _together(workers[: column.processes], order)
        return samples


class Worker:
    """A process that works when it is told to."""

    def __init__(self, process: Process, errors: Path) -> None:
        self._process = process
        self._errors = errors

    @classmethod
    @asynccontextmanager
    async def started(
        cls, system: str, place: str, counter: str, folder: Path
    ) -> AsyncIterator["Worker"]:
        """Start one, which ends with its input."""
        errors = folder / f"{secrets.token_hex(8)}.log"
        with errors.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "benchmarks.peers.worker", system, place, counter),
                cwd=ROOT,
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
            )
        try:
            yield cls(process, errors)
        finally:
            await _ended(process)

    async def prepare(self, order: Order) -> None:
        """Return when it is ready to carry the order out."""
        answer = await self._ask(msgspec.json.encode(order))
        if answer != b"ready\n":
            raise RuntimeError(f"a worker answers {answer!r}")

    async def work(self) -> Sample:
        """Let it carry the order out."""
        return msgspec.json.decode(await self._ask(b""), type=Sample)

    async def _ask(self, line: bytes) -> bytes:
        given, answers = self._process.stdin, self._process.stdout
        if given is None or answers is None:
            raise AssertionError
        given.write(line + b"\n")
        answer = await asyncio.wait_for(answers.readline(), TIME_LIMIT)
        if not answer:
            raise RuntimeError(self._errors.read_text(errors="replace")[-LAST_WORDS:])
        return answer


async def _ended(process: Process) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), PATIENCE)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _together(workers: Sequence[Worker], order: Order) -> Sample:
    """Let all of them begin at the same time, and add up what they did."""
    await asyncio.gather(*(worker.prepare(order) for worker in workers))
    samples = await asyncio.gather(*(worker.work() for worker in workers))
    if len(samples) == 1:
        return samples[0]
    per_second = sum(1 / sample.value for sample in samples)
    known = [sample.cpu for sample in samples if sample.cpu is not None]
    return Sample(1 / per_second, median(known) if known else None)
