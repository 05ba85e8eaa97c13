"""Cancelled while a thread works: the driver stays usable, and leaves no thread behind."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from flowstate import RevisionMismatchError
from flowstate.driver import Drop, Heartbeat, Seen, StateQuery, Writes
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.drivers.sqlite.lock import WriterLock
from tests.sqlite.support import commit_one, driver_threads, put, read_log, revs_in


@pytest.fixture
async def lock(tmp_path: Path) -> AsyncIterator[WriterLock]:
    """The lock of the store, as another process would hold it."""
    lock = WriterLock(str(tmp_path / "store.db"), 10.0)
    lock.open()
    yield lock
    lock.close()


async def cancelled_after_a_turn(work: Coroutine[Any, Any, Any]) -> None:
    """Start something, let it get as far as it can, and cancel it."""
    task = asyncio.create_task(work)
    await asyncio.wait([task], timeout=0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def no_threads_left() -> None:
    """Wait for the driver's threads to end; they do so by themselves."""
    for thread in threading.enumerate():
        if thread.name.startswith("flowstate-sqlite"):
            await asyncio.to_thread(thread.join, 10.0)
    assert driver_threads() == []


async def test_commit(tmp_path: Path, lock: WriterLock) -> None:
    async with SQLiteDriver(tmp_path / "store.db") as driver:
        with lock:
            await cancelled_after_a_turn(commit_one(driver, put("1", "a")))
        (verdict,) = await driver.commit([put("2", "a")])
        assert isinstance(verdict, RevisionMismatchError)  # So the cancelled one was committed.
        assert [state.rev for state in await read_log(driver)] == [1]
    await no_threads_left()


async def test_beat(tmp_path: Path, lock: WriterLock) -> None:
    async with SQLiteDriver(tmp_path / "store.db") as driver:
        (state,) = await commit_one(driver, put("1", "a"))
        with lock:
            await cancelled_after_a_turn(driver.beat([Heartbeat("a", state.rev, 60.0, "first")]))
        assert await driver.beat([Heartbeat("a", state.rev, 60.0, "second")]) == [True]
        (found,) = await driver.get_liveness(["a"])
        assert found is not None
        assert found.note == "second"
    await no_threads_left()


async def test_compact_and_drop(tmp_path: Path, lock: WriterLock) -> None:
    async with SQLiteDriver(tmp_path / "store.db") as driver:
        (state,) = await commit_one(driver, put("1", "a"))
        await commit_one(driver, put("2", "a", state.rev))
        with lock:
            await cancelled_after_a_turn(driver.compact(2))
            drop = Writes("3", drops=(Drop("a.0", "holder"),))
            await cancelled_after_a_turn(commit_one(driver, drop))
        await driver.compact(2)
        assert [state.rev for state in await read_log(driver)] == [2]
    await no_threads_left()


async def test_read(tmp_path: Path) -> None:
    async with SQLiteDriver(tmp_path / "store.db", readers=1) as driver:
        go_on = threading.Event()
        slow = driver._opened().read(lambda _connection: go_on.wait(10.0))
        await cancelled_after_a_turn(slow)
        await cancelled_after_a_turn(driver.get_states(StateQuery()))
        go_on.set()
        assert await read_log(driver) == []
    await no_threads_left()


async def test_wait(tmp_path: Path) -> None:
    async with SQLiteDriver(tmp_path / "store.db") as driver:
        seen = await driver.changed(Seen())
        await cancelled_after_a_turn(driver.changed(seen))
        waiting = asyncio.create_task(driver.changed(seen))
        await commit_one(driver, put("1", "a"))
        assert (await waiting).head == 1
    await no_threads_left()


async def test_open(tmp_path: Path, lock: WriterLock) -> None:
    driver = SQLiteDriver(tmp_path / "store.db")
    with lock:
        opening = asyncio.create_task(driver.__aenter__())
        await asyncio.wait([opening], timeout=0.05)
        opening.cancel()
        await asyncio.wait([opening], timeout=0.05)
    with pytest.raises(asyncio.CancelledError):
        await opening
    await no_threads_left()
    assert not (tmp_path / "store.db-wal").exists()  # So no connection is open.
    async with driver:
        await commit_one(driver, put("1", "a"))
    assert await revs_in(tmp_path / "store.db") == [1]


async def test_open_twice_impatiently(tmp_path: Path, lock: WriterLock) -> None:
    """Cancelled also while it cleans up, and opened again before the clean-up is done."""
    driver = SQLiteDriver(tmp_path / "store.db")
    with lock:
        opening = asyncio.create_task(driver.__aenter__())
        for _ in range(2):
            await asyncio.wait([opening], timeout=0.05)
            opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        again = asyncio.create_task(driver.__aenter__())
        await asyncio.wait([again], timeout=0.05)
    await again
    await commit_one(driver, put("1", "a"))
    await driver.__aexit__(None, None, None)
    await no_threads_left()
    assert not (tmp_path / "store.db-wal").exists()


async def test_close(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "store.db", readers=1)
    await driver.__aenter__()
    await commit_one(driver, put("1", "a"))
    go_on = threading.Event()
    reading = asyncio.create_task(driver._opened().read(lambda _connection: go_on.wait(10.0)))
    await asyncio.wait([reading], timeout=0.05)
    await cancelled_after_a_turn(driver.__aexit__(None, None, None))
    go_on.set()
    assert await reading
    await no_threads_left()
    assert not (tmp_path / "store.db-wal").exists()
    assert await revs_in(tmp_path / "store.db") == [1]
