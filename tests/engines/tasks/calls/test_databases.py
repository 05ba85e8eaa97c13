"""SQL is bound, bounded, and only on databases that the host program has named."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from flowstate import InvalidInputError
from flowstate.engines.tasks.calls.databases import Database, as_pyformat, sql
from tests.engines.tasks.calls.calling import Caller, caller
from tests.servers import Postgres

EVIL = "'; drop table things; -- %s %(x)s :name $$ \\"


@pytest.fixture(params=["sqlite", "postgres"])
async def call(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Caller]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/data"
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        schema = request.getfixturevalue("postgres_schema")
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {schema}".encode())
        url = f"{postgres.url()}{'&' if '?' in postgres.url() else '?'}"
        url += f"options=-c%20search_path%3D{schema}"
    databases = {
        "shop": Database(url),
        "small": Database(url, most_rows=3, most_bytes=1_000),
        "slow": Database(url, seconds=0.3),
    }
    async with caller(databases=databases) as opened:
        await opened(sql, command("create table things (name text primary key, n integer)"))
        yield opened


def command(text: str, **parameters: Any) -> dict[str, Any]:
    return {"database": "shop", "query": text, "parameters": parameters}


def query(text: str, database: str = "shop", **parameters: Any) -> dict[str, Any]:
    return {"database": database, "query": text, "parameters": parameters}


INSERT = "insert into things (name, n) values (:name, :n)"


async def test_rows_come_as_objects(call: Caller) -> None:
    assert await call(sql, command(INSERT, name="a", n=1)) == {"changed": 1}
    assert await call(sql, command(INSERT, name="b", n=None)) == {"changed": 1}
    assert await call(sql, query("select name, n from things order by name")) == [
        {"name": "a", "n": 1},
        {"name": "b", "n": None},
    ]
    assert await call(sql, command("delete from things")) == {"changed": 2}
    assert await call(sql, query("select * from things")) == []


async def test_rows_of_what_changes_are_given_and_kept(call: Caller) -> None:
    text = f"{INSERT} returning n + 1 as next"

    assert await call(sql, query(text, name="a", n=1)) == [{"next": 2}]
    assert await call(sql, query("select n from things")) == [{"n": 1}]


async def test_values_are_bound_whatever_they_hold(call: Caller) -> None:
    await call(sql, command(INSERT, name=EVIL, n=1))

    found = await call(sql, query("select name from things where name = :name", name=EVIL))
    assert found == [{"name": EVIL}]


async def test_what_only_looks_like_a_parameter_is_left_alone(call: Caller) -> None:
    text = """select ':no' as a, '100%' as "b:c", '%s' as d /* :none */, :n + 0 as n -- :none"""
    assert await call(sql, query(text, n=5)) == [{"a": ":no", "b:c": "100%", "d": "%s", "n": 5}]


async def test_the_key_of_the_call_is_a_parameter(call: Caller) -> None:
    text = "insert into things (name) values (:key) on conflict do nothing"

    assert await call(sql, command(text)) == {"changed": 1}
    assert await call(sql, command(text)) == {"changed": 0}
    assert await call(sql, query("select name from things")) == [{"name": "i/main/call/1"}]


async def test_a_statement_that_was_put_together_is_refused(call: Caller) -> None:
    arguments = {"database": "shop", "query": "select 1"}
    written = {"database": "shop", "query": '${ "select " + .n }'}

    assert await call.refused(sql, arguments, written=written) == (
        "configuration",
        400,
        "a query is a text; values belong in parameters",
    )


@pytest.mark.parametrize("text", ["select 1; select 2", "select 1; drop table things"])
async def test_only_one_statement_runs(call: Caller, text: str) -> None:
    assert (await call.refused(sql, query(text)))[0] == "runtime"
    assert await call(sql, query("select * from things")) == []


async def test_what_is_wrong_is_told(call: Caller) -> None:
    assert await call.refused(sql, query("select 1", database="none")) == (
        "configuration",
        400,
        "no database 'none'",
    )
    assert (await call.refused(sql, query("selekt")))[0] == "runtime"
    assert (await call.refused(sql, query("select :missing")))[0] == "runtime"


@pytest.mark.parametrize(
    "text",
    [
        "with one as (select 'a' as name) insert into things (name) select name from one",
        "/* select */ INSERT INTO things (name) VALUES ('a')",
        "-- select\ninsert into things (name) values ('a')",
    ],
)
async def test_what_changes_is_told_from_what_reads(call: Caller, text: str) -> None:
    assert await call(sql, query(text)) == {"changed": 1}
    assert await call(sql, query('select name as "update" from things')) == [{"update": "a"}]


async def test_a_conflict_has_the_code_of_the_database(call: Caller) -> None:
    await call(sql, command(INSERT, name="a", n=1))
    with pytest.raises(Exception, match="runtime") as raised:
        await call(sql, command(INSERT, name="a", n=2))

    assert raised.value.extra["code"] in {"23505", "SQLITE_CONSTRAINT_PRIMARYKEY"}  # type: ignore[attr-defined]


async def test_rows_are_bounded(call: Caller) -> None:
    numbers = "with recursive r(n) as (select 1 union all select n + 1 from r{}) select n from r"
    three, four = numbers.format(" where n < 3"), numbers.format(" where n < 4")

    assert len(await call(sql, query(three, "small"))) == 3
    assert await call.refused(sql, query(four, "small")) == ("runtime", 500, "more than 3 rows")
    # Rows without an end are not gathered first.
    endless = numbers.format(" where n < 50000000")
    assert (await call.refused(sql, query(endless, "small")))[2] == "more than 3 rows"


async def test_a_row_is_bounded(call: Caller) -> None:
    assert (await call.refused(sql, query("select :t || :t as t", "small", t="x" * 600)))[0] == (
        "runtime"
    )


LONG = (
    "with recursive r(n) as (select 1 union all select n + 1 from r where n < 1000000000)"
    " select count(*) from r"
)


async def test_a_statement_that_takes_too_long_is_stopped(call: Caller) -> None:
    assert await call.refused(sql, query(LONG, "slow")) == (
        "timeout",
        408,
        "the statement took more than 0.3 s",
    )


async def test_a_cancelled_statement_is_stopped(call: Caller) -> None:
    before = asyncio.all_tasks()
    task = asyncio.create_task(call(sql, query(LONG)))
    await asyncio.sleep(0.2)  # reason: until it runs in the database
    start = time.monotonic()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.get_running_loop().shutdown_default_executor()
    assert time.monotonic() - start < 5
    assert asyncio.all_tasks() <= before


@pytest.mark.parametrize(
    "text",
    [
        "attach database '{}/other' as other",
        "vacuum into '{}/other'",
        "pragma journal_mode = delete",
        "select load_extension('{}/other')",
        "select writefile('{}/other', 'x')",
    ],
)
async def test_a_document_stays_within_its_sqlite_file(tmp_path: Path, text: str) -> None:
    async with caller(databases={"shop": Database(f"sqlite:///{tmp_path}/data")}) as call:
        assert (await call.refused(sql, command(text.format(tmp_path))))[0] == "runtime"
    assert not (tmp_path / "other").exists()


async def test_sqlite_takes_and_gives_json(tmp_path: Path) -> None:
    async with caller(databases={"shop": Database(f"sqlite:///{tmp_path}/data")}) as call:
        text = "select :it ->> 'a' as a, :list as list, x'ff00' as bytes, 1.5 as half"
        assert await call(sql, query(text, it={"a": 1}, list=[1, "b"])) == [
            {"a": 1, "list": '[1,"b"]', "bytes": "/wA=", "half": 1.5}
        ]


async def test_sqlite_waits_for_its_turn(tmp_path: Path) -> None:
    async with caller(databases={"shop": Database(f"sqlite:///{tmp_path}/data")}) as call:
        await call(sql, command("create table things (name text, n integer)"))
        calls = [call(sql, command(INSERT, name=str(n), n=n)) for n in range(20)]
        await asyncio.gather(*calls)
        assert await call(sql, query("select count(*) as n from things")) == [{"n": 20}]


async def test_postgres_takes_and_gives_its_types(postgres: Postgres) -> None:
    text = """select :it::jsonb ->> 'a' as a, :ids::int[] as ids, 1.5::numeric as money,
        date '2026-12-01' as day, '\\x00ff'::bytea as bytes, E'it\\'s :no' as text,
        $$ :none % $$ as quoted, 'x' = any(:names) as found, inet '10.0.0.1' as host,
        interval '90 seconds' as time, 12345678901234567890::numeric as large"""
    async with caller(databases={"shop": Database(postgres.url())}) as call:
        found = await call(sql, query(text, it={"a": "b"}, ids=[1, 2], names=["x", "y"]))
    assert found == [
        {
            "a": "b",
            "ids": [1, 2],
            "money": "1.5",
            "day": "2026-12-01",
            "bytes": "AP8=",
            "text": "it's :no",
            "quoted": " :none % ",
            "found": True,
            "host": "10.0.0.1",
            "time": "PT90S",
            "large": "12345678901234567890",
        }
    ]


async def test_a_database_that_cannot_be_reached_is_a_matter_of_communication() -> None:
    url = "postgresql://nobody:hushhush@127.0.0.1:1/none"
    async with caller(databases={"shop": Database(url)}) as call:
        assert await call.refused(sql, query("select 1")) == (
            "communication",
            500,
            "no connection to the database",
        )
    assert "hushhush" not in repr(Database(url))


@pytest.mark.parametrize("url", ["", "shop.db", "sqlite:shop.db", "mysql://x"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="url"):
        Database(url)


async def test_connections_are_bounded(tmp_path: Path) -> None:
    file = f"{tmp_path}/data"
    held = sqlite3.connect(file, isolation_level=None)
    held.execute("create table things (name text, n integer)")
    held.execute("begin immediate")
    async with caller(databases={"shop": Database(f"sqlite:///{file}", connections=2)}) as call:
        database = call.call.runtime.databases["shop"]
        tasks = [asyncio.create_task(call(sql, command(INSERT, name="a", n=n))) for n in range(3)]
        while not database._free.locked():  # noqa: ASYNC110 - a semaphore tells no one
            await asyncio.sleep(0)
        held.execute("rollback")
        held.close()
        await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("select :a, :b_2::int", "select %(a)s, %(b_2)s::int"),
        ("select '%', ':a', \":b\", 5 % 2", "select '%%', ':a', \":b\", 5 %% 2"),
        ("select $x$ :a $$ :b $x$, :c", "select $x$ :a $$ :b $x$, %(c)s"),
        ("-- :a\n:b /* :c */", "-- :a\n%(b)s /* :c */"),
        ("select a[1:2]", "select a[1:2]"),
        ("select '''':a", "select ''''%(a)s"),
    ],
)
def test_parameters_are_found(text: str, read: str) -> None:
    assert as_pyformat(text) == read
