"""A store of an older edition is brought up to date, with all that is in it."""

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path

import pytest
from msgspec import json
from msgspec.structs import replace

from flowstate import FakeClock, Status
from flowstate.driver import Drop, DueQuery, StateQuery, Writes
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.drivers.sqlite.connection import MIGRATIONS
from flowstate.ground.frozen import FrozenDict
from flowstate.testcases.support import timer
from tests.sqlite.support import commit_one, integrity, put

NOW = datetime(2024, 1, 2, tzinfo=UTC)
MICROS = 1_704_067_200_000_000  # The day before, when all of it was written.
KIND = FrozenDict({"kind": "order"})
REF = '"data":{"doc":{"rev":1,"checksum":"sum"}}'
OFF = '"annotations":{"flowstate.recovery.disabled":""}'
# What the first edition has written, too, and what is idle.
BODIES = {
    "a": '{"v":1,"id":"a","labels":{"kind":"order"},"transition":{"to":"pay"}}',
    "b": '{"v":1,"id":"b","labels":{"kind":"order"},"transition":{"to":"pay"},"status":"paused"}',
    "bad": "{",
    "c": f'{{"v":1,"id":"c","transition":{{"to":"ship"}},{REF}}}',
    "ended": '{"v":1,"id":"ended","transition":{"to":"pay"},"status":"ended"}',
    "new": '{"v":1,"id":"new"}',
    "odd": '{"v":1,"id":"odd","transition":{"to":7},"status":"paused"}',
    "off": f'{{"v":1,"id":"off","transition":{{"to":"ship"}},{OFF}}}',
    "torn": '{"v":1,"id":"torn","status":"pau',
}
STATUSES = {"b": "paused", "ended": "ended", "odd": "paused", "torn": "paused"}
STALLING = {"a": "pay", "bad": "", "c": "ship"}
HEAD = len(BODIES)
OWN = f'{{"v":1,"to":"later","state":{{"v":1,"id":"c","rev":4,{REF}}}}}'
DELAYS = {"t1.0": ("a", 1, '{"v":1,"to":"remind"}', "remind"), "t5.0": ("c", 4, OWN, "later")}
TABLES = {
    1: {
        "latest": "id, rev, status, labels, stalls_at, NULL, NULL",
        "latest_label": "key, value, rev",
        "delay": "id, state_id, rev, due, body",
    },
    2: {
        "latest": "id, rev, status, labels, stalls_at, NULL, NULL, flow",
        "latest_label": "key, value, status, rev",
        "delay": "id, state_id, rev, due, body, flow, ''",
    },
}
EDITIONS = sorted(TABLES)


@pytest.fixture(params=EDITIONS)
def edition(request: pytest.FixtureRequest) -> int:
    """Which edition has written the store."""
    return int(request.param)


@pytest.fixture
def path(tmp_path: Path, edition: int) -> Path:
    """A store that an older edition has written."""
    path = tmp_path / "store.db"
    folder = resources.files("flowstate.drivers.sqlite").joinpath("sql")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for script in MIGRATIONS[:edition]:
            connection.executescript(folder.joinpath(script).read_text())
        connection.execute(f"PRAGMA application_id = {int.from_bytes(b'flow', 'big')}")
        connection.execute(f"PRAGMA user_version = {edition}")
        meta = [("store_id", "sqlite-old"), ("floor", 1)]
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta)
        for rev, id in enumerate(BODIES, 1):
            fill(connection, edition, rev, id)
        connection.execute("INSERT INTO data VALUES ('sum', 0, '{}', x'01')")
        for id, (state_id, rev, body, flow) in DELAYS.items():
            row = {"id": id, "state_id": state_id, "rev": rev, "body": body, "flow": flow}
            add(connection, edition, "delay", row | {"due": MICROS})
        if edition > 1:
            connection.execute("INSERT INTO delay_reference VALUES ('t5.0', 'sum')")
    return path


def fill(connection: sqlite3.Connection, edition: int, rev: int, id: str) -> None:
    """Write the one revision of a state."""
    status = STATUSES.get(id, "active")
    log = (rev, id, 0, status, MICROS, None, f"t{rev}", BODIES[id])
    connection.execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?, ?)", log)
    row = {
        "id": id,
        "rev": rev,
        "status": status,
        "labels": '{"kind":"order"}' if id < "bad" else None,
        "stalls_at": MICROS + rev if id in STALLING else None,
        "flow": STALLING.get(id, ""),
        "key": "kind",
        "value": "order",
    }
    add(connection, edition, "latest", row)
    if row["labels"]:
        connection.execute("INSERT INTO label VALUES ('kind', 'order', ?)", (rev,))
        add(connection, edition, "latest_label", row)


def add(connection: sqlite3.Connection, edition: int, table: str, row: dict[str, object]) -> None:
    """Write a row; what is no name of a column stands for itself."""
    columns = TABLES[edition][table].split(", ")
    values = ", ".join(f":{column}" if column in row else column for column in columns)
    connection.execute(f"INSERT INTO {table} VALUES ({values})", row)


