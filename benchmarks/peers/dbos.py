"""DBOS: workflows of three steps, on Postgres or on SQLite."""

import importlib
import secrets
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.work import Works, repeated, repeated_in_threads

__all__ = ["as_coroutines", "in_threads"]


def _system(place: str) -> Any:
    dbos = importlib.import_module("dbos")
    url = place if "://" in place else _sqlite_url(Path(place))
    config = {
        "name": "peers",
        "system_database_url": url,
        "log_level": "ERROR",
        "run_admin_server": False,
        "executor_id": secrets.token_hex(8),
    }
    dbos.DBOS(config=config)
    return dbos.DBOS


def _sqlite_url(folder: Path) -> str:
    """Return where a new database is, whose journal is one that waits for one fsync a commit.

    The mode stays with the file; unless it is set otherwise, ``synchronous`` is FULL.
    """
    path = folder / f"{secrets.token_hex(8)}.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    return f"sqlite:///{path}"


@asynccontextmanager
async def in_threads(place: str) -> AsyncIterator[Works]:
    """Functions, called by threads."""
    system = _system(place)

    @system.step()  # type: ignore[untyped-decorator]
    def step(number: int) -> int:
        return number

    @system.workflow()  # type: ignore[untyped-decorator]
    def workflow() -> int:
        return sum(step(number) for number in range(3))

    system.launch()
    yield {"rate": repeated_in_threads(workflow)}
    system.destroy()


@asynccontextmanager
async def as_coroutines(place: str) -> AsyncIterator[Works]:
    """Coroutines, awaited by tasks."""
    system = _system(place)

    @system.step()  # type: ignore[untyped-decorator]
    async def step(number: int) -> int:
        return number

    @system.workflow()  # type: ignore[untyped-decorator]
    async def workflow() -> int:
        return sum([await step(number) for number in range(3)])

    system.launch()
    yield {"rate": repeated(workflow)}
    system.destroy()
