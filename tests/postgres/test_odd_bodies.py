"""Bodies that a column for JSON takes, and no operator of JSON: their states move on."""

from collections.abc import AsyncIterator

import pytest
from psycopg import AsyncConnection
from psycopg.sql import SQL, Identifier

from flowstate import DamagedRevisionError, State
from flowstate.driver import DueQuery, StateQuery, Writes
from flowstate.drivers.postgres import PostgresDriver
from flowstate.ground.frozen import FrozenDict
from flowstate.state import Status
from tests.postgres.steps import commit
from tests.servers import Postgres

NUL, HIGH, LOW = r"\u0000", r"\ud83d", r"\ude00"
ODD = (
    NUL,
    NUL + NUL,
    r"\\" + NUL,
    HIGH,
    LOW,
    HIGH + "x",
    HIGH + r"\u0041",
    LOW + HIGH,
    HIGH + HIGH,
)
# What looks like one, and is none: a backslash before letters, and a whole pair.
EVEN = (r"\\u0000", r"\\\\u0000", HIGH + LOW, r"\\ud83d", r"\u001f", "")
LABELS = FrozenDict({"kind": "x", "back": "\\u0000 \U0001f600"})
BY_LABEL = tuple(StateQuery((FrozenDict({key: value}),)) for key, value in LABELS.items())


@pytest.fixture
async def driver(postgres: Postgres, postgres_schema: str) -> AsyncIterator[PostgresDriver]:
    async with PostgresDriver(postgres.url(), schema=postgres_schema) as driver:
        yield driver


async def _write_over(postgres: Postgres, schema: str, note: str) -> None:
    """Give the first revision another annotation."""
    change = SQL("UPDATE {}.log SET body = replace(body::text, 'NOTE', %s)::json WHERE rev = 1")
    async with await AsyncConnection.connect(postgres.url(), autocommit=True) as other:
        await other.execute(change.format(Identifier(schema)), (note,))


async def _revs(driver: PostgresDriver, query: StateQuery) -> list[int]:
    page = await driver.get_states(query)
    return sorted([*(state.rev for state in page.states), *(bad.rev for bad in page.damaged)])


@pytest.mark.parametrize("note", [*ODD, *EVEN])
async def test_its_state_moves_on_and_is_compacted(
    driver: PostgresDriver, postgres: Postgres, postgres_schema: str, note: str
) -> None:
    notes = FrozenDict({"note": "NOTE"})
    await commit(driver, Writes("1", (State("a", labels=LABELS, annotations=notes),)))
    await _write_over(postgres, postgres_schema, note)
    for query in BY_LABEL:
        assert await _revs(driver, query) == [1]
    (verdict,) = await commit(driver, Writes("2", (State("a", 1),)))
    assert isinstance(verdict, tuple)
    for query in BY_LABEL:
        assert await driver.count(query) == 0
        assert await _revs(driver, query) == [1]
    await commit(driver, Writes("3", (State("b"),)))
    assert await driver.compact(3) == 1
    for query in BY_LABEL:
        assert await _revs(driver, query) == []


@pytest.mark.parametrize("note", ODD)
async def test_it_hides_nothing_else(
    driver: PostgresDriver, postgres: Postgres, postgres_schema: str, note: str
) -> None:
    states = [
        State(id, annotations=FrozenDict({"note": "NOTE"}), status=Status.PAUSED) for id in "ab"
    ]
    await commit(driver, Writes("1", tuple(states)))
    await _write_over(postgres, postgres_schema, note)
    assert await _revs(driver, StateQuery(id="a")) == [1]
    assert await _revs(driver, StateQuery(latest_only=True)) == [1, 2]
    idle = await driver.get_due(DueQuery("idle"))
    assert sorted([*(each.id for each in idle.due), *(bad.id for bad in idle.damaged)]) == [*"ab"]
    if NUL not in note:  # Which is a character as any other, where it can be read.
        with pytest.raises(DamagedRevisionError):
            await driver.get_state("a")