async def test_what_is_due_is_found_by_flow(path: Path) -> None:
    async with SQLiteDriver(path, clock=FakeClock(NOW)) as driver:
        assert driver.store_id == "sqlite-old"
        page = await driver.get_due(DueQuery("delay", ("remind",), others=True))
        assert ([due.id for due in page.due], list(page.others)) == (["t1.0"], ["later"])
        stalled = await driver.get_due(DueQuery("stall", ("ship",), others=True))
        assert ([due.id for due in stalled.due], list(stalled.others)) == (["c"], ["pay"])
        assert [bad.id for bad in stalled.damaged] == ["bad"]
    assert integrity(path) == "ok"


async def test_what_is_idle_is_found_by_flow(path: Path) -> None:
    async with SQLiteDriver(path, clock=FakeClock(NOW)) as driver:
        every = await driver.get_due(DueQuery("idle"))
        assert [due.id for due in every.due] == ["b", "new", "off"]
        assert [bad.id for bad in every.damaged] == ["odd", "torn"]
        page = await driver.get_due(DueQuery("idle", ("ship",), others=True))
        assert ([due.id for due in page.due], list(page.others)) == (["off"], ["", "pay"])
        assert [bad.id for bad in page.damaged] == ["odd", "torn"]  # Their flow may be that one.
        (found,) = await driver.get_liveness(["b"])
        assert found is not None
        assert found.stalls_at is None


async def test_pages_and_commits_go_on(path: Path) -> None:
    async with SQLiteDriver(path, clock=FakeClock(NOW)) as driver:
        query = StateQuery((KIND,), latest_only=True, status=Status.PAUSED)
        assert [state.id for state in (await driver.get_states(query)).states] == ["b"]
        assert await driver.count(query) == 1
        (moved,) = await commit_one(driver, put("new", "b", 2))
        assert moved.rev == HEAD + 1
        assert not (await driver.get_states(query)).states
        page = await driver.get_states(StateQuery(id="b"))
        assert [state.rev for state in page.states] == [2, moved.rev]
        assert [due.id for due in (await driver.get_due(DueQuery("idle", ("pay",)))).due] == []


async def test_timers_and_forgetting_work(path: Path) -> None:
    async with SQLiteDriver(path, clock=FakeClock(NOW)) as driver:
        state = await driver.get_state("a")
        assert state is not None
        alarm = timer("alarm of a", NOW - timedelta(hours=1), to="wake")
        (state,) = await commit_one(driver, Writes("set", (state,), timers=(alarm,)))
        page = await driver.get_due(DueQuery("delay", ("wake", "remind")))
        assert [(due.id, due.state) for due in page.due] == [("alarm of a", state)]
        last = replace(state, status=Status.ENDED)
        drops = (Drop("alarm of a", ""),)
        await commit_one(driver, Writes("forget", (last,), drops=drops, forgets=(0,)))
        assert await driver.get_state("a") is None
        (again,) = await commit_one(driver, put("again", "a"))
        await driver.compact(again.rev)
        assert await driver.get_state("a", 1) is None
        assert await driver.get_state("a") == again


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


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE latest SET rev = 'x' WHERE id = 'b'",
        "UPDATE latest SET rev = 1 WHERE id = 'b'",
        "UPDATE latest SET status = CAST(x'ff' AS TEXT) WHERE id = 'b'",
        "DELETE FROM log WHERE id = 'b'",
        "UPDATE log SET body = x'00' WHERE id = 'b'",
        "UPDATE log SET body = CAST(x'7bff' AS TEXT) WHERE id = 'b'",
    ],
)
async def test_damaged_states_stop_nothing(path: Path, damage: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(damage).rowcount == 1
    async with SQLiteDriver(path, clock=FakeClock(NOW)) as driver:
        page = await driver.get_due(DueQuery("idle"))
        assert {due.id for due in page.due} - {"b"} == {"new", "off"}
        assert [bad.id for bad in page.damaged if bad.id != "b"] == ["odd", "torn"]
        stalled = await driver.get_due(DueQuery("stall"))
        assert [due.id for due in stalled.due] == ["a", "c"]


async def test_an_older_edition_cannot_commit_any_more(path: Path, edition: int) -> None:
    """It would drop timers, and leave states where they are not found."""
    flow, pay = (", flow", ", 'pay'") if edition > 1 else ("", "")
    statement = (
        f"INSERT INTO latest (id, rev, status, labels, stalls_at{flow})"
        f" VALUES ('a', 9, 'active', NULL, 1{pay})"
        " ON CONFLICT (id) DO UPDATE SET rev = excluded.rev"
    )
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute(statement)
        connection.execute("ROLLBACK")
        async with SQLiteDriver(path):
            with pytest.raises(sqlite3.OperationalError, match="no column named stalls_at"):
                connection.execute(statement)


async def test_data_of_a_delay_survives_compaction(path: Path) -> None:
    async with SQLiteDriver(path, clock=FakeClock(NOW)) as driver:
        await commit_one(driver, put("more", "more"))
        await driver.compact(HEAD + 1)
        assert await driver.get_data("sum") is not None
        await commit_one(driver, put("drops the delay", "c", 4))
        await driver.compact(HEAD + 2)
        assert await driver.get_data("sum") is None
