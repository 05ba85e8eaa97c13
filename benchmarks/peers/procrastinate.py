"""Procrastinate: a worker with empty jobs."""

import asyncio
import importlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter

from benchmarks.peers.work import Batch, Works, drained, latencies

__all__ = ["jobs"]

PER_SECOND = 300
CONNECTIONS = 8  # On a machine with few cores, more of them do less together.


@asynccontextmanager
async def jobs(place: str) -> AsyncIterator[Works]:
    """Coroutine jobs of one worker, which listens for new ones."""
    library = importlib.import_module("procrastinate")
    queue = f"q{secrets.token_hex(4)}"
    started: asyncio.Queue[float] = asyncio.Queue()
    current: Batch | None = None
    app = library.App(connector=library.PsycopgConnector(conninfo=place, max_size=CONNECTIONS))

    @app.task(name="job", queue=queue)  # type: ignore[untyped-decorator]
    async def job() -> None:
        if current is None:
            started.put_nowait(perf_counter())
        else:
            current.start()

    async def fill(batch: Batch) -> None:
        nonlocal current
        current = batch
        await job.batch_defer_async(*({} for _ in range(batch.count)))

    async def drain(batch: Batch, tasks: int) -> None:
        nonlocal current
        await app.run_worker_async(queues=[queue], concurrency=tasks, wait=False)
        batch.finish(batch.count)
        batch.sample()
        current = None

    @asynccontextmanager
    async def worker() -> AsyncIterator[None]:
        working = asyncio.create_task(app.run_worker_async(queues=[queue]))
        yield
        working.cancel()
        await asyncio.wait([working])

    async with app.open_async():
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        yield {
            "rate": drained(fill, drain, PER_SECOND),
            "latency": latencies(job.defer_async, started, worker),
        }
