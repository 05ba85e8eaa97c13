"""Forgotten states in a file: nothing is left of them, whatever is damaged."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from flowstate import Data, FakeClock, RevisionMismatchError, State, Status, Transition
from flowstate.data import DataRef, checksum_of
from flowstate.driver import Drop, NewDelay, StateQuery, Writes
from flowstate.drivers.sqlite import SQLiteDriver, compaction
from flowstate.drivers.sqlite.rows import FORGOTTEN
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.testcases.support import encoded, timer
from tests.sqlite.support import commit_one, damage, integrity, put, read_log

HOUR = timedelta(hours=1)
DATA = Data(b"blob")
CHECKSUM = checksum_of(DATA)
DAMAGES = {
    "body": "UPDATE log SET body = '{' WHERE id = 'a'",
    "labels": "UPDATE log SET body = json_set(body, '$.labels', 7) WHERE id = 'a'",
    "no row in the log": "DELETE FROM log WHERE rev = (SELECT rev FROM latest WHERE id = 'a')",
    "previous": "UPDATE log SET previous = 'x' WHERE id = 'a'",
    "time": "UPDATE log SET committed_at = 'x' WHERE id = 'a'",
    "no time": "UPDATE latest SET due = 'x' WHERE id = 'a'",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def driver(path: Path) -> AsyncIterator[SQLiteDriver]:
    async with SQLiteDriver(path, clock=FakeClock()) as driver:
        yield driver


async def forget(driver: SQLiteDriver, state: State, **writes: object) -> State:
    last = replace(state, status=Status.ENDED, data=EMPTY)
    token = f"forget {state.id} {state.rev}"
    (last,) = await commit_one(driver, Writes(token, (last,), forgets=(0,), **writes))  # type: ignore[arg-type]
    return last


def rows(path: Path) -> dict[str, int]:
    """Return how many rows each table has that holds what commits have stored."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        names = sorted(name for (name,) in tables if name != "meta")
        count = "SELECT count(*) FROM {}"
        return {n: connection.execute(count.format(n)).fetchone()[0] for n in names}


async def test_compaction_leaves_no_row(driver: SQLiteDriver, path: Path) -> None:
    await commit_one(driver, put("kept", "kept"))
    before = rows(path)
    state = State(
        "a",
        labels=FrozenDict({"kind": "test"}),
        transition=Transition("next"),
        data=FrozenDict({"blob": DataRef(1, CHECKSUM)}),
    )
    delay = NewDelay(
        state, "next", EMPTY, None, HOUR, commit=True, body="", put=0, references=(CHECKSUM,)
    )
    blob = Data(DATA.blob, checksum=CHECKSUM)
    alarm = timer("t", HOUR)
    (state,) = await commit_one(
        driver, Writes("1", (state,), data=(blob,), delays=(delay,), timers=(alarm,))
    )
    (state,) = await commit_one(driver, Writes("2", (state,)))
    last = await forget(driver, state, drops=(Drop("t", ""),))
    await commit_one(driver, put("head", "kept", 1))
    assert await driver.compact(last.rev + 1) == 4
    assert rows(path) == before
    assert integrity(path) == "ok"


async def test_compaction_in_chunks_takes_what_was_forgotten(
    driver: SQLiteDriver, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "CHUNK", 3)
    for n in range(10):
        (state,) = await commit_one(driver, put(f"{n}", f"{n}"))
        if n % 2:
            (state,) = await commit_one(driver, put(f"{n} again", f"{n}", state.rev))
        await forget(driver, state)
    (last,) = await commit_one(driver, put("last", "last"))
    assert await driver.compact(last.rev) == last.rev - 1
    assert await read_log(driver) == [last]
    assert rows(path)["latest"] == 1


async def test_what_begins_again_is_chained_to_what_was_before(
    driver: SQLiteDriver, path: Path
) -> None:
    (first,) = await commit_one(driver, put("1", "a"))
    last = await forget(driver, first)
    (again,) = await commit_one(driver, put("2", "a"))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        chain = connection.execute("SELECT rev, previous FROM log ORDER BY rev").fetchall()
        latest = connection.execute("SELECT rev, status FROM latest").fetchall()
    assert chain == [(first.rev, 0), (last.rev, first.rev), (again.rev, last.rev)]
    assert latest == [(again.rev, "active")]
    await driver.compact(again.rev)
    page = await driver.get_states(StateQuery(id="a"))
    assert list(page.states) == [again]


@pytest.mark.parametrize("statement", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_row_keeps_nothing_from_going(
    driver: SQLiteDriver, path: Path, statement: str
) -> None:
    (first,) = await commit_one(driver, put("1", "a"))
    last = await forget(driver, first)
    damage(path, statement)
    assert await driver.get_state("a") is None
    assert await driver.get_liveness(["a"]) == [None]
    (verdict,) = await driver.commit([encoded(Writes("stale", (last,)))])
    assert isinstance(verdict, RevisionMismatchError)
    await commit_one(driver, put("head", "head"))
    await driver.compact(100)
    assert [state.id for state in await read_log(driver)] == ["head"]
    (again,) = await commit_one(driver, put("again", "a"))
    assert await driver.get_state("a") == again


async def test_a_state_may_have_any_label_that_looks_like_it(driver: SQLiteDriver) -> None:
    """What is forgotten is marked by no word that a user could have stored."""
    labels = FrozenDict({"status": FORGOTTEN, FORGOTTEN: FORGOTTEN})
    state = State(FORGOTTEN, labels=labels, transition=Transition(FORGOTTEN))
    (state,) = await commit_one(driver, Writes("1", (state,)))
    assert await driver.get_state(FORGOTTEN) == state
    assert await driver.count(StateQuery((labels,))) == 1
