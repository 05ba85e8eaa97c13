"""No read looks at more of a large store than its page needs, whatever the planner knows of it."""

import re
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import psycopg
import pytest
from msgspec import Struct
from msgspec.structs import replace
from psycopg.sql import SQL, Identifier

from flowstate import Data, State, Status
from flowstate.data import DataRef
from flowstate.driver import Claim, Drop, DueQuery, NewDelay, StateQuery, Writes
from flowstate.drivers.postgres import migration_sql
from flowstate.drivers.postgres.batch import encoded, register
from flowstate.drivers.postgres.pages import SCAN_LIMIT
from flowstate.drivers.postgres.queries import Queries
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.testcases.support import encoded as with_bodies
from flowstate.testcases.support import timer
from tests.servers import Postgres

pytestmark = pytest.mark.slow

REVISIONS = 200_000
STATES = 50_000  # They have the same number of revisions, and take turns.
LIMIT = 100
START = datetime(2025, 1, 1, tzinfo=UTC)  # One revision is committed every second.
EVERYWHERE = FrozenDict({"kind": "test"})
RARE = FrozenDict({"number": "37"})  # One revision in 1,000.
NOWHERE = FrozenDict({"number": "none"})
MIXED = FrozenDict({"kind": "test", "number": "37"})
SWAPPED = FrozenDict({"number": "37", "kind": "test"})
REFERENCE = FrozenDict({"blob": DataRef(1, "sum-1")})
SPARE = 200  # Rows, for what is looked up next to the page.
BLOCKS_PER_ROW = 6
EITHER = (RARE, FrozenDict({"number": "38"}), MIXED)

FILL = f"""
INSERT INTO log SELECT rev, 'state-' || rev % {STATES}, greatest(rev - {STATES}, 0),
    CASE WHEN rev % 1000 = 7 THEN 'active' WHEN rev % 10 = 3 THEN 'paused' ELSE 'ended' END,
    timestamptz '2025-01-01 00:00:00+00' + rev * interval '1 second', NULL,
    'token-' || rev, json_build_object(
        'v', 1, 'id', 'state-' || rev % {STATES},
        'labels', json_build_object('kind', 'test', 'number', (rev % 1000)::text))
    FROM generate_series(1, {REVISIONS}) AS rev;
INSERT INTO label SELECT 'kind', 'test', rev FROM generate_series(1, {REVISIONS}) AS rev;
INSERT INTO label
    SELECT 'number', (rev % 1000)::text, rev FROM generate_series(1, {REVISIONS}) AS rev;
INSERT INTO latest (id, rev, status, labelled, delayed)
    SELECT id, rev, status, true, rev % 4 = 0 FROM log
    WHERE rev > {REVISIONS - STATES};
INSERT INTO latest_label SELECT label.*, status FROM label JOIN latest USING (rev);
INSERT INTO data SELECT 'sum-' || n, n, '{{}}', '' FROM generate_series(1, {REVISIONS}, 20) AS n;
INSERT INTO data_reference SELECT n, 'sum-' || n FROM generate_series(1, {REVISIONS}, 20) AS n;
INSERT INTO delay (id, state_id, rev, due, body, flow, refs)
    SELECT 'delay-' || rev, id, rev, committed_at + interval '1 year',
    '{{"v": 1, "to": "next"}}', 'flow-' || rev % 2, ARRAY['sum-' || rev]
    FROM log WHERE rev % 4 = 0;
INSERT INTO delay (id, state_id, rev, due, body, flow)
    SELECT 'timer-' || rev, id, -1, timestamptz '2025-01-01 00:00:00+00',
    '{{"v": 1, "to": "next", "timer": "alarm"}}', 'flow-2' FROM latest;
"""


class Work(Struct):
    """What a statement did.

    Attributes:
        rows: that were looked at.
        blocks: that were looked at.
        scanned: tables that were read from end to end.
    """

    rows: int
    blocks: int
    scanned: set[str]


