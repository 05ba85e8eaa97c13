"""A store that an older version of the schema has made is brought up to date, with all in it."""

import asyncio
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from flowstate import State, Status, StoreUnavailableError
from flowstate.driver import Claim, DueQuery, StateQuery, Writes
from flowstate.drivers.postgres import PostgresDriver, migration_sql
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.testcases.support import timer
from tests.postgres.steps import commit, commit_on, liveness_of
from tests.servers import Postgres, PostgresServer
from tests.support import put

FOLDER = Path(__file__).parent / "sql"
VERSIONS = {version: (FOLDER / f"version_{version}.sql").read_text() for version in (1, 2)}
OLD = "2020-01-01 00:00:00+00"
# Of states that wait, have stalled, and have ended; some bodies and delays are damaged.
CONTENTS = f"""
INSERT INTO log VALUES
    (1, 'a', 0, 'active', '{OLD}', NULL, 't1',
        '{{"v": 1, "id": "a", "transition": {{"to": "work"}}}}'),
    (2, 'b', 0, 'paused', '{OLD}', '{OLD}', 't2',
        '{{"v": 1, "id": "b", "status": "paused", "labels": {{"kind": "x"}},
            "transition": {{"to": "wait"}}}}'),
    (3, 'c', 0, 'ended', '{OLD}', NULL, 't3',
        '{{"v": 1, "id": "c", "status": "ended", "labels": {{"kind": "x"}}}}'),
    (4, 'd', 0, 'active', '{OLD}', NULL, 't4',
        '{{"v": 1, "id": "d", "annotations": {{"note": "a \\u0000"}}, "labels": {{"kind": "y"}}}}'),
    (5, 'e', 0, 'active', '{OLD}', NULL, 't5',
        '{{"v": 1, "id": "e", "transition": {{"to": "work", "annotations": {{"a": "\\ud800"}}}}}}');
INSERT INTO latest (id, rev, status, labelled, delayed, stalls_at, stalls_after) VALUES
    ('a', 1, 'active', false, true, '{OLD}', 120000000), ('b', 2, 'paused', true, true, NULL, NULL),
    ('c', 3, 'ended', true, false, NULL, NULL), ('d', 4, 'active', true, false, NULL, NULL),
    ('e', 5, 'active', false, false, '{OLD}', 120000000);
INSERT INTO label VALUES ('kind', 'x', 2), ('kind', 'x', 3), ('kind', 'y', 4);
INSERT INTO data VALUES ('kept', 0, '{{}}', 'blob'), ('gone', 0, '{{}}', 'blob');
INSERT INTO delay (id, state_id, rev, due, body) VALUES
    ('t2.0', 'b', 2, '{OLD}', '{{"v": 1, "to": "later"}}'),
    ('t4.0', 'a', 1, '{OLD}', '{{"v": 1, "to": "sooner", "state": {{"v": 1, "id": "a", "rev": 1,
        "data": {{"doc": {{"rev": 1, "checksum": "kept"}}}}}}}}'),
    ('t5.0', 'a', 1, '{OLD}', '{{"v": 1, "state": {{"v": 1, "id": "a", "data": 7}}}}'),
    ('t6.0', 'a', 1, '{OLD}', '[]'), ('t7.0', 'a', 1, '{OLD}', '{{"v": 1, "to": "\\ud800"}}');
"""
LABELS = {
    1: "INSERT INTO latest_label SELECT key, value, rev FROM label;",
    2: "INSERT INTO latest_label SELECT key, value, rev, status FROM label JOIN log USING (rev);",
}
# Version 2 has stored these with each commit.
FILLED = """
UPDATE delay SET flow = body ->> 'to' WHERE id IN ('t2.0', 't4.0');
UPDATE delay SET refs = '{kept}' WHERE id = 't4.0';
UPDATE latest SET flow = CASE id WHEN 'a' THEN 'work' WHEN 'b' THEN 'wait' ELSE '' END;
"""


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> int:
    """The version of the schema that made the store."""
    return int(request.param)


