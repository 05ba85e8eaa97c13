"""Times that Python does not have: what has them is named, and hides nothing else."""

from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from flowstate import DamagedRevisionError, State
from flowstate.driver import DueQuery, NewDelay, StateQuery, Writes
from flowstate.drivers.postgres import PostgresDriver
from flowstate.ground.frozen import EMPTY
from tests.postgres.steps import commit
from tests.servers import Postgres

START = datetime(2025, 1, 1, tzinfo=UTC)
TIMES = ("infinity", "-infinity", "294276-01-01", "0044-03-15 BC")


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("column", ["committed_at", "delayed_until"])
async def test_of_a_revision(
    postgres: Postgres, postgres_schema: str, column: str, time: str
) -> None:
    async with PostgresDriver(postgres.url(), schema=postgres_schema) as driver:
        await commit(driver, Writes("t", (State("a"),)), Writes("u", (State("b"),)))
        with psycopg.connect(postgres.url(), autocommit=True) as other:
            change = f"UPDATE {{}}.log SET {column} = %s WHERE rev = 1"
            other.execute(SQL(change).format(Identifier(postgres_schema)), (time,))
        with pytest.raises(DamagedRevisionError, match="1 of 'a'"):
            await driver.get_state("a")
        page = await driver.get_states(StateQuery())
        assert [state.id for state in page.states] == ["b"]
        assert [(bad.rev, bad.id) for bad in page.damaged] == [(1, "a")]


@pytest.mark.parametrize("flows", [None, ("next",)])
@pytest.mark.parametrize("time", TIMES)
async def test_of_a_delay(
    postgres: Postgres, postgres_schema: str, time: str, flows: tuple[str, ...] | None
) -> None:
    delays = tuple(
        NewDelay(State(id), "next", EMPTY, START, None, commit=True, body="") for id in "ab"
    )
    async with PostgresDriver(postgres.url(), schema=postgres_schema) as driver:
        await commit(driver, Writes("t", delays=delays))
        with psycopg.connect(postgres.url(), autocommit=True) as other:
            change = "UPDATE {}.delay SET due = %s WHERE id = 't.0'"
            other.execute(SQL(change).format(Identifier(postgres_schema)), (time,))
        page = await driver.get_due(DueQuery("delay", flows, limit=1))
        rest = await driver.get_due(DueQuery("delay", flows, after=page.end))

    assert ([delay.id for delay in page.due], page.more) == (["t.1"], False)
    assert [(bad.id, bad.state_id, bad.due) for bad in page.damaged] == [("t.0", "a", None)]
    assert (list(rest.due), list(rest.damaged)) == ([], [])


async def test_that_is_handed_on_to_no_commit(postgres: Postgres, postgres_schema: str) -> None:
    async with PostgresDriver(postgres.url(), schema=postgres_schema) as driver:
        await commit(driver, Writes("t", (State("a"),)))
        with psycopg.connect(postgres.url(), autocommit=True) as other:
            change = "UPDATE {}.log SET committed_at = 'infinity'"
            other.execute(SQL(change).format(Identifier(postgres_schema)))
        await commit(driver, Writes("u", (State("b"),)))
        assert await driver.get_state("b") is not None