class Store:
    """A large store, and what its server does for statements."""

    def __init__(self, connection: psycopg.Connection[Any], schema: str) -> None:
        self.schema = schema
        self.queries = Queries(schema)
        self._connection = connection
        connection.prepare_threshold = None  # Plans are made by hand, and forgotten.

    def work(self, statement: str, parameters: Sequence[Any], *, generic: bool = False) -> Work:
        """Run a statement and undo it; ``generic`` plans it without a look at the values."""
        with self._connection.transaction(force_rollback=True):
            scans = self._scans()
            plan = self.plan_of(statement, parameters, generic=generic)
            return Work(
                sum(map(_rows_of, nodes(plan))),
                plan["Shared Hit Blocks"] + plan["Shared Read Blocks"],
                {name for name, _ in self._scans() - scans},
            )

    def plan_of(self, statement: str, parameters: Sequence[Any], *, generic: bool) -> Any:
        """Return what EXPLAIN tells of a statement that it runs."""
        cursor: psycopg.Cursor[Any] = self._connection.cursor()
        register(cast("Any", cursor))
        if generic:
            cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            places = iter(range(1, 1 + len(parameters)))
            numbered = re.sub("%s", lambda _: f"${next(places)}", statement)
            types = f"({', '.join(map(_type_of, parameters))})" if parameters else ""
            values = f"({', '.join(['%s'] * len(parameters))})" if parameters else ""
            cursor.execute("DEALLOCATE ALL")
            cursor.execute(f"PREPARE asked {types} AS {numbered}")
            statement = f"EXECUTE asked {values}"
            cursor = psycopg.ClientCursor(self._connection)
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
        ((((explained,),)),) = cursor.fetchall()
        return explained["Plan"]

    def tables(self) -> list[str]:
        """Return their names."""
        query = "SELECT tablename FROM pg_tables WHERE schemaname = %s"
        return [name for (name,) in self._connection.execute(query, (self.schema,))]

    def analyze(self) -> None:
        """Let the planner know what is in the tables."""
        tables = ", ".join(f"{self.schema}.{table}" for table in self.tables())
        self._connection.execute(f"ANALYZE {tables}")

    def is_analyzed(self) -> bool:
        """Return whether the planner knows anything of the tables."""
        query = "SELECT FROM pg_stats WHERE schemaname = %s"
        return self._connection.execute(query, (self.schema,)).fetchone() is not None

    def _scans(self) -> set[tuple[str, int]]:
        """Return how often each table was read from end to end, in functions too."""
        rows = self._connection.execute(
            "SELECT relname, seq_scan FROM pg_stat_xact_user_tables"
            " WHERE schemaname = %s AND relname <> 'meta'",
            (self.schema,),
        )
        return set(rows)


