"""A store that the first version of the schema has made is brought up to date, with all in it."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from flowstate import Status, StoreUnavailableError
from flowstate.driver import Claim, DueQuery, StateQuery, Writes
from flowstate.drivers.postgres import PostgresDriver, migration_sql
from flowstate.frozen import FrozenDict
from tests.postgres.steps import commit, liveness_of
from tests.servers import Postgres, PostgresServer
from tests.support import put

FIRST = (Path(__file__).parent / "sql" / "version_1.sql").read_text()
OLD = "2020-01-01 00:00:00+00"
CONTENTS = f"""
INSERT INTO log VALUES
    (1, 'a', 0, 'active', '{OLD}', NULL, 't1',
        '{{"v": 1, "id": "a", "transition": {{"to": "work"}}}}'),
    (2, 'b', 0, 'paused', '{OLD}', '{OLD}', 't2',
        '{{"v": 1, "id": "b", "status": "paused", "labels": {{"kind": "x"}}}}'),
    (3, 'c', 0, 'ended', '{OLD}', NULL, 't3',
        '{{"v": 1, "id": "c", "status": "ended", "labels": {{"kind": "x"}}}}');
INSERT INTO latest VALUES
    ('a', 1, 'active', false, true, '{OLD}', 120000000, NULL, NULL),
    ('b', 2, 'paused', true, true, NULL, NULL, NULL, NULL),
    ('c', 3, 'ended', true, false, NULL, NULL, NULL, NULL);
INSERT INTO label VALUES ('kind', 'x', 2), ('kind', 'x', 3);
INSERT INTO latest_label VALUES ('kind', 'x', 2), ('kind', 'x', 3);
INSERT INTO data VALUES ('kept', 0, '{{}}', 'blob'), ('gone', 0, '{{}}', 'blob');
INSERT INTO delay VALUES
    ('t2.0', 'b', 2, '{OLD}', '{{"v": 1, "to": "later"}}'),
    ('t4.0', 'a', 1, '{OLD}', '{{"v": 1, "to": "sooner", "state": {{"v": 1, "id": "a", "rev": 1,
        "data": {{"doc": {{"rev": 1, "checksum": "kept"}}}}}}}}'),
    ('t5.0', 'a', 1, '{OLD}', '{{"v": 1, "state": {{"v": 1, "id": "a", "data": 7}}}}'),
    ('t6.0', 'a', 1, '{OLD}', '[]');
"""


@pytest.fixture
def old(postgres: Postgres, postgres_schema: str) -> Iterator[psycopg.Connection[object]]:
    """A store of version 1 with something in every table."""
    name = Identifier(postgres_schema).as_string(None)
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(postgres_schema)))
        connection.execute(FIRST.replace("{schema}", name).encode())
        connection.execute(f"SET search_path = {name}".encode())
        connection.execute(CONTENTS.encode())
        yield connection


async def test_all_is_there(
    old: psycopg.Connection[object], postgres: Postgres, postgres_schema: str
) -> None:
    async with PostgresDriver(postgres.url(), schema=postgres_schema) as driver:
        assert [state.id for state in (await driver.get_states(StateQuery())).states] == [*"abc"]
        for status, ids in ((None, ["b", "c"]), (Status.PAUSED, ["b"]), (Status.ENDED, ["c"])):
            labels = (FrozenDict({"kind": "x"}),)
            page = await driver.get_states(StateQuery(labels, latest_only=True, status=status))
            assert [state.id for state in page.states] == ids
        stalled = await driver.get_due(DueQuery("stall", ("work",), others=True))
        assert [(each.id, each.to) for each in stalled.due] == [("a", "work")]
        due = await driver.get_due(DueQuery("delay", ("later",), others=True))
        assert [each.id for each in due.due] == ["t2.0"]
        # One without a flow is on the pages of all flows.
        assert [bad.id for bad in due.damaged] == ["t5.0", "t6.0"]
        assert due.others == ["sooner"]
        assert (await liveness_of(driver, "a")).delay_due == datetime(2020, 1, 1, tzinfo=UTC)


async def test_it_goes_on(
    old: psycopg.Connection[object], postgres: Postgres, postgres_schema: str
) -> None:
    async with PostgresDriver(postgres.url(), schema=postgres_schema) as driver:
        claim = Writes("claim", claims=(Claim("t2.0", "me", 60.0),))
        claimed, (state,) = await commit(driver, claim, put("next", "b", 2))  # type: ignore[misc]
        assert (claimed, state.rev) == ((), 4)
        assert await driver.compact(10) == 1
        assert await driver.get_data("kept") is not None
        assert await driver.get_data("gone") is None


def test_the_rest_is_printed_for_those_who_apply_it(
    old: psycopg.Connection[object], postgres_schema: str
) -> None:
    old.execute(migration_sql(postgres_schema, since=1).encode())
    assert old.execute("SELECT version FROM meta").fetchone() == (2,)


async def test_a_server_that_stands_still_meanwhile(
    private_postgres: PostgresServer, postgres_schema: str
) -> None:
    url, schema = private_postgres.url(), Identifier(postgres_schema)
    with psycopg.connect(url) as other:
        other.execute(SQL("CREATE SCHEMA {}").format(schema))
        other.execute(FIRST.replace("{schema}", schema.as_string(None)).encode())
        other.commit()
        other.execute(SQL("LOCK TABLE {}.delay").format(schema))
        driver = PostgresDriver(url, schema=postgres_schema, timeout=1.0)
        opening = asyncio.ensure_future(driver.__aenter__())
        # As long as the server answers, it goes on for longer than the timeout.
        assert not (await asyncio.wait([opening], timeout=2.0))[0]
        with private_postgres.standing_still(), pytest.raises(StoreUnavailableError):
            async with asyncio.timeout(5.0):
                await opening
        other.rollback()
    async with driver:
        assert driver.store_id
