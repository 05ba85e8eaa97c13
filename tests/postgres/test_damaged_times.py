"""Times that Python does not have: the declared errors."""

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from flowstate import CodecError, DriverError, State
from flowstate.driver import StateQuery, Writes
from flowstate.drivers.postgres import PostgresDriver
from tests.servers import Postgres

TIMES = ("infinity", "-infinity", "294276-01-01", "0044-03-15 BC")


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("column", ["committed_at", "delayed_until"])
async def test_of_a_revision(
    postgres: Postgres, postgres_schema: str, column: str, time: str
) -> None:
    async with PostgresDriver(postgres.url(), schema=postgres_schema) as driver:
        await driver.commit([Writes("t", (State("a"),))])
        with psycopg.connect(postgres.url(), autocommit=True) as other:
            change = f"UPDATE {{}}.log SET {column} = %s"
            other.execute(SQL(change).format(Identifier(postgres_schema)), (time,))
        with pytest.raises((CodecError, DriverError)):
            await driver.get_state("a")
        with pytest.raises((CodecError, DriverError)):
            await driver.get_states(StateQuery())
