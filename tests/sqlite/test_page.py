"""docs/sqlite.md: its queries run and find something, and it knows every table and column."""

import contextlib
import re
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flowstate import (
    Commit,
    Data,
    Delay,
    Engine,
    FakeClock,
    FlowRegistry,
    Pause,
    State,
    StateContext,
    StoreData,
    Transit,
)
from flowstate.drivers.sqlite import SQLiteDriver
from tests.sqlite.workers import stay

pytestmark = pytest.mark.repository

LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)
FILE = Path(__file__).parents[2] / "docs" / "sqlite.md"
PAGE = FILE.read_text() if FILE.exists() else ""
QUERIES = re.findall(r"^```sql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
DESCRIBED = {
    name: re.findall(r"`(\w+)`", columns)
    for name, columns in re.findall(r"^\| `(\w+)` \| each [^|]*\| ([^|]*) \|$", PAGE, re.MULTILINE)
}


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A store with something in every table."""
    flows = FlowRegistry()
    flows.set("charge", stay)
    driver = SQLiteDriver(tmp_path / "store.db", clock=FakeClock(LONG_AGO))
    async with Engine(driver, flows) as engine:
        order, later = (
            StateContext(State(id, labels={"kind": "order"})) for id in ("order-1", "2")
        )
        order.data["invoice"] = Data(b"blob")
        await engine.do(Commit(StoreData(order, "invoice"), Pause(order)))
        await engine.do(Commit(Transit(order, "charge")))
        await engine.do(Commit(Delay(later, "charge", after=timedelta(hours=1))))
    return tmp_path / "store.db"


def test_the_page_has_queries() -> None:
    assert len(QUERIES) == 6


@pytest.mark.parametrize("query", QUERIES)
def test_each_query_finds_something(path: Path, query: str) -> None:
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        rows = connection.execute(query).fetchall()
    assert rows
    assert None not in rows[-1]


def test_the_page_knows_every_table_and_column(path: Path) -> None:
    tables = "SELECT name FROM sqlite_schema WHERE type = 'table'"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        found = {
            name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")]
            for (name,) in connection.execute(tables).fetchall()
        }
    assert found == DESCRIBED