@pytest.fixture
def old(
    postgres: Postgres, postgres_schema: str, version: int
) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a store of an older version with something in every table."""
    name = Identifier(postgres_schema)
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(SQL("CREATE SCHEMA {}").format(name))
        connection.execute(SQL("SET search_path = {}").format(name))
        made = VERSIONS[version].replace("{schema}", name.as_string(connection))
        connection.execute(made.encode())
        filled = CONTENTS + LABELS[version] + (FILLED if version > 1 else "")
        connection.execute(filled.encode())
        yield connection


@pytest.fixture
def driver(
    old: psycopg.Connection[Any], postgres: Postgres, postgres_schema: str
) -> PostgresDriver:
    """A driver that brings it up to date when it is opened."""
    return PostgresDriver(postgres.url(), schema=postgres_schema)


async def test_all_is_there(driver: PostgresDriver) -> None:
    async with driver:
        page = await driver.get_states(StateQuery())
        assert [state.id for state in page.states] == [*"abcd"]
        assert [bad.id for bad in page.damaged] == ["e"]
        for status, ids in ((None, ["b", "c"]), (Status.PAUSED, ["b"]), (Status.ENDED, ["c"])):
            labels = (FrozenDict({"kind": "x"}),)
            query = StateQuery(labels, latest_only=True, status=status)
            assert [state.id for state in (await driver.get_states(query)).states] == ids
            assert await driver.count(query) == len(ids)
        stalled = await driver.get_due(DueQuery("stall", ("work",), others=True))
        assert [(each.id, each.to) for each in stalled.due] == [("a", "work")]
        due = await driver.get_due(DueQuery("delay", ("later",), others=True))
        assert [each.id for each in due.due] == ["t2.0"]
        # One without a flow is on the pages of all flows.
        assert [bad.id for bad in due.damaged] == ["t5.0", "t6.0", "t7.0"]
        assert due.others == ["sooner"]
        assert (await liveness_of(driver, "a")).delay_due == datetime(2020, 1, 1, tzinfo=UTC)


async def test_what_waits_is_idle(driver: PostgresDriver) -> None:
    async with driver:
        idle = await driver.get_due(DueQuery("idle", ("wait",), others=True))
        assert [(each.id, each.to) for each in idle.due] == [("b", "wait")]
        assert idle.others == [""]
        every = await driver.get_due(DueQuery("idle"))
        assert [each.id for each in every.due] == ["b", "d"]
        assert (await liveness_of(driver, "b")).stalls_at is None
        history = await driver.get_states(StateQuery(id="b"))
        assert [state.rev for state in history.states] == [2]


async def test_it_goes_on(driver: PostgresDriver) -> None:
    async with driver:
        claim = Writes("claim", claims=(Claim("t2.0", "me", 60.0),))
        claimed, (state,) = await commit(driver, claim, put("next", "b", 2))  # type: ignore[misc]
        assert (claimed, state.rev) == ((), 6)
        assert await driver.compact(10) == 1
        assert await driver.get_data("kept") is not None
        assert await driver.get_data("gone") is None
        new = State("b", 6, status=Status.ENDED)
        await commit(driver, Writes("forget", (new,), forgets=(0,)), put("again", "b"))
        assert await driver.get_state("b") is not None


async def test_bodies_that_no_operator_takes_move_on(driver: PostgresDriver) -> None:
    kind = StateQuery((FrozenDict({"kind": "y"}),))
    async with driver:
        assert await driver.count(kind) == 1
        await commit(driver, put("d", "d", 4), put("e", "e", 5))
        assert await driver.count(kind) == 0
        assert [state.rev for state in (await driver.get_states(kind)).states] == [4]
        assert await driver.compact(7) == 2
        assert list((await driver.get_states(kind)).states) == []


def test_the_rest_is_printed_for_those_who_apply_it(
    old: psycopg.Connection[Any], postgres_schema: str, version: int
) -> None:
    old.execute(migration_sql(postgres_schema, since=version).encode())
    assert old.execute("SELECT version FROM meta").fetchone() == (3,)


def test_an_older_store_becomes_what_a_new_one_is(
    old: psycopg.Connection[Any], postgres_schema: str, version: int
) -> None:
    old.execute(migration_sql(postgres_schema, since=version).encode())
    other = f"new_{secrets.token_hex(8)}"
    with old.transaction(force_rollback=True):
        old.execute(migration_sql(other).encode())
        old.execute("SET search_path = pg_catalog")
        assert _shape(old, postgres_schema) == _shape(old, other)


def _shape(connection: psycopg.Connection[Any], schema: str) -> set[tuple[str, ...]]:
    """Return columns, indexes and functions of a schema, without its name."""
    query = """
        SELECT table_name::text, column_name::text, data_type::text, is_nullable::text,
            collation_name::text
            FROM information_schema.columns WHERE table_schema = %(schema)s
        UNION ALL SELECT tablename::text, indexname::text, indexdef, '', '' FROM pg_indexes
            WHERE schemaname = %(schema)s
        UNION ALL SELECT proname::text, pg_get_functiondef(oid), '', '', '' FROM pg_proc
            WHERE pronamespace = to_regnamespace(%(schema)s)
    """
    rows = connection.execute(query, {"schema": schema}).fetchall()
    return {tuple(str(value).replace(schema, "") for value in row) for row in rows}


@pytest.mark.parametrize("version", [2], indirect=True)
async def test_a_program_of_before_commits_what_it_knows(
    old: psycopg.Connection[Any], driver: PostgresDriver
) -> None:
    """One that was open during the migration goes on, and what is new to it stays."""
    timers = (timer("alarm", timedelta(hours=1)),)
    async with driver:
        (verdict,) = await commit(driver, Writes("t", (State("t"),), timers=timers))
        assert isinstance(verdict, tuple)
        (state,) = verdict
        counts = [1, 1, 1, 1, state.rev, -1, 2_001]
        words = ["before", "t", "ended", "work", '{"v": 1, "id": "t", "status": "ended"}']
        old.execute("SELECT commit(%s::bigint[], %s, NULL, NULL)", (counts, words))
        assert [each.id for each in (await driver.get_due(DueQuery("idle"))).due] == ["b", "d"]
        page = await driver.get_due(DueQuery("delay", ("work",), everything=True))
        assert [(each.id, each.state.rev) for each in page.due] == [("alarm", state.rev + 1)]


@pytest.mark.parametrize("is_paused", [False, True])
@pytest.mark.parametrize("version", [2], indirect=True)
async def test_a_commit_of_before_comes_first(
    old: psycopg.Connection[Any],
    driver: PostgresDriver,
    postgres: Postgres,
    postgres_schema: str,
    is_paused: bool,
) -> None:
    """The migration waits for one that is under way, and sees what it has written."""
    waiting = "SELECT FROM pg_locks WHERE NOT granted AND objid = 'log'::regclass::oid"
    status = Status.PAUSED if is_paused else Status.ENDED
    state = State("new", annotations=EMPTY, status=status)
    async with await psycopg.AsyncConnection.connect(postgres.url()) as before:
        await commit_on(before, postgres_schema, Writes("before", (state,)))
        opening = asyncio.ensure_future(driver.__aenter__())
        while not old.execute(waiting).fetchall():  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # reason: the server does not tell who waits
        await before.commit()
        await opening
        try:
            page = await driver.get_due(DueQuery("idle", ("",)))
            assert ("new" in [each.id for each in page.due]) == is_paused
        finally:
            await driver.__aexit__(None, None, None)


async def test_a_server_that_stands_still_meanwhile(
    private_postgres: PostgresServer, postgres_schema: str
) -> None:
    url, schema = private_postgres.url(), Identifier(postgres_schema)
    with psycopg.connect(url) as other:
        other.execute(SQL("CREATE SCHEMA {}").format(schema))
        other.execute(SQL("SET search_path = {}").format(schema))
        other.execute(VERSIONS[1].replace("{schema}", schema.as_string(other)).encode())
        other.commit()
        other.execute("LOCK TABLE delay")
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
