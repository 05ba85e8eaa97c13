"""Read-only, missing, full and locked: the right error, and going on once the cause is gone."""

import asyncio
import contextlib
import itertools
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from flowstate import (
    Commit,
    Data,
    Engine,
    FlowRegistry,
    Pause,
    State,
    StateContext,
    StoreBusyError,
    StoreData,
    StoreFullError,
    StoreUnavailableError,
)
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.testing.faults import SmallDisk
from tests.sqlite.support import (
    commit_one,
    file_of,
    integrity,
    names_in,
    put,
    read_log,
    revs_in,
    worker,
)

NOBODY = 65534
BIG = Data(b"x" * 4_000_000)


@pytest.fixture
async def store() -> AsyncIterator[Path]:
    """A store with one revision, in a folder that any user may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        async with SQLiteDriver(folder / "store.db") as driver:
            await commit_one(driver, put("1", "a"))
        yield folder / "store.db"


# Not allowed


async def attempt(path: Path) -> str:
    """Return what a process without rights gets: an error's name, or that it could commit."""
    user = NOBODY if os.getuid() == 0 else "same"
    async with worker("attempt", path, user) as other:
        (said,) = await other.finish()
    return said


@contextlib.contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(bits)
    try:
        yield
    finally:
        path.chmod(before)


@pytest.mark.parametrize("what", ["store.db", "store.db-lock", "store.db-turn"])
async def test_a_file_that_may_only_be_read(store: Path, what: str) -> None:
    for path in store.parent.iterdir():
        path.chmod(0o666)
    with mode(store.parent, 0o777):
        assert await attempt(store) == "committed"
        with mode(store.parent / what, 0o444):
            assert await attempt(store) == "StoreReadOnlyError"
    assert await revs_in(store) == [1, 2]


async def test_a_folder_that_may_only_be_read(store: Path) -> None:
    with mode(store.parent, 0o555):
        assert await attempt(store.parent / "new.db") == "StoreReadOnlyError"
        assert await attempt(store) in ("StoreReadOnlyError", "StoreUnavailableError")
    assert names_in(store.parent) == ["store.db", "store.db-lock", "store.db-turn"]


# Not there


async def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError):
        async with SQLiteDriver(tmp_path / "missing" / "store.db"):
            pass


async def test_a_path_that_is_a_folder(store: Path) -> None:
    with pytest.raises(StoreUnavailableError):
        async with SQLiteDriver(store.parent):
            pass


async def test_a_folder_that_comes_later(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "later" / "store.db")
    with pytest.raises(StoreUnavailableError):
        await driver.__aenter__()
    (tmp_path / "later").mkdir()
    async with driver:
        await commit_one(driver, put("1", "a"))


# Full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A disk of two megabytes."""
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(SmallDisk(tmp_path / "disk", 2_000_000))
        except PermissionError as error:
            pytest.skip(f"{error}")
        yield disk


async def check_full(driver: SQLiteDriver) -> StateContext:
    """Check that what is too large is refused alone; return its context."""
    async with Engine(driver, FlowRegistry()) as engine:
        big = StateContext(State("big"))
        big.data["blob"] = BIG
        before = (big.current, big.committed)
        small = [StateContext(State(f"small-{i}")) for i in range(4)]
        commits = [Commit(Pause(ctx)) for ctx in small]
        commits.insert(2, Commit(StoreData(big, "blob"), Pause(big)))
        refused = await asyncio.gather(*map(engine.do, commits), return_exceptions=True)
        assert [type(error) for error in refused if error] == [StoreFullError]
        assert isinstance(refused[2], StoreFullError)
        assert (big.current, big.committed) == before
        assert [ctx.committed.rev for ctx in small] == [1, 2, 3, 4]
    return big


async def test_a_full_disk(small_disk: SmallDisk) -> None:
    path = small_disk.folder / "store.db"
    async with SQLiteDriver(path) as driver:
        big = await check_full(driver)
        small_disk.resize(20_000_000)
        async with Engine(driver, FlowRegistry()) as engine:
            await engine.do(Commit(StoreData(big, "blob"), Pause(big)))
        assert [state.rev for state in await read_log(driver)] == [1, 2, 3, 4, 5]
    assert integrity(path) == "ok"


async def fill(driver: SQLiteDriver) -> int:
    """Commit until there is no room left; return how many went in."""
    for i in itertools.count():
        (verdict,) = await driver.commit([put(f"{i}", f"{i}", annotations={"n": "x" * 10_000})])
        if not isinstance(verdict, tuple):
            assert isinstance(verdict, StoreFullError)
            break
    return i


async def test_a_disk_that_fills_up_commit_by_commit(small_disk: SmallDisk) -> None:
    """The last bytes of a disk go to whole commits; afterwards reading goes on."""
    path = small_disk.folder / "store.db"
    async with SQLiteDriver(path) as driver:
        committed = await fill(driver)
        assert [state.rev for state in await read_log(driver)] == list(range(1, committed + 1))
        small_disk.resize(20_000_000)
        (state,) = await commit_one(driver, put("after", "after"))
        assert state.rev == committed + 1
    assert integrity(path) == "ok"


async def test_a_full_database(store: Path) -> None:
    async with SQLiteDriver(store.with_name("new.db")) as driver:
        file = file_of(driver)
        file._writer.execute("PRAGMA max_page_count = 100")
        big = await check_full(driver)
        file._writer.execute("PRAGMA max_page_count = 100000")
        async with Engine(driver, FlowRegistry()) as engine:
            await engine.do(Commit(StoreData(big, "blob"), Pause(big)))
        assert [state.rev for state in await read_log(driver)] == [1, 2, 3, 4, 5]


# Locked


@pytest.fixture
async def locked(store: Path) -> AsyncIterator[sqlite3.Connection]:
    """Another program that has a write transaction open."""
    with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


async def test_another_program_has_locked_the_database(
    store: Path, locked: sqlite3.Connection
) -> None:
    locked.execute("ROLLBACK")
    async with SQLiteDriver(store, timeout=0.2) as driver:
        locked.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        verdicts = await driver.commit([put("2", "b"), put("3", "c")])
        assert 0.2 <= time.monotonic() - started < 5.0
        assert [type(verdict) for verdict in verdicts] == [StoreBusyError] * 2
        with pytest.raises(StoreBusyError):
            await driver.compact(1)
        assert [state.rev for state in await read_log(driver)] == [1]
        locked.execute("ROLLBACK")
        (state,) = await commit_one(driver, put("2", "b"))
        assert state.rev == 2


async def test_the_database_is_locked_while_it_is_opened(
    store: Path, locked: sqlite3.Connection
) -> None:
    driver = SQLiteDriver(store, timeout=0.1)
    with pytest.raises(StoreBusyError):
        await driver.__aenter__()
    locked.execute("ROLLBACK")
    assert await revs_in(store) == [1]
