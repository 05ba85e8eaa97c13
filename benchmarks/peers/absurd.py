"""absurd: workers with tasks of three steps, which wait in a queue already."""

import importlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg

from benchmarks.peers.work import Batch, Works, drained

__all__ = ["in_threads"]

PER_SECOND = 60
LOCK = 7_211_540_912  # Any number; workers that start together would make the tables twice.


def _install(place: str) -> None:
    script = importlib.import_module("absurdctl").BUNDLED_SCHEMA_SQL
    with psycopg.connect(place, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        row = connection.execute("SELECT to_regnamespace('absurd') IS NULL").fetchone()
        if row is not None and row[0]:
            connection.execute(script)


@asynccontextmanager
async def in_threads(place: str) -> AsyncIterator[Works]:
    """The worker for functions, with a pool of threads."""
    _install(place)
    app = importlib.import_module("absurd_sdk").Absurd(place, queue_name=_name())
    app.create_queue()
    current = Batch(0)

    @app.register_task(name="three")  # type: ignore[untyped-decorator]
    def three(params: Any, ctx: Any) -> int:
        current.start()
        total: int = sum(ctx.step(str(number), lambda: 1) for number in range(3))
        if current.finish():
            app.stop_worker()
        return total

    async def fill(batch: Batch) -> None:
        nonlocal current
        current = batch
        for _ in range(batch.count):
            app.spawn("three", {})

    async def drain(batch: Batch, tasks: int) -> None:
        app.start_worker(concurrency=tasks)

    yield {"rate": drained(fill, drain, PER_SECOND)}
    app.close()


def _name() -> str:
    return f"q{secrets.token_hex(6)}"
