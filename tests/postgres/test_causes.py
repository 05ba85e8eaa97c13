"""What a server tells in detail may be what users have stored, so no error leads to it."""

import traceback

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from flowstate import DriverError, State, StoreCorruptError
from flowstate.driver import Heartbeat, Writes
from flowstate.drivers.postgres import PostgresDriver
from flowstate.ground.frozen import FrozenDict
from tests.postgres.steps import commit
from tests.servers import Postgres

SECRET = "hunter2"  # noqa: S105 - a value that must not come back


def _run(postgres: Postgres, schema: str, statement: str) -> str:
    """Run a statement; return what a server tells of its failure."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(SQL("SET search_path = {}").format(Identifier(schema)))
        try:
            connection.execute(statement.encode())
        except psycopg.Error as error:
            return str(error)
        return ""


def _told(error: BaseException) -> str:
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return "".join([*traceback.format_exception(error), *map(repr, causes)])


async def test_of_a_commit(postgres: Postgres, postgres_schema: str) -> None:
    labels = FrozenDict({"password": SECRET})
    row = f"INSERT INTO latest_label VALUES ('password', '{SECRET}', 1, 'active')"
    async with PostgresDriver(postgres.url(), schema=postgres_schema) as driver:
        assert _run(postgres, postgres_schema, row) == ""
        assert SECRET in _run(postgres, postgres_schema, row)
        (verdict,) = await commit(driver, Writes("t", (State("a", labels=labels),)))
    assert isinstance(verdict, StoreCorruptError)
    assert "duplicate key" in _told(verdict)
    assert SECRET not in _told(verdict)


async def test_of_another_operation(postgres: Postgres, postgres_schema: str) -> None:
    refuse = f"ALTER TABLE latest ADD CHECK (note <> '{SECRET}')"
    async with PostgresDriver(postgres.url(), schema=postgres_schema) as driver:
        await commit(driver, Writes("t", (State("a"),)))
        assert _run(postgres, postgres_schema, refuse) == ""
        assert SECRET in _run(postgres, postgres_schema, f"UPDATE latest SET note = '{SECRET}'")
        with pytest.raises(DriverError) as refused:
            await driver.beat([Heartbeat("a", 1, 60.0, SECRET)])
    told = _told(refused.value)
    assert "CheckViolation" in told
    assert "check constraint" in told
    assert SECRET not in told
