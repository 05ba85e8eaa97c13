"""Ways to work by the clock."""

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from typing import Any, Literal

from msgspec import Struct

from benchmarks.stopwatch import Stopwatch, latency
from benchmarks.workload import Sample

__all__ = [
    "Batch",
    "Done",
    "Kind",
    "Prepare",
    "System",
    "Work",
    "Works",
    "drained",
    "latencies",
    "looped",
    "repeated",
    "repeated_in_threads",
]


Kind = Literal[
    "rate", "workflow rate", "latency", "unclaimed rate", "unclaimed latency", "committed rate"
]
"""What can be measured; most libraries have one way of each."""


class Done(Struct, frozen=True):
    """So many units were done, and what one of them took."""

    units: int
    sample: Sample


Work = Callable[[], Awaitable[Done]]
Prepare = Callable[[int, float], Awaitable[Work]]
"""Gets ready to do so much at once for so many seconds; what it returns does it."""

Works = Mapping[Kind, Prepare]
System = Callable[[str], AbstractAsyncContextManager[Works]]
"""Opens a library whose store is at such a place: a URL, or a folder for files."""

PAUSE = 0.02  # Seconds in which a worker becomes idle again.
FEWEST = 5  # Latencies, however little time there is.
LOOP = 200


def repeated(once: Callable[[], Awaitable[Any]]) -> Prepare:
    """Let tasks do it again and again."""

    async def prepare(tasks: int, seconds: float) -> Work:
        async def work() -> Done:
            count, end, watch = 0, perf_counter() + seconds, Stopwatch()

            async def again() -> None:
                nonlocal count
                while perf_counter() < end:
                    await once()
                    count += 1

            await asyncio.gather(*(again() for _ in range(tasks)))
            return Done(count, watch.sample(count))

        return work

    return prepare


def repeated_in_threads(once: Callable[[], Any]) -> Prepare:
    """Let threads do it again and again."""

    async def prepare(tasks: int, seconds: float) -> Work:
        async def work() -> Done:
            end, watch = perf_counter() + seconds, Stopwatch()

            def again() -> int:
                count = 0
                while perf_counter() < end:
                    once()
                    count += 1
                return count

            with ThreadPoolExecutor(tasks) as pool:
                futures = [pool.submit(again) for _ in range(tasks)]
                count = sum(future.result() for future in futures)
            return Done(count, watch.sample(count))

        return work

    return prepare


def looped(times: Callable[[int], Awaitable[Any]]) -> Prepare:
    """Do what is so short that looking at the clock each time would count."""

    async def prepare(tasks: int, seconds: float) -> Work:
        async def work() -> Done:
            count, end, watch = 0, perf_counter() + seconds, Stopwatch()
            while perf_counter() < end:
                await times(LOOP)
                count += LOOP
            return Done(count, watch.sample(count))

        return work

    return prepare


class Batch:
    """Jobs that wait in a queue; the time runs from when the first of them starts."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._watch: Stopwatch | None = None
        self._left = count
        self._lock = threading.Lock()
        self._sample: Sample | None = None

    def start(self) -> None:
        """Tell that a job starts."""
        if self._watch is None:
            self._watch = Stopwatch()

    def finish(self, jobs: int = 1) -> bool:
        """Tell that so many jobs are done, and return whether all are."""
        with self._lock:
            self._left -= jobs
            return self._left <= 0

    def sample(self) -> Sample:
        """Return what each job took, up to now or to when this was asked first."""
        if self._watch is None or self._left > 0:
            raise RuntimeError(f"{self._left} of {self.count} jobs were not done")
        self._sample = self._sample or self._watch.sample(self.count)
        return self._sample


def drained(
    fill: Callable[[Batch], Awaitable[None]],
    drain: Callable[[Batch, int], Awaitable[None]],
    per_second: float,
) -> Prepare:
    """Fill a queue with as many jobs as the seconds are good for, and let a worker empty it.

    Args:
        fill: puts the jobs of a batch into the queue.
        drain: does them, so many at once, and returns when that is stored.
        per_second: how many jobs that may be at first; later it goes by what was measured.
    """
    rates: dict[int, float] = {}

    async def prepare(tasks: int, seconds: float) -> Work:
        wanted = rates.get(tasks, per_second) * seconds
        batch = Batch(tasks * max(2, math.ceil(wanted / tasks)))
        await fill(batch)

        async def work() -> Done:
            await drain(batch, tasks)
            sample = batch.sample()
            rates[tasks] = 1 / sample.value
            return Done(batch.count, sample)

        return work

    return prepare


def latencies(
    hand_in: Callable[[], Awaitable[Any]],
    started: "asyncio.Queue[float]",
    worker: Callable[[], AbstractAsyncContextManager[Any]],
) -> Prepare:
    """Hand one job after the other to a worker that waits.

    Args:
        hand_in: hands one over.
        started: receives the time, by ``perf_counter``, at which the job starts.
        worker: runs one.
    """

    async def one() -> float:
        start = perf_counter()
        await hand_in()
        return await started.get() - start

    async def prepare(tasks: int, seconds: float) -> Work:
        async def work() -> Done:
            found: list[float] = []
            async with worker():
                await one()
                end = perf_counter() + seconds
                while len(found) < FEWEST or perf_counter() < end:
                    await asyncio.sleep(PAUSE)
                    found.append(await one())
            return Done(len(found), latency(found))

        return work

    return prepare
