"""The disk of the server has no room left."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from flowstate import Data, State, StoreFullError, Transition
from flowstate.data import checksum_of
from flowstate.driver import Writes
from flowstate.drivers.postgres import PostgresDriver
from flowstate.testcases.support import encoded
from flowstate.testing.faults import SmallDisk
from tests.servers import PostgresServer
from tests.support import commit_one, put, read_log

SIZE = 4 * 1024 * 1024


@pytest.fixture
def small_disk(private_postgres: PostgresServer) -> Iterator[Path]:
    """A folder on a file system of its own, for which the system must let us mount one."""
    owner = private_postgres.folder.stat()
    disk = SmallDisk(private_postgres.folder / "small", SIZE, user=owner.st_uid, group=owner.st_gid)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(disk)
        except PermissionError as error:
            pytest.skip(f"{error}")
        yield disk.folder


@pytest.fixture
def url(private_postgres: PostgresServer, small_disk: Path) -> Iterator[str]:
    """A database whose tables are on the small disk."""
    with psycopg.connect(private_postgres.url(), autocommit=True) as connection:
        connection.execute(f"CREATE TABLESPACE small LOCATION '{small_disk}'".encode())
        connection.execute("ALTER ROLE postgres SET default_tablespace = small")
        yield private_postgres.url()
        connection.execute("ALTER ROLE postgres RESET default_tablespace")
        connection.execute("SET client_min_messages = warning")
        connection.execute("DROP SCHEMA flowstate CASCADE")
        connection.execute("DROP TABLESPACE small")


def with_blob(token: str, id: str, size: int) -> Writes:
    data = Data(os.urandom(size))
    data = Data(data.blob, checksum=checksum_of(data))
    return encoded(Writes(token, (State(id, transition=Transition("next")),), data=(data,)))


async def test_what_does_not_fit_takes_nothing_else_with_it(url: str, small_disk: Path) -> None:
    async with PostgresDriver(url) as driver:
        await commit_one(driver, put("1", "a"))
        with pytest.raises(StoreFullError):
            await commit_one(driver, with_blob("2", "large", 2 * SIZE))
        assert [state.id for state in await read_log(driver)] == ["a"]
        batch = [put("3", "b"), with_blob("4", "large", 2 * SIZE), put("5", "c")]
        before, large, after = await driver.commit(batch)
        assert isinstance(large, StoreFullError)
        assert isinstance(before, tuple)
        assert isinstance(after, tuple)
        log = await read_log(driver)
        assert [(state.rev, state.id) for state in log] == [(1, "a"), (2, "b"), (3, "c")]


async def test_full_until_somebody_makes_room(url: str, small_disk: Path) -> None:
    async with PostgresDriver(url) as driver:
        await commit_one(driver, put("1", "a"))
        ballast = small_disk / "ballast"
        with pytest.raises(OSError, match="No space"):
            await asyncio.to_thread(ballast.write_bytes, bytes(2 * SIZE))
        with pytest.raises(StoreFullError):
            await commit_one(driver, with_blob("2", "b", 100_000))
        assert [state.id for state in await read_log(driver)] == ["a"]
        ballast.unlink()
        await commit_one(driver, with_blob("3", "b", 100_000))
        assert [(s.rev, s.id) for s in await read_log(driver)] == [(1, "a"), (2, "b")]
