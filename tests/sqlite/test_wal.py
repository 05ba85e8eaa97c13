"""The write-ahead log: readers may hold it up, and afterwards it is short again."""

import asyncio
import contextlib
import math
import sqlite3
import time
from pathlib import Path

import pytest

from flowstate.driver import StateQuery
from flowstate.drivers.sqlite import SQLiteDriver, file
from flowstate.drivers.sqlite.connection import MAX_LOG_BYTES
from tests.sqlite.support import commit_one, file_of, put


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


async def test_a_reader_that_stays_is_waited_for_as_the_log_grows(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "FIRST_PAUSE", 3_600.0)
    statements: list[str] = []
    async with SQLiteDriver(path, synchronous="NORMAL") as driver:
        await grow(driver, "a", 1)
        file_of(driver)._writer.set_trace_callback(statements.append)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM log").fetchone()
            await grow(driver, "b", 60)
            most = log_size(path) / (2 * MAX_LOG_BYTES)
    waits = [each for each in statements if "wal_checkpoint" in each]
    assert 1 < len(waits) <= 2 + math.log(most, file.GROWTH)


async def test_the_log_stays_short_while_reads_overlap(path: Path) -> None:
    async with SQLiteDriver(path, synchronous="NORMAL") as driver, asyncio.TaskGroup() as group:
        await grow(driver, "a", 8)
        readers = [group.create_task(read_on(driver)) for _ in range(4)]
        await grow(driver, "b", 60)
        assert log_size(path) <= 4 * MAX_LOG_BYTES
        for reader in readers:
            reader.cancel()


async def read_on(driver: SQLiteDriver) -> None:
    while True:
        await driver.get_states(StateQuery(limit=8))
