"""What it costs to ask for stalled states follows how many there are, not how many live."""

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flowstate import FakeClock, State, Transition
from flowstate.driver import StalledQuery, Writes
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.drivers.sqlite.stalling import get_stalled
from tests.sqlite.support import commit_one

pytestmark = pytest.mark.slow

START = datetime(2024, 1, 1, tzinfo=UTC)
STALLED = 100
ACTIVE = 100_000
# As if each of them had been committed by the driver a day later.
DAY = 86_400_000_000
LATER = {
    "log": f"rev + n, id || n, 0, status, committed_at + {DAY}, NULL, token, body",
    "latest": f"id || n, rev + n, status, labels, stalls_at + {DAY} + n, NULL, NULL",
}


@pytest.fixture
async def connection(tmp_path: Path) -> sqlite3.Connection:
    """A connection to a store in which everything has stalled."""
    path = tmp_path / "store.db"
    states = tuple(State(f"{n:03}", transition=Transition("next")) for n in range(STALLED))
    async with SQLiteDriver(path, clock=FakeClock(START)) as driver:
        await commit_one(driver, Writes("1", states))
    return sqlite3.connect(path, isolation_level=None)


@pytest.fixture
def store(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(connection):
        yield connection


def add_active(connection: sqlite3.Connection) -> None:
    for table, columns in LATER.items():
        added = connection.execute(
            f"INSERT INTO {table} WITH RECURSIVE number (n) AS"
            f" (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < {ACTIVE})"
            f" SELECT {columns} FROM {table}, number WHERE rev = {STALLED}"
        )
        assert added.rowcount == ACTIVE


def steps(connection: sqlite3.Connection, limit: int) -> int:
    """Return how many steps SQLite's machine makes for all stalled states."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    found: list[str] = []
    query: StalledQuery | None = StalledQuery(limit=limit)
    connection.set_progress_handler(step, 1)
    while query is not None:
        page = get_stalled(connection, query, START + timedelta(hours=1))
        found += [state.id for state in page.states]
        query = StalledQuery(page.end, limit) if page.more else None
    connection.set_progress_handler(None, 0)
    assert found == [f"{n:03}" for n in range(STALLED)]
    return count


@pytest.mark.parametrize("limit", [7, STALLED, 2 * STALLED])
def test_states_that_do_not_stall_yet_cost_nothing(store: sqlite3.Connection, limit: int) -> None:
    alone = steps(store, limit)
    add_active(store)
    # Beside the work for each: the time of the next one, once for each page.
    assert steps(store, limit) - alone < 50 * (STALLED // limit + 1)
    assert alone < 60 * STALLED


def test_the_plan(store: sqlite3.Connection) -> None:
    statements: list[str] = []
    store.set_trace_callback(statements.append)
    get_stalled(store, StalledQuery((START, "x")), START + timedelta(hours=1))
    store.set_trace_callback(None)
    plans = [[step for *_, step in store.execute(f"EXPLAIN QUERY PLAN {s}")] for s in statements]
    place = "((stalls_at,id)>(?,?) AND stalls_at<?)"
    assert [step.removesuffix(" LEFT-JOIN") for plan in plans for step in plan] == [
        f"SEARCH latest USING INDEX latest_stalls {place}",
        "SEARCH log USING INTEGER PRIMARY KEY (rowid=?)",
        f"SEARCH latest USING COVERING INDEX latest_stalls {place}",
    ]
