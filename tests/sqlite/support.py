"""What the tests of the SQLite driver share: short writes, whole logs, and other processes."""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flowstate import State, Transition
from flowstate.driver import Driver, StateQuery, Verdict, Writes
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.drivers.sqlite.file import File
from flowstate.testcases.support import encoded
from flowstate.testing.faults import Worker

WORKERS = Path(__file__).with_name("workers.py")


def put(token: str, id: str, rev: int = 0, **state: Any) -> Writes:
    """Return writes that put one state at the revision that it expects."""
    return encoded(Writes(token, (State(id, rev, transition=Transition("next"), **state),)))


async def commit(driver: Driver, *batch: Writes) -> Sequence[Verdict]:
    return await driver.commit([encoded(writes) for writes in batch])


async def commit_one(driver: Driver, writes: Writes) -> tuple[State, ...]:
    """Commit one, and raise what refuses it."""
    (verdict,) = await commit(driver, writes)
    if not isinstance(verdict, tuple):
        raise verdict
    return verdict


def file_of(driver: SQLiteDriver) -> File:
    """Return the open file, for what only the inside can show or break."""
    file = driver._opened()._file
    assert file is not None
    return file


async def read_log(driver: Driver) -> list[State]:
    """Return every revision, page after page."""
    states: list[State] = []
    after, more = 0, True
    while more:
        page = await driver.get_states(StateQuery(after=after, limit=1_000))
        states += page.states
        after, more = page.scanned_to, page.more
    return states


async def revs_in(path: Path) -> list[int]:
    """Open a store and return the revisions that it has."""
    async with SQLiteDriver(path) as driver:
        return [state.rev for state in await read_log(driver)]


def integrity(path: Path) -> str:
    """Return what SQLite says about the file; ``"ok"`` is the good answer."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
    return str(verdict)


def names_in(folder: Path) -> list[str]:
    """Return the names of what is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def driver_threads() -> list[str]:
    """Return the names of the driver's threads that still run."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("flowstate-sqlite")]


def worker(job: str, path: Path, *arguments: object) -> Worker:
    """Return a process that does one of the jobs in workers.py, not started yet."""
    return Worker(WORKERS, job, path, *arguments)


def damage(path: Path, *statements: str) -> None:
    """Change rows without the driver's help; each statement must change some."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            assert other.execute(statement).rowcount


def steps(connection: sqlite3.Connection, action: Callable[[], object]) -> int:
    """Return how many steps SQLite's machine makes meanwhile."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    connection.set_progress_handler(step, 1)
    action()
    connection.set_progress_handler(None, 0)
    return count
