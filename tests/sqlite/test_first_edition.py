"""A store of the first edition is brought up to date, with all that is in it."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import pytest
from msgspec import json

from flowstate import FakeClock, Status
from flowstate.driver import DueQuery, StateQuery
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.frozen import FrozenDict
from tests.sqlite.support import commit_one, integrity, put

NOW = datetime(2024, 1, 2, tzinfo=UTC)
MICROS = 1_704_067_200_000_000  # The day before, when all of it was written.
KIND = FrozenDict({"kind": "order"})
REF = '"data":{"doc":{"rev":1,"checksum":"sum"}}'
BODIES = {
    "a": '{"v":1,"id":"a","labels":{"kind":"order"},"transition":{"to":"pay"}}',
    "b": '{"v":1,"id":"b","labels":{"kind":"order"},"transition":{"to":"pay"},"status":"paused"}',
    "bad": "{",
    "c": f'{{"v":1,"id":"c","transition":{{"to":"ship"}},{REF}}}',
}
OWN = f'{{"v":1,"to":"later","state":{{"v":1,"id":"c","rev":4,{REF}}}}}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store that the first edition has written."""
    path = tmp_path / "store.db"
    folder = resources.files("flowstate.drivers.sqlite").joinpath("sql")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(folder.joinpath("0001_initial.sql").read_text())
        connection.execute(f"PRAGMA application_id = {int.from_bytes(b'flow', 'big')}")
        connection.execute("PRAGMA user_version = 1")
        meta = [("store_id", "sqlite-old"), ("floor", 1)]
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
        for rev, (id, body) in enumerate(BODIES.items(), 1):
            status = "paused" if id == "b" else "active"
            stalls = None if id == "b" else MICROS + rev
            labels = '{"kind":"order"}' if id < "bad" else None
            row = (rev, id, 0, status, MICROS, None, f"t{rev}", body)
            connection.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            latest = (id, rev, status, labels, stalls, None, None)
            connection.execute("INSERT INTO latest VALUES (?, ?, ?, ?, ?, ?, ?)", latest)
            if labels:
                for table in ("label", "latest_label"):
                    connection.execute(f"INSERT INTO {table} VALUES ('kind', 'order', ?)", (rev,))
        connection.execute("INSERT INTO data VALUES ('sum', 0, '{}', x'01')")
        delays = [("t1.0", "a", 1, MICROS, '{"v":1,"to":"remind"}'), ("t5.0", "c", 4, MICROS, OWN)]
        connection.executemany("INSERT INTO delay VALUES (?, ?, ?, ?, ?)", delays)
    return path


async def test_what_is_due_is_found_by_flow(path: Path) -> None:
    async with SQLiteDriver(path, clock=FakeClock(NOW)) as driver:
        assert driver.store_id == "sqlite-old"
        page = await driver.get_due(DueQuery("delay", ("remind",), others=True))
        assert ([due.id for due in page.due], list(page.others)) == (["t1.0"], ["later"])
        stalled = await driver.get_due(DueQuery("stall", ("ship",), others=True))
        assert ([due.id for due in stalled.due], list(stalled.others)) == (["c"], ["pay"])
        assert [bad.id for bad in stalled.damaged] == ["bad"]
    assert integrity(path) == "ok"


async def test_pages_and_commits_go_on(path: Path) -> None:
    async with SQLiteDriver(path, clock=FakeClock(NOW)) as driver:
        query = StateQuery((KIND,), latest_only=True, status=Status.PAUSED)
        assert [state.id for state in (await driver.get_states(query)).states] == ["b"]
        (moved,) = await commit_one(driver, put("new", "b", 2))
        assert moved.rev == 5
        assert not (await driver.get_states(query)).states


@pytest.mark.parametrize("data", ["lost", {"a": "{"}, ["{"], {"a": {"checksum": None}}, 7])
async def test_damaged_delays_stop_nothing(path: Path, data: object) -> None:
    body = json.encode({"v": 1, "to": "remind", "state": {"v": 1, "id": "a", "data": data}})
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE delay SET body = ? WHERE id = 't1.0'", (body.decode(),))
    async with SQLiteDriver(path, clock=FakeClock(NOW)) as driver:
        page = await driver.get_due(DueQuery("delay"))
        assert ([due.id for due in page.due], [bad.id for bad in page.damaged]) == (
            ["t5.0"],
            ["t1.0"],
        )


async def test_the_first_edition_cannot_commit_any_more(path: Path) -> None:
    """It would leave a state in a flow where it is not found."""
    statement = (
        "INSERT INTO latest (id, rev, status, labels, stalls_at) VALUES ('a', 9, 'active', NULL, 1)"
        " ON CONFLICT (id) DO UPDATE SET rev = excluded.rev"
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute(statement)
        connection.execute("ROLLBACK")
        async with SQLiteDriver(path):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(statement)


async def test_data_of_a_delay_survives_compaction(path: Path) -> None:
    async with SQLiteDriver(path, clock=FakeClock(NOW)) as driver:
        await commit_one(driver, put("new", "new"))
        await driver.compact(5)
        assert await driver.get_data("sum") is not None
        await commit_one(driver, put("drops the delay", "c", 4))
        await driver.compact(6)
        assert await driver.get_data("sum") is None
