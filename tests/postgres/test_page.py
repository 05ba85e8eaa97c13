"""docs/postgres.md: its queries run and find something, and it knows every table and column."""

import re
import secrets
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from flowstate import (
    Commit,
    Data,
    Delay,
    Engine,
    FlowRegistry,
    Pause,
    State,
    StateContext,
    Status,
    StoreData,
    StoreReadOnlyError,
    Transit,
)
from flowstate.driver import Claim, Drop, DueQuery, Heartbeat, StateQuery, Writes
from flowstate.drivers.postgres import PostgresDriver
from flowstate.testcases.support import timer
from tests.postgres.steps import commit
from tests.servers import Postgres

pytestmark = pytest.mark.repository

FILE = Path(__file__).parents[2] / "docs" / "postgres.md"
PAGE = FILE.read_text() if FILE.exists() else ""
QUERIES = re.findall(r"^```sql\n(SELECT.*?|WITH.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
GRANTS = re.findall(r"^```sql\n(GRANT.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
DESCRIBED = {
    name: re.findall(r"`(\w+)`", columns)
    for name, columns in re.findall(r"^\| `(\w+)` \| each [^|]*\| ([^|]*) \|$", PAGE, re.MULTILINE)
}

Connection = psycopg.Connection[Any]


@pytest.fixture
async def connection(postgres: Postgres, postgres_schema: str) -> AsyncIterator[Connection]:
    """To a store with something in every table."""
    flows = FlowRegistry()
    flows.declare("charge")
    async with Engine(PostgresDriver(postgres.url(), schema=postgres_schema), flows) as engine:
        order, later = (
            StateContext(State(id, labels={"kind": "order"})) for id in ("order-1", "2")
        )
        order.data["invoice"] = Data(b"blob")
        await engine.do(Commit(StoreData(order, "invoice"), Pause(order)))
        await engine.do(Commit(Transit(order, "charge")))
        await engine.do(Commit(Delay(later, "charge", after=timedelta(hours=1))))
        await engine.driver.beat([Heartbeat("order-1", order.committed.rev, 0.0, "worker 1")])
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(SQL("SET search_path = {}").format(Identifier(postgres_schema)))
        connection.execute("UPDATE log SET committed_at = committed_at - interval '1 hour'")
        yield connection


def test_the_page_has_queries() -> None:
    assert len(QUERIES) == 7


@pytest.mark.parametrize("query", QUERIES)
async def test_each_query_finds_something(connection: Connection, query: str) -> None:
    rows = connection.execute(query.encode()).fetchall()
    assert rows
    assert None not in rows[-1]


async def test_the_history_is_whole(connection: Connection) -> None:
    (history,) = [query for query in QUERIES if query.startswith("WITH RECURSIVE")]
    rows = connection.execute(history.encode()).fetchall()
    assert [(row[0], *row[2:]) for row in rows] == [(1, "paused", None), (2, "active", "charge")]


async def test_the_permissions_are_enough(
    connection: Connection, postgres: Postgres, postgres_schema: str
) -> None:
    role, password = f"test_{secrets.token_hex(8)}", secrets.token_hex()
    worker = make_conninfo(postgres.url(), user=role, password=password)
    create = SQL("CREATE ROLE {} LOGIN PASSWORD {}")
    connection.execute(create.format(Identifier(role), password))
    try:
        for_commits, for_compaction = (
            grant.replace("flowstate", postgres_schema).replace("worker", role) for grant in GRANTS
        )
        connection.execute(for_commits.encode())
        await use_as_worker(worker, postgres_schema)
        with pytest.raises(StoreReadOnlyError):
            await compact(worker, postgres_schema)
        connection.execute(for_compaction.encode())
        assert await compact(worker, postgres_schema) == 4
    finally:
        connection.execute(SQL("DROP OWNED BY {}").format(Identifier(role)))
        connection.execute(SQL("DROP ROLE {}").format(Identifier(role)))


async def use_as_worker(url: str, schema: str) -> None:
    """Do whatever writes to some table, and whatever reads."""
    flows = FlowRegistry()
    flows.declare("charge")
    async with Engine(PostgresDriver(url, schema=schema), flows) as engine:
        brief, alarm = State("brief", status=Status.ENDED), timer("alarm", timedelta(hours=1))
        await commit(engine.driver, Writes("begin", (brief,), timers=(alarm,), forgets=(0,)))
        order = StateContext(await engine.get_state("order-1"))
        order.data["invoice"] = Data(b"another")
        await engine.do(Commit(StoreData(order, "invoice"), Transit(order, "charge")))
        await engine.do(Commit(Pause(order), Delay(order, "charge", after=timedelta(0))))
        assert (await engine.get_data(order, "invoice")).blob == b"another"
        delayed, *_ = (await engine.get_delayed_states()).delayed
        claim, drop = Claim(delayed.id, "me", 60.0), Drop(delayed.id, "me")
        await commit(engine.driver, Writes("claim", claims=(claim,)), Writes("drop", drops=(drop,)))
        heartbeat = Heartbeat("order-1", order.committed.rev, 60.0, "me")
        assert await engine.driver.beat([heartbeat]) == [True]
        assert await engine.driver.get_liveness(["order-1"])
        assert (await engine.driver.get_due(DueQuery("stall"))).damaged == []
        assert await engine.driver.count(StateQuery()) == 2
        async with engine.watch(labels={"kind": "order"}, since_rev=0) as states:
            assert [(await anext(states)).rev for _ in range(4)] == [1, 2, 3, 5]


async def compact(url: str, schema: str) -> int:
    async with Engine(PostgresDriver(url, schema=schema), FlowRegistry()) as engine:
        return await engine.compact(await engine.head())


async def test_the_page_knows_every_table_and_column(
    connection: Connection, postgres_schema: str
) -> None:
    columns = (
        "SELECT table_name::text, array_agg(column_name::text ORDER BY ordinal_position)"
        " FROM information_schema.columns WHERE table_schema = %s GROUP BY table_name"
    )
    found: dict[str, list[str]] = dict(connection.execute(columns, (postgres_schema,)).fetchall())
    assert found == DESCRIBED
