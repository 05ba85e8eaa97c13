"""Pages of one state in a file: what they cost, and what damage in the chain of revisions does."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from flowstate import State, Status
from flowstate.driver import StateQuery, Writes
from flowstate.drivers.sqlite import SQLiteDriver, reader
from flowstate.ground.frozen import FrozenDict
from tests.sqlite.support import commit, commit_one, damage, put, steps

KIND = FrozenDict({"kind": "test"})
REAL_SECONDS = 20
REVISIONS = 30
DAMAGES = {
    "itself": "rev",
    "a later one": "rev + 1",
    "text": "'x'",
    "no UTF-8": "CAST(x'ff' AS TEXT)",
    "blob": "x'00'",
    "split": "previous - 0.5",
    "another's": "previous - 1",
    "before all": "-3",
    "nothing": "9223372036854775807",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def driver(path: Path) -> AsyncIterator[SQLiteDriver]:
    async with SQLiteDriver(path) as driver:
        yield driver


async def fill(driver: SQLiteDriver, others: int = 1) -> list[State]:
    """Commit many revisions of a state, and some of others before each."""
    state, states = State("a", labels=KIND), list[State]()
    for n in range(REVISIONS):
        await commit(driver, *(put(f"{n} {k}", f"b{n} {k}") for k in range(others)))
        (state,) = await commit_one(driver, Writes(f"{n}", (state,)))
        states.append(state)
    return states


async def test_a_page_costs_what_its_state_has_and_not_what_the_log_has(
    driver: SQLiteDriver, path: Path
) -> None:
    states = await fill(driver)
    ahead = states[-4].rev
    queries = [
        StateQuery(id="a"),
        StateQuery(id="a", limit=3),
        StateQuery(id="a", after=ahead),
        StateQuery(id="a", after=states[-1].rev),
        StateQuery((KIND,), id="a", since_latest=True),
        StateQuery((KIND,), id="a", status=Status.ACTIVE),
        StateQuery(id="a", latest_only=True),
    ]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        reads = [partial(reader.get_states, connection, query) for query in queries]
        costs = [steps(connection, read) for read in reads]
        few, most = costs[2], costs[0]
        assert few < most / 3  # It ends at the cursor.
        assert costs[4] < most / 2  # It ends at the newest one.
        assert costs[6] < most / 3
        for n in range(0, 3_000, 100):
            puts = tuple(State(f"more {n} {k}", labels=KIND) for k in range(100))
            await commit(driver, Writes(f"more {n}", puts))
        for read, cost in zip(reads, costs, strict=True):
            assert steps(connection, read) - cost < 60


async def test_a_state_is_read_from_what_names_it(driver: SQLiteDriver, path: Path) -> None:
    """A damaged id in the log hides nothing: the chain of the state leads there."""
    states = await fill(driver)
    damage(path, f"UPDATE log SET id = CAST(x'ff' AS TEXT) WHERE rev = {states[3].rev}")
    page = await driver.get_states(StateQuery(id="a"))
    assert (list(page.states), list(page.damaged)) == (states, [])


@pytest.mark.parametrize("value", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_chain_hides_nothing_after_it(
    driver: SQLiteDriver, path: Path, value: str
) -> None:
    states = await fill(driver)
    damage(path, f"UPDATE log SET previous = {value} WHERE rev = {states[9].rev}")
    for query in (StateQuery(id="a"), StateQuery((KIND,), id="a", after=states[8].rev)):
        async with asyncio.timeout(REAL_SECONDS):  # A chain that leads back has no end.
            page = await driver.get_states(query)
        assert list(page.states) == states[9:]
        assert not page.more
    (newer,) = await commit_one(driver, Writes("newer", (states[-1],)))
    page = await driver.get_states(StateQuery(id="a", limit=100))
    assert page.states[-1] == newer


@pytest.mark.parametrize("rev", ["'x'", "CAST(x'ff' AS TEXT)", "x'00'", "9999", "0", "2.5", "1"])
async def test_a_damaged_latest_revision(driver: SQLiteDriver, path: Path, rev: str) -> None:
    await fill(driver)
    damage(path, f"UPDATE latest SET rev = {rev} WHERE id = 'a'")
    page = await driver.get_states(StateQuery(id="a"))
    assert (list(page.states), page.more) == ([], False)
    assert [bad.id for bad in page.damaged] == (["a"] if rev == "1" else [])
    others = await driver.get_states(StateQuery(id="b0 0"))
    assert [state.id for state in others.states] == ["b0 0"]


async def test_pages_of_a_state_that_grows_miss_nothing(driver: SQLiteDriver) -> None:
    state = (await fill(driver))[-1]
    query, revs = StateQuery(id="a", limit=7), list[int]()
    for n in range(10):
        page = await driver.get_states(query)
        revs += [each.rev for each in page.states]
        (state,) = await commit_one(driver, Writes(f"more {n}", (state,)))
        query = replace(query, after=page.scanned_to)
    page = await driver.get_states(replace(query, limit=100))
    revs += [each.rev for each in page.states]
    whole = await driver.get_states(StateQuery(id="a", limit=1_000))
    assert revs == [each.rev for each in whole.states]
