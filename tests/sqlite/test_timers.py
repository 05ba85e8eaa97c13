"""Timers in a file: rows among the delays; what they cost the others, and what damage does."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from flowstate import FakeClock, State, Transition
from flowstate.driver import DuePage, DueQuery, NewDelay, Writes
from flowstate.drivers.kit.records import TIMER_REV
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.drivers.sqlite.writer import Batch
from flowstate.ground.frozen import EMPTY
from flowstate.testcases.support import timer
from tests.sqlite.support import commit_one, damage, put, steps

HOUR = timedelta(hours=1)
BAD = "id = 't bad'"
DAMAGES = {
    "no JSON": f"UPDATE delay SET body = '{{' WHERE {BAD}",
    "no UTF-8": f"UPDATE delay SET body = CAST(x'7bff' AS TEXT) WHERE {BAD}",
    "newer": f"UPDATE delay SET body = json_set(body, '$.v', 2) WHERE {BAD}",
    "no name": f"UPDATE delay SET body = json_remove(body, '$.timer') WHERE {BAD}",
    "another kind of name": f"UPDATE delay SET body = json_set(body, '$.timer', 7) WHERE {BAD}",
    "blob": f"UPDATE delay SET body = x'00' WHERE {BAD}",
    "revision": f"UPDATE delay SET rev = 'x' WHERE {BAD}",
    "revision of a delay": f"UPDATE delay SET rev = 2 WHERE {BAD}",
    "state id": f"UPDATE delay SET state_id = CAST(x'ff' AS TEXT) WHERE {BAD}",
    "split time": f"UPDATE delay SET due = due + 0.5 WHERE {BAD}",
    "no flow": f"UPDATE delay SET flow = '' WHERE {BAD}",
    "blob as flow": f"UPDATE delay SET flow = x'00' WHERE {BAD}",
    "state": "UPDATE log SET body = '{' WHERE id = 'bad'",
    "newer state": "UPDATE log SET body = json_set(body, '$.v', 2) WHERE id = 'bad'",
    "no state in the log": "DELETE FROM log WHERE id = 'bad'",
    "another's state": "UPDATE latest SET rev = 1 WHERE id = 'bad'",
    "latest revision": "UPDATE latest SET rev = 'x' WHERE id = 'bad'",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def driver(path: Path) -> AsyncIterator[SQLiteDriver]:
    async with SQLiteDriver(path, clock=FakeClock()) as driver:
        yield driver


async def begin(driver: SQLiteDriver, id: str, *flows: str) -> State:
    """Commit a state with an alarm for each flow, an hour ago."""
    named = f"t {id}" if len(flows) == 1 else f"{{}} of {id}"
    timers = tuple(timer(named.format(to), -HOUR, name=to, to=to) for to in flows)
    state = State(id, transition=Transition("next"))
    (state,) = await commit_one(driver, Writes(f"begin {id}", (state,), timers=timers))
    return state


async def pages(driver: SQLiteDriver, limit: int, flows: tuple[str, ...] | None) -> list[DuePage]:
    query = DueQuery("delay", flows, limit=limit)
    found = [await driver.get_due(query)]
    while found[-1].more:
        found.append(await driver.get_due(replace(query, after=found[-1].end)))
    return found


@pytest.mark.parametrize("statement", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_only_the_damaged_timer_is_missing(
    driver: SQLiteDriver, path: Path, statement: str, limit: int
) -> None:
    for id in ("alpha", "bad", "good"):
        await begin(driver, id, "wake")
    damage(path, statement)
    for flows in (None, ("wake",)):
        found = await pages(driver, limit, flows)
        assert [due.state.id for page in found for due in page.due] == ["alpha", "good"]
        (bad,) = [bad for page in found for bad in page.damaged]
        assert bad.error
        assert (bad.id, bad.due is not None) == ("t bad", True)


@pytest.mark.parametrize(
    "damaged", ["DELETE FROM latest", "UPDATE latest SET status = 'forgotten'"]
)
async def test_a_timer_without_a_state_is_no_damage(
    driver: SQLiteDriver, path: Path, damaged: str
) -> None:
    await begin(driver, "bad", "wake")
    damage(path, damaged)
    page = await driver.get_due(DueQuery("delay"))
    assert ([due.state for due in page.due], list(page.damaged)) == ([State("bad")], [])


async def test_the_next_commit_drops_delays_that_cannot_be_read_and_no_timer(
    driver: SQLiteDriver, path: Path
) -> None:
    state = await begin(driver, "a", "wake", "ring")
    delays = tuple(
        NewDelay(state, "next", EMPTY, None, HOUR, commit=True, body="") for _ in range(4)
    )
    await commit_one(driver, Writes("delays", delays=delays))
    for n, rev in enumerate(("'x'", "-7", "x'00'")):
        damage(path, f"UPDATE delay SET rev = {rev} WHERE id = 'delays.{n}'")
    await commit_one(driver, put("next", "a", state.rev))
    page = await driver.get_due(DueQuery("delay", everything=True))
    assert [due.id for due in page.due] == ["ring of a", "wake of a"]
    assert not page.damaged


async def test_the_timers_of_a_state_are_no_work_for_the_puts_of_others(
    driver: SQLiteDriver, path: Path
) -> None:
    await begin(driver, "a", "wake")

    def put_b(token: str) -> int:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("BEGIN")
            batch = Batch(connection, [put(token, "b")], FakeClock().now())
            batch.judge(put(token, "b"))
            return steps(connection, batch.flush)

    alone = put_b("1")
    for n in range(20):
        await begin(driver, f"s{n}", *(f"flow {k}" for k in range(64)))
    assert put_b("2") - alone < 20  # B-trees are no higher than they were, or by a level.


async def test_a_timer_is_a_row_with_a_revision_of_its_own(
    driver: SQLiteDriver, path: Path
) -> None:
    await begin(driver, "a", "wake")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT state_id, rev, flow, holder FROM delay").fetchall()
    assert rows == [("a", TIMER_REV, "wake", "")]
