"""The write-ahead log: readers may hold it up, and afterwards it is short again."""

import asyncio
import contextlib
import sqlite3
import time
from pathlib import Path

import pytest

from flowstate.driver import StateQuery
from flowstate.drivers.sqlite import SQLiteDriver, file
from flowstate.drivers.sqlite.connection import MAX_LOG_BYTES
from tests.sqlite.support import commit_one, put


async def grow(driver: SQLiteDriver, name: str, commits: int = 40) -> None:
    for n in range(commits):
        await commit_one(driver, put(f"{name}{n}", f"{name}{n}", annotations={"x": "x" * 900_000}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def log_size(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


async def test_the_log_shrinks_after_a_reader_has_left(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "FIRST_PAUSE", 0.0)
    async with SQLiteDriver(path, synchronous="NORMAL") as driver:
        await grow(driver, "a", 1)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM log").fetchone()
            started = time.monotonic()
            await grow(driver, "b")
            assert time.monotonic() - started < 10.0
            assert log_size(path) > 2 * MAX_LOG_BYTES
        await grow(driver, "c", 3)
        assert log_size(path) <= 2 * MAX_LOG_BYTES


async def test_the_log_stays_short_while_reads_overlap(path: Path) -> None:
    async with SQLiteDriver(path, synchronous="NORMAL") as driver, asyncio.TaskGroup() as group:
        await grow(driver, "a", 8)
        readers = [group.create_task(read_on(driver)) for _ in range(4)]
        await grow(driver, "b", 60)
        for n in range(100):  # How soon a moment without readers comes is up to the machine.
            if log_size(path) <= 4 * MAX_LOG_BYTES:
                break
            await grow(driver, f"c{n}.", 1)
            await asyncio.sleep(0.05)  # reason: the log is tried again after a pause.
        assert log_size(path) <= 4 * MAX_LOG_BYTES
        for reader in readers:
            reader.cancel()


async def read_on(driver: SQLiteDriver) -> None:
    while True:
        await driver.get_states(StateQuery(limit=8))
