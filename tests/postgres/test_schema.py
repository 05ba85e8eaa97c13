"""Whose schema it is, which version it has, who may use it, and how it comes into a database."""

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.sql import Identifier

from flowstate import (
    Commit,
    Engine,
    FlowRegistry,
    FlowstateError,
    InvalidInputError,
    Pause,
    State,
    StateContext,
    StoreCorruptError,
    StoreVersionError,
)
from flowstate.drivers.postgres import PostgresDriver, migration_sql
from flowstate.drivers.postgres.schema import SCHEMA_VERSION
from tests.servers import Postgres

NAMES = [
    'double"quotes"',
    "single'quote",
    "UPPER case",
    "Zustände 状态",
    "semi;colon--",
    "back\\slash",
    "dollar$1$",
    "perhaps?:name",
    "select",
    " ",
    "x" * 63,
    "ä" * 31,
]
BAD_NAMES = ["", "x" * 64, "ä" * 32, "a\0b", "{schema}", "100%", "$$", "a\nb", "\ud800", None, 7]
OPENER = """
import asyncio, sys
from tests.postgres.test_schema import commit_in
sys.stdout.write("ready\\n"); sys.stdout.flush(); sys.stdin.readline()
sys.stdout.write(asyncio.run(commit_in(sys.argv[1], sys.argv[2], sys.argv[3])))
"""


async def commit_in(url: str, schema: str, id: str = "a", **options: Any) -> str:
    """Open a store, commit a new state, and return the id of the store."""
    driver = PostgresDriver(url, schema=schema, **options)
    async with Engine(driver, FlowRegistry()) as engine:
        await engine.do(Commit(Pause(StateContext(State(id)))))
    return driver.store_id


async def ids_in(url: str, schema: str) -> list[str]:
    async with Engine(PostgresDriver(url, schema=schema), FlowRegistry()) as engine:
        return [state.id async for state in engine.states()]


@pytest.fixture
def admin(postgres: Postgres) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.url()


def run(admin: psycopg.Connection[Any], statements: str, schema: str) -> None:
    admin.execute(statements.replace("{}", Identifier(schema).as_string(admin)))


def contents(admin: psycopg.Connection[Any], schema: str) -> list[Any]:
    """Return all that there is in a schema, but for the rows."""
    query = (
        "SELECT 'table', relname, relfilenode::text FROM pg_class WHERE relnamespace = ("
        "SELECT oid FROM pg_namespace WHERE nspname = %(name)s) UNION ALL"
        " SELECT 'function', proname, prosrc FROM pg_proc WHERE pronamespace = ("
        "SELECT oid FROM pg_namespace WHERE nspname = %(name)s) ORDER BY 1, 2, 3"
    )
    return admin.execute(query, {"name": schema}).fetchall()


async def refusal(
    admin: psycopg.Connection[Any], url: str, schema: str, **options: Any
) -> FlowstateError:
    """Return why a store cannot be opened, having checked that it was left as it was."""
    before = contents(admin, schema)
    with pytest.raises(FlowstateError) as refused:
        await commit_in(url, schema, **options)
    assert contents(admin, schema) == before
    return refused.value


@pytest.mark.slow
async def test_many_processes_open_a_new_schema_at_once(url: str, postgres_schema: str) -> None:
    openers = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", OPENER, url, postgres_schema, str(number)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for number in range(10)
    ]
    for opener in openers:
        assert opener.stdout is not None
        assert await opener.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(opener.communicate(b"\n") for opener in openers))
    assert [opener.returncode for opener in openers] == [0] * 10
    assert len({output for output, _ in outputs}) == 1
    assert sorted(await ids_in(url, postgres_schema)) == sorted(map(str, range(10)))


async def test_an_empty_database_is_refused_without_migrate(
    admin: psycopg.Connection[Any], url: str, postgres_schema: str
) -> None:
    error = await refusal(admin, url, postgres_schema, migrate=False)
    assert type(error) is StoreVersionError
    assert "migrate=True" in str(error)


@pytest.mark.parametrize("migrate", [False, True])
async def test_a_newer_version_is_refused(
    admin: psycopg.Connection[Any], url: str, postgres_schema: str, migrate: bool
) -> None:
    await commit_in(url, postgres_schema)
    run(admin, "UPDATE {}.meta SET version = version + 1", postgres_schema)
    error = await refusal(admin, url, postgres_schema, migrate=migrate)
    assert type(error) is StoreVersionError
    assert "upgrade flowstate" in str(error)


@pytest.mark.parametrize(
    "tables",
    [
        "CREATE TABLE {}.meta (version integer)",
        "CREATE TABLE {}.log (line text)",
        "CREATE TABLE {}.meta (line text); CREATE TABLE {}.log (line text)",
        "CREATE TABLE {}.log (); CREATE TABLE {}.meta AS SELECT 'one' AS version",
        "CREATE TABLE {}.meta (version integer); CREATE TABLE {}.log (line text)",
        "CREATE TABLE {}.data (line text)",
        "CREATE SEQUENCE {}.log",
    ],
)
async def test_the_schema_of_another_program_is_refused(
    admin: psycopg.Connection[Any], url: str, postgres_schema: str, tables: str
) -> None:
    run(admin, f"CREATE SCHEMA {{}}; {tables}", postgres_schema)
    assert type(await refusal(admin, url, postgres_schema)) is StoreCorruptError


@pytest.mark.parametrize("name", NAMES)
async def test_a_schema_may_have_any_name(
    admin: psycopg.Connection[Any], url: str, name: str
) -> None:
    flows = FlowRegistry()
    drivers = [PostgresDriver(url, schema=name, poll_interval=1_000.0) for _ in range(2)]
    writer, reader = (Engine(driver, flows) for driver in drivers)
    try:
        async with writer, reader, reader.watch(since_rev=0) as states:
            for id in ("a", "b", "c"):
                await writer.do(Commit(Pause(StateContext(State(id)))))
                assert (await anext(states)).id == id  # Another driver hears of it.
        assert contents(admin, name) != []
    finally:
        run(admin, "SET client_min_messages = warning; DROP SCHEMA {} CASCADE", name)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_are_refused(name: Any) -> None:
    with pytest.raises(InvalidInputError, match="schema"):
        PostgresDriver("postgresql://", schema=name)
    with pytest.raises(InvalidInputError, match="schema"):
        migration_sql(name)


async def test_two_schemas_do_not_see_each_other(url: str, postgres_schema: str) -> None:
    other = f"{postgres_schema}2"
    try:
        stores = {await commit_in(url, postgres_schema), await commit_in(url, other)}
        await commit_in(url, other, "b")
        assert len(stores) == 2
        assert await ids_in(url, postgres_schema) == ["a"]
        assert await ids_in(url, other) == ["a", "b"]
    finally:
        with psycopg.connect(url, autocommit=True) as admin:
            run(admin, "SET client_min_messages = warning; DROP SCHEMA {} CASCADE", other)


async def test_the_sql_may_be_run_by_hand(
    admin: psycopg.Connection[Any], url: str, postgres_schema: str
) -> None:
    admin.execute(f"BEGIN; {migration_sql(postgres_schema)}; COMMIT".encode())
    await commit_in(url, postgres_schema, migrate=False)
    assert await ids_in(url, postgres_schema) == ["a"]
    assert migration_sql(postgres_schema, since=SCHEMA_VERSION) == ""
