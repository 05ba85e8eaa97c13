"""Looking for stalled and idle states, and heartbeats, cost the same however many there are."""

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace
from psycopg.sql import SQL, Identifier

from flowstate.driver import DueQuery
from flowstate.drivers.postgres import migration_sql
from tests.postgres.test_plans import Store, nodes
from tests.servers import Postgres

pytestmark = pytest.mark.slow

ACTIVE = 100_000
STALLED = 100
IDLE = 100_000  # In the flows of those that are active, and in one of their own.
LIMIT = 100
FILL = f"""
INSERT INTO log SELECT rev, 'state-' || rev, 0, 'active', clock_timestamp(), NULL, 'token-' || rev,
    json_build_object('v', 1, 'id', 'state-' || rev)
    FROM generate_series(1, {ACTIVE}) AS rev;
INSERT INTO latest (id, rev, status, labelled, delayed, stalls_at, stalls_after, flow)
    SELECT id, rev, 'active', false, true,
    CASE WHEN rev % {ACTIVE // STALLED} = 0 THEN timestamptz '2025-01-01 00:00:00+00'
        ELSE timestamptz '9000-01-01 00:00:00+00' END + rev * interval '1 second',
    120000000, 'flow-' || rev % 2 FROM log;
INSERT INTO latest (id, rev, status, labelled, delayed, stalls_at, flow)
    SELECT 'idle-' || n, {ACTIVE} + n, 'paused', false, false, 'infinity', 'flow-' || n % 3
    FROM generate_series(1, {IDLE}) AS n;
INSERT INTO delay (id, state_id, rev, due, body, flow)
    SELECT 'delay-' || rev, id, rev, timestamptz '9000-01-01 00:00:00+00',
    '{{"v": 1, "to": "next"}}', 'next' FROM log;
"""


@pytest.fixture(scope="module")
def filled(postgres: Postgres) -> Iterator[Store]:
    schema = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        store = Store(connection, schema)
        connection.execute(migration_sql(schema).encode())
        connection.execute(f"SET search_path = {schema}")
        for table in store.tables():
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        connection.execute(FILL)
        connection.execute("RESET search_path")
        yield store
        connection.execute("SET client_min_messages = warning")
        connection.execute(SQL("DROP SCHEMA {} CASCADE").format(Identifier(schema)))


@pytest.fixture(scope="module", params=["no statistics", "statistics"])
def store(filled: Store, request: pytest.FixtureRequest) -> Store:
    """A store before its tables were ever analyzed, and afterwards."""
    if request.param == "statistics":
        filled.analyze()
    assert filled.is_analyzed() == (request.param == "statistics")
    return filled


def pages() -> Iterator[DueQuery]:
    for flows in (None, ("flow-0", "flow-1", "none")):
        for limit in (1, LIMIT, 10 * LIMIT):
            yield DueQuery("stall", flows, limit=limit, others=True)
            after = datetime(2025, 1, 1, 12, tzinfo=UTC), "state-43000"
            yield DueQuery("stall", flows, after=after, limit=limit)


@pytest.mark.parametrize("generic", [False, True], ids=["custom plan", "generic plan"])
def test_stalled_states_come_from_their_index(store: Store, generic: bool) -> None:
    for query in pages():
        statement, parameters = store.queries.due(query)
        plan = list(nodes(store.plan_of(statement, parameters, generic=generic)))
        assert [node for node in plan if node["Node Type"] == "Seq Scan"] == []
        for sort in (node for node in plan if "Sort" in node["Node Type"]):
            assert sort["Actual Rows"] <= min(3 * query.limit + 3, STALLED), sort
        work = store.work(statement, parameters, generic=generic)
        assert work.scanned == set()
        assert work.rows <= 4 * min(query.limit, STALLED) + 30
        assert work.blocks <= 10 * min(query.limit, STALLED) + 150


@pytest.mark.parametrize("generic", [False, True], ids=["custom plan", "generic plan"])
def test_idle_states_come_from_their_index(store: Store, generic: bool) -> None:
    for query in pages():
        after = query.after and (datetime.min.replace(tzinfo=UTC), "idle-43000")
        statement, parameters = store.queries.due(replace(query, kind="idle", after=after))
        work = store.work(statement, parameters, generic=generic)
        assert work.scanned == set()
        # Of each flow as many as the page has.
        assert work.rows <= 7 * query.limit + 30
        assert work.blocks <= 25 * query.limit + 100


@pytest.mark.parametrize("generic", [False, True], ids=["custom plan", "generic plan"])
@pytest.mark.parametrize("count", [1, 1_000])
def test_heartbeats_look_at_their_states_only(store: Store, generic: bool, count: int) -> None:
    revs = list(range(1, count + 1))
    parameters: list[Any] = [
        [f"state-{rev}" for rev in revs],
        revs,
        [60_000_000] * count,
        [""] * count,
    ]
    work = store.work(store.queries.beat, parameters, generic=generic)
    assert work.scanned == set()
    assert work.blocks < 200 + 60 * count


@pytest.mark.parametrize("generic", [False, True], ids=["custom plan", "generic plan"])
@pytest.mark.parametrize("count", [1, 500])
def test_liveness_is_one_look_for_each(store: Store, generic: bool, count: int) -> None:
    # Not those of the heartbeats above, which were undone but have left dead rows.
    ids = [f"state-{number}" for number in range(2_037, 2_037 + count)]
    work = store.work(store.queries.liveness, (ids,), generic=generic)
    assert work.scanned == set()
    # What was asked; the state and its delay, each of which a bitmap counts twice.
    assert work.rows <= 5 * count
    assert work.blocks < 20 * count