def _type_of(value: Any) -> str:
    """Return the type with which psycopg sends a parameter."""
    if isinstance(value, list):
        return "text[]" if isinstance(value[0], str) else "bigint[]"
    return {int: "bigint", float: "float8"}.get(type(value), "unknown")


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return all nodes of a plan."""
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


def _rows_of(node: dict[str, Any]) -> int:
    if "Index Name" not in node and "Relation Name" not in node:
        return 0
    passed = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    return int((passed + node.get("Rows Removed by Index Recheck", 0)) * node["Actual Loops"])


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


def queries() -> Iterator[StateQuery]:
    """Return every combination of the filters, at several places of the log."""
    early, late = (START + timedelta(seconds=rev) for rev in (1_000, REVISIONS - 1_000))
    spans: list[dict[str, Any]] = [
        {"after": REVISIONS // 2},
        {"after": REVISIONS - 10},
        {"since_time": early, "committed_before": late},
        {"since_latest": True, "committed_before": late},
    ]
    for labels in ((), (EVERYWHERE,), (RARE,), (NOWHERE,), (MIXED,), (SWAPPED,), EITHER):
        for status in (None, Status.ACTIVE, Status.ENDED):
            for latest_only in (False, True):
                for span in spans:
                    yield StateQuery(labels, status=status, latest_only=latest_only, **span)


@pytest.mark.parametrize("generic", [False, True], ids=["custom plan", "generic plan"])
def test_pages_look_at_little(store: Store, generic: bool) -> None:
    bad = []
    for query in queries():
        statement, parameters = store.queries.page(query)
        work = store.work(statement, parameters, generic=generic)
        alternatives = max(len(query.labels), 1 if query.status or not query.latest_only else 3)
        tested = any(len(labels) + (query.status is not None) > 1 for labels in query.labels)
        rows = (2 * SCAN_LIMIT if tested else 0) + 2 * alternatives * LIMIT + SPARE
        if work.scanned or work.rows > rows or work.blocks > BLOCKS_PER_ROW * rows:
            bad.append((query, work))
    assert bad == []


@pytest.mark.parametrize("generic", [False, True], ids=["custom plan", "generic plan"])
def test_pages_of_one_state_look_at_its_revisions(store: Store, generic: bool) -> None:
    bad = []
    for query in queries():
        statement, parameters = store.queries.page(replace(query, id="state-37"))
        work = store.work(statement, parameters, generic=generic)
        if work.scanned or work.rows > SPARE or work.blocks > BLOCKS_PER_ROW * SPARE:
            bad.append((query, work))
    assert bad == []


@pytest.mark.parametrize("generic", [False, True], ids=["custom plan", "generic plan"])
@pytest.mark.parametrize("labels", [(), (EVERYWHERE,), (RARE,), EITHER])
@pytest.mark.parametrize("status", [None, Status.ENDED])
def test_counts_read_no_bodies(
    store: Store, labels: Any, status: Status | None, generic: bool
) -> None:
    statement, parameters = store.queries.count(StateQuery(labels, status=status))
    plan = store.plan_of(statement, parameters, generic=generic)
    tables = {node["Relation Name"] for node in nodes(plan) if "Relation Name" in node}
    assert tables <= {"latest", "latest_label"}
    assert not any(node["Node Type"] == "Nested Loop" for node in nodes(plan))


def delays() -> Iterator[DueQuery]:
    late = START + timedelta(days=365, seconds=REVISIONS - 1_000)
    for flows in (None, ("flow-0",), ("flow-0", "flow-1", "none"), ("flow-2",)):
        for until, everything in ((None, False), (None, True), (late, False)):
            yield DueQuery("delay", flows, until, everything, others=True)
            yield DueQuery("delay", flows, until, everything, (late, "delay-1000"))


@pytest.mark.parametrize("generic", [False, True], ids=["custom plan", "generic plan"])
def test_other_reads_look_at_little(store: Store, generic: bool) -> None:
    asked = store.queries
    statements: list[tuple[str, Sequence[Any]]] = [
        *map(asked.due, delays()),
        (asked.outlook, ()),
        (asked.latest, ("state-37",)),
        (asked.revision, (37, "state-37")),
        (asked.data, ("sum-101",)),
        (asked.delays_of, (100, "state-40")),
        (asked.stored_delays, (["delay-400", "delay-404"],)),
        (asked.successors, ([f"state-{n}" for n in range(50)], [STATES] * 50, ["token"] * 50)),
        (asked.revisions, (1000, 1127, "token-1000")),
    ]
    bad = []
    for statement, parameters in statements:
        work = store.work(statement, parameters, generic=generic)
        if work.scanned or work.rows > 8 * LIMIT + SPARE or work.blocks > 20 * LIMIT:
            bad.append((statement, work))
    assert bad == []


@pytest.mark.parametrize("ids", [1, 2, 100])
def test_commits_look_at_little(store: Store, ids: int) -> None:
    first = REVISIONS - STATES
    states = [State(f"state-{n}", first + n, EVERYWHERE, data=REFERENCE) for n in range(ids)]
    delays = [
        NewDelay(state, "next", EMPTY, START, None, commit=True, body="", put=0) for state in states
    ]
    batch = [
        with_bodies(
            Writes(
                f"token-{n}",
                (states[n],),
                checks=((f"state-{n + 1}", first + n + 1),),
                data=(Data(b"blob", checksum="new"),),
                delays=(delays[n],),
                timers=(timer(f"timer-{n}", START),),
                forgets=(0,) if n % 2 else (),
                needs=("sum-1", "sum-21"),
                claims=(Claim(f"delay-{first + 4 * n + 4}", "me", 60.0),),
                drops=(Drop(f"delay-{first + 4 * n + 4}", "me"), Drop(f"timer-{first + n}", "")),
            )
        )
        for n in range(ids)
    ]
    parameters = encoded(batch, 1.0)
    work = store.work(store.queries.commit_of(parameters).decode(), parameters)
    assert work.scanned == set()
    assert work.blocks < 1_000 + 250 * ids


def test_compaction_looks_at_little(store: Store) -> None:
    statement = f"SELECT * FROM {store.schema}.compact_some(%s, %s, %s)"
    work = store.work(statement, (0, REVISIONS, 1_000))
    assert work.scanned == set()
    assert work.blocks < 60 * 1_000


def test_dropping_blobs_looks_at_little(store: Store) -> None:
    statement = f"SELECT * FROM {store.schema}.drop_unreferenced(%s, %s, %s, %s)"
    work = store.work(statement, ("sum-1", REVISIONS, 1_000, 1_000_000))
    assert work.scanned == set()
    assert work.blocks < 30 * 1_000


def test_a_plan_that_reads_a_whole_table_would_be_noticed(store: Store) -> None:
    statement = f"SELECT FROM {store.schema}.log WHERE token = ''"
    assert store.work(statement, ()).scanned
