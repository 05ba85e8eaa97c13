"""Whose file it is, which version it has, and how an older one is brought up to date."""

import contextlib
import random
import sqlite3
from pathlib import Path

import pytest

from flowstate import DriverError, StoreCorruptError, StoreVersionError
from flowstate.drivers.sqlite import SQLiteDriver, connection
from tests.sqlite.support import commit_one, integrity, put, read_log

FIRST = connection.MIGRATIONS
OLDEST = "0001_initial.sql"
ADDED = (
    "CREATE TABLE note (rev INTEGER PRIMARY KEY, text TEXT);\nINSERT INTO note VALUES (1, ';');\n"
)


@pytest.fixture
async def store(tmp_path: Path) -> Path:
    """A store with one revision."""
    path = tmp_path / "store.db"
    async with SQLiteDriver(path) as driver:
        await commit_one(driver, put("1", "a"))
    return path


def run(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement)


def ask(path: Path, statement: str) -> object:
    with contextlib.closing(sqlite3.connect(path)) as other:
        row = other.execute(statement).fetchone()
    return None if row is None else row[0]


def migrations(monkeypatch: pytest.MonkeyPatch, *more: Path) -> None:
    """Make the library one that knows further migrations."""
    names = (*FIRST, *map(str, more))
    monkeypatch.setattr(connection, "MIGRATIONS", names)
    monkeypatch.setattr(connection, "SCHEMA_VERSION", len(names))


async def refusal(path: Path) -> DriverError:
    """Return why the file cannot be opened, having checked that it was left as it was."""
    before = path.read_bytes()
    with pytest.raises(DriverError) as refused:
        async with SQLiteDriver(path):
            pass
    assert path.read_bytes() == before
    assert not path.with_name(f"{path.name}-wal").exists()
    return refused.value


async def test_the_file_says_what_it_is(store: Path) -> None:
    assert ask(store, "PRAGMA application_id") == int.from_bytes(b"flow", "big")
    assert ask(store, "PRAGMA user_version") == len(FIRST)
    assert ask(store, "PRAGMA journal_mode") == "wal"


async def test_a_newer_version_is_refused(store: Path) -> None:
    run(store, "PRAGMA user_version = 99")
    error = await refusal(store)
    assert type(error) is StoreVersionError
    assert "99" in str(error)


async def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    run(path, "CREATE TABLE log (line TEXT)", "INSERT INTO log VALUES ('mine')")
    assert type(await refusal(path)) is StoreCorruptError


@pytest.mark.parametrize("pragma", ["user_version = 1", "application_id = 7"])
async def test_the_empty_database_of_another_program_is_refused(
    tmp_path: Path, pragma: str
) -> None:
    path = tmp_path / "other.db"
    run(path, f"PRAGMA {pragma}")
    assert type(await refusal(path)) is StoreCorruptError


@pytest.mark.parametrize("size", [2, 100, 512, 4096, 65_537])
async def test_bytes_that_are_no_database_are_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "noise.db"
    path.write_bytes(random.Random(size).randbytes(size))
    assert type(await refusal(path)) is StoreCorruptError


async def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    path.touch()
    async with SQLiteDriver(path) as driver:
        await commit_one(driver, put("1", "a"))
    assert ask(path, "SELECT count(*) FROM log") == 1


@pytest.mark.parametrize("missing", ["DELETE FROM meta", "DROP TABLE meta", "DROP TABLE log"])
async def test_a_store_that_lacks_something_is_refused(store: Path, missing: str) -> None:
    run(store, missing)
    with pytest.raises(StoreCorruptError):
        async with SQLiteDriver(store) as driver:
            await read_log(driver)


async def test_an_older_version_is_brought_up_to_date(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "0099_note.sql"
    script.write_text(f"-- One; and two.\n{ADDED}")
    migrations(monkeypatch, script)
    for _ in range(2):
        async with SQLiteDriver(store) as driver:
            assert [state.id for state in await read_log(driver)] == ["a"]
    assert ask(store, "PRAGMA user_version") == len(FIRST) + 1
    assert ask(store, "SELECT text FROM note") == ";"
    migrations(monkeypatch)
    assert type(await refusal(store)) is StoreVersionError


@pytest.mark.parametrize(
    "broken", ["INSERT INTO nowhere VALUES (1);", "INSERT INTO note VALUES (2,"]
)
async def test_a_migration_that_fails_changes_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    good, bad = tmp_path / "0099_note.sql", tmp_path / "0100_bad.sql"
    good.write_text(ADDED)
    bad.write_text(f"UPDATE meta SET value = 7 WHERE key = 'floor';\n{broken}\n")
    migrations(monkeypatch, good, bad)
    with pytest.raises(DriverError):
        async with SQLiteDriver(store):
            pass
    assert ask(store, "PRAGMA user_version") == len(FIRST)
    assert ask(store, "SELECT count(*) FROM sqlite_schema WHERE name = 'note'") == 0
    assert ask(store, "SELECT value FROM meta WHERE key = 'floor'") == 1
    assert integrity(store) == "ok"
    migrations(monkeypatch, good)
    async with SQLiteDriver(store) as driver:
        await commit_one(driver, put("2", "b"))
