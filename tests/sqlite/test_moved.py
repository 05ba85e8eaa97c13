"""The file is removed, renamed or replaced while it is open: nothing is acknowledged any more."""

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from flowstate import StoreUnavailableError
from flowstate.driver import Heartbeat, Seen, StateQuery
from flowstate.drivers.sqlite import SQLiteDriver, place
from tests.sqlite.support import commit_one, put, revs_in


def remove_all(path: Path) -> None:
    for each in path.parent.iterdir():
        each.unlink()


def remove_file(path: Path) -> None:
    path.unlink()


def remove_log(path: Path) -> None:
    path.with_name("store.db-wal").unlink()


def remove_index(path: Path) -> None:
    path.with_name("store.db-shm").unlink()


def rename_file(path: Path) -> None:
    path.rename(path.with_name("old.db"))


def rename_folder(path: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))
    path.parent.mkdir()


def replace_with_copy(path: Path) -> None:
    copy = path.with_name("copy.db")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"VACUUM INTO '{copy}'")
    copy.replace(path)


def replace_with_nothing(path: Path) -> None:
    path.unlink()
    path.touch()


MOVES = [
    remove_all,
    remove_file,
    remove_log,
    remove_index,
    rename_file,
    rename_folder,
    replace_with_copy,
    replace_with_nothing,
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store" / "store.db"


@pytest.mark.parametrize("move", MOVES)
async def test_every_operation_refuses(path: Path, move: Callable[[Path], None]) -> None:
    async with SQLiteDriver(path) as driver:
        (state,) = await commit_one(driver, put("1", "a"))
        seen = await driver.changed(Seen())
        waiting = asyncio.ensure_future(driver.changed(seen))
        await asyncio.sleep(0)
        move(path)
        with pytest.raises(StoreUnavailableError):
            await commit_one(driver, put("2", "b"))
        with pytest.raises(StoreUnavailableError):
            await driver.beat([Heartbeat("a", state.rev, 1.0, "")])
        with pytest.raises(StoreUnavailableError):
            await driver.compact(1)
        with pytest.raises(StoreUnavailableError):
            await driver.get_states(StateQuery())
        with pytest.raises(StoreUnavailableError):
            async with asyncio.timeout(10):
                await waiting


def until_next_tick(path: Path) -> None:
    """Wait until a change of the folder would change its time."""
    probe = path.parent.parent / "probe"
    while True:
        probe.touch()
        if probe.stat().st_mtime_ns > path.parent.stat().st_ctime_ns:
            return


@pytest.mark.parametrize("move", MOVES)
async def test_a_folder_without_changes_is_watched(
    path: Path, move: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "TICK_NS", 0)
    async with SQLiteDriver(path) as driver:
        until_next_tick(path)
        for n in range(3):
            await commit_one(driver, put(f"{n}", f"{n}"))
        move(path)
        with pytest.raises(StoreUnavailableError):
            await commit_one(driver, put("3", "b"))
        with pytest.raises(StoreUnavailableError):
            await driver.get_states(StateQuery())


async def test_a_lock_file_is_watched(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "TICK_NS", 0)
    lock = path.with_name("store.db-lock")
    async with SQLiteDriver(path) as driver:
        for n in range(3):
            until_next_tick(path)
            await commit_one(driver, put(f"{n}", f"{n}"))
            await commit_one(driver, put(f"{n}.", f"{n}."))
            lock.unlink()
            await commit_one(driver, put(f"{n}..", f"{n}.."))
            assert lock.exists()


async def test_a_file_that_comes_back_is_used_again(path: Path) -> None:
    async with SQLiteDriver(path) as driver:
        await commit_one(driver, put("1", "a"))
        rename_file(path)
        with pytest.raises(StoreUnavailableError):
            await commit_one(driver, put("2", "b"))
        path.with_name("old.db").rename(path)
        await commit_one(driver, put("3", "b"))
    assert await revs_in(path) == [1, 2]


async def test_lock_files_that_are_removed_come_back(path: Path) -> None:
    async with SQLiteDriver(path) as first:
        await commit_one(first, put("1", "a"))
        for each in ("store.db-lock", "store.db-turn"):
            path.with_name(each).unlink()
        async with SQLiteDriver(path) as second:
            await asyncio.gather(
                *(commit_one((first, second)[n % 2], put(f"{n}", f"{n}")) for n in range(20))
            )
        assert path.with_name("store.db-lock").exists()
    shutil.copy(path, path.with_name("copy.db"))
    assert await revs_in(path) == list(range(1, 22))
