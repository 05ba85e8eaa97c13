"""What it costs to ask for stalled states follows how many there are, not how many live."""

import contextlib
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from flowstate import FakeClock, State, Transition
from flowstate.driver import DueQuery, Writes
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.drivers.sqlite.due import get_due
from tests.sqlite.support import commit_one

pytestmark = pytest.mark.slow

START = datetime(2024, 1, 1, tzinfo=UTC)
STALLED = 100
ACTIVE = 100_000
# As if each of them had been committed by the driver a day later.
DAY = 86_400_000_000
LATER = {
    "log": f"rev + n, id || n, 0, status, committed_at + {DAY}, NULL, token, body",
    "latest": f"id || n, rev + n, status, labels, due + {DAY} + n, NULL, NULL, flow",
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


def steps(
    connection: sqlite3.Connection, limit: int, flows: tuple[str, ...] | None = ("next",)
) -> int:
    """Return how many steps SQLite's machine makes for all stalled states."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    found: list[str] = []
    query: DueQuery | None = DueQuery("stall", flows, limit=limit)
    connection.set_progress_handler(step, 1)
    while query is not None:
        page = get_due(connection, query, START + timedelta(hours=1))
        found += [due.id for due in page.due]
        query = replace(query, after=page.end) if page.more else None
    connection.set_progress_handler(None, 0)
    assert found == [f"{n:03}" for n in range(STALLED)]
    return count


@pytest.mark.parametrize("limit", [7, STALLED, 2 * STALLED])
def test_states_that_do_not_stall_yet_cost_nothing(store: sqlite3.Connection, limit: int) -> None:
    alone = steps(store, limit)
    add_active(store)
    # Apart from the work for each: the time of the next one, once for each page.
    assert steps(store, limit) - alone < 50 * (STALLED // limit + 1)
    assert alone < 150 * STALLED


def test_states_in_other_flows_cost_nothing(store: sqlite3.Connection) -> None:
    alone = steps(store, STALLED)
    add_active(store)
    store.execute(
        "UPDATE latest SET flow = 'gone', due = due - ? WHERE rev > ?",
        (3 * DAY, STALLED),
    )
    assert steps(store, STALLED) - alone < 50


def test_what_to_search_for_all_flows_follows_their_number(store: sqlite3.Connection) -> None:
    alone = steps(store, STALLED, None)
    add_active(store)
    assert steps(store, STALLED, None) - alone < 50
