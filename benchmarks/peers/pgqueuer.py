"""PgQueuer: a worker with empty jobs, which takes and completes them in batches."""

import asyncio
import importlib
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

from benchmarks.peers.work import Batch, Works, drained, latencies

__all__ = ["jobs"]

PER_SECOND = 1_000
BATCH = 10  # Of a worker that waits: the default.


class Queue:
    """Coroutine jobs; a worker has a connection of its own, and so has the producer."""

    def __init__(self, place: str) -> None:
        self.started: asyncio.Queue[float] = asyncio.Queue()
        self._place = place
        self._entrypoint = f"job{secrets.token_hex(4)}"
        self._batch: Batch | None = None
        self._queries: Any = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Make the tables, with the settings for vacuum that the library has for them."""
        async with self._driver() as driver:
            self._queries = importlib.import_module("pgqueuer.queries").Queries(driver)
            if not await self._queries.has_table(self._queries.qbe.settings.queue_table):
                await self._queries.install()
                await self._queries.optimize_autovacuum()
            yield

    async def put(self) -> None:
        """Put one job."""
        await self._queries.enqueue(self._entrypoint, None)

    async def fill(self, batch: Batch) -> None:
        """Put the jobs of a batch, all at once."""
        self._batch = batch
        count = batch.count
        await self._queries.enqueue([self._entrypoint] * count, [None] * count, [0] * count)

    async def drain(self, batch: Batch, tasks: int) -> None:
        """Do them; half of what may be done at once is the largest batch that is allowed."""

        def stored(count: int) -> None:
            if batch.finish(count):
                batch.sample()

        modes = importlib.import_module("pgqueuer.domain.types").QueueExecutionMode
        batch_size = max(1, tasks // 2)
        async with self._worker(stored) as worker:
            await worker.run(
                batch_size=batch_size, max_concurrent_tasks=2 * batch_size, mode=modes.drain
            )
        self._batch = None

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Let a worker wait for jobs."""
        async with self._worker(lambda _: None) as worker:
            working = asyncio.create_task(worker.run(batch_size=BATCH))
            yield
            worker.shutdown.set()
            await working

    @asynccontextmanager
    async def _worker(self, stored: Callable[[int], None]) -> AsyncIterator[Any]:
        """Yield a worker that tells of how many jobs it has just stored the outcome."""
        async with self._driver() as driver:
            queries = _telling(importlib.import_module("pgqueuer.queries").Queries, stored)
            worker = importlib.import_module("pgqueuer").PgQueuer(driver, queries=queries(driver))
            worker.entrypoint(self._entrypoint)(self._job)
            yield worker

    @asynccontextmanager
    async def _driver(self) -> AsyncIterator[Any]:
        connection = await importlib.import_module("asyncpg").connect(self._place)
        yield importlib.import_module("pgqueuer.db").AsyncpgDriver(connection)
        await connection.close()

    async def _job(self, _: Any) -> None:
        if self._batch is None:
            self.started.put_nowait(perf_counter())
        else:
            self._batch.start()


@asynccontextmanager
async def jobs(place: str) -> AsyncIterator[Works]:
    """Open a queue, and let a worker empty it or wait at it."""
    queue = Queue(place)
    async with queue.open():
        yield {
            "rate": drained(queue.fill, queue.drain, PER_SECOND),
            "latency": latencies(queue.put, queue.started, queue.waiting),
        }


def _telling(queries: Any, stored: Callable[[int], None]) -> Any:
    """Return a class that tells when outcomes are stored.

    A worker that is to stop when its queue is empty may take a while to see that it is.
    """

    class Telling(queries):  # type: ignore[misc]
        async def log_jobs(self, job_status: list[Any]) -> None:
            await super().log_jobs(job_status)
            stored(len(job_status))

    return Telling
