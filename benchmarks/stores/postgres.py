"""The Postgres driver, each place a schema of one database."""

import asyncio
from contextlib import AbstractContextManager
from typing import Any

import psycopg
from psycopg import AsyncCursor
from psycopg.sql import SQL, Identifier

from benchmarks.flows import FINISH
from benchmarks.setting import Setting
from benchmarks.stopwatch import Counter
from benchmarks.stores import filling
from benchmarks.stores.store import Address, Store, StoreName, counting_calls
from flowstate import Driver
from flowstate.drivers.kit.times import to_micros

__all__ = ["PostgresStore"]

LOG = """
INSERT INTO log
    SELECT number + 1, 's' || number, 0, (%(statuses)s::text[])[kind], clock_timestamp(),
        CASE WHEN (%(are_delayed)s::boolean[])[kind]
            THEN from_micros(%(due)s + number::bigint * 1000000) END,
        'fill-' || number,
        replace(replace((%(bodies)s::text[])[kind], %(number_mark)s, number::text),
            %(group_mark)s, ("group")::text)::json
    FROM (
        SELECT number, number %% %(kinds)s + 1 AS kind,
            number / %(kinds)s %% %(groups)s AS "group"
        FROM generate_series(0, %(states)s - 1) AS number
    ) AS numbered
"""
LATEST = """
INSERT INTO latest (id, rev, status, labelled, delayed, stalls_at, stalls_after, flow)
    SELECT id, rev, status, true, delayed_until IS NOT NULL,
        CASE WHEN stalls_after IS NOT NULL
            THEN later(coalesce(delayed_until, committed_at), stalls_after)
            WHEN status <> 'ended' AND (SELECT version FROM meta) > 2 THEN 'infinity' END,
        stalls_after, flow
    FROM (
        SELECT log.*, (%(stalls_after)s::bigint[])[(rev - 1) %% %(kinds)s + 1] AS stalls_after,
            (%(flows)s::text[])[(rev - 1) %% %(kinds)s + 1] AS flow
        FROM log
    ) AS stalling
"""
DELAYS = """
INSERT INTO delay (id, state_id, rev, due, body, flow)
    SELECT token || '.0', id, rev, delayed_until, %(delay)s::json, %(finish)s
    FROM log WHERE delayed_until IS NOT NULL
"""
LABELS = """
INSERT INTO label SELECT 'group', body -> 'labels' ->> 'group', rev FROM log;
INSERT INTO latest_label (key, value, status, rev)
    SELECT key, value, status, rev FROM label JOIN log USING (rev);
"""
SIZE = """
SELECT sum(pg_total_relation_size(oid)) FROM pg_class
    WHERE relnamespace = %s::text::regnamespace AND relkind = 'r'
"""
TABLES = "log, latest, label, latest_label, delay"


class PostgresStore(Store):
    """One schema for each place."""

    name: StoreName = "postgres"
    is_shared = True

    def __init__(self, setting: Setting) -> None:
        self.small_log = setting.sizes.small_log
        self.log = setting.sizes.postgres_log
        self.commits = setting.sizes.server_commits
        self.operations = setting.sizes.operations
        self._url = setting.postgres_url

    def address(self, place: str) -> Address:
        return Address("postgres", self._url(), place)

    def driver(self, place: str) -> Driver:
        return self.address(place).driver()

    async def fill(self, place: str, states: int) -> None:
        await asyncio.to_thread(_fill, self._url(), place, states)

    def size(self, place: str) -> int:
        with psycopg.connect(self._url(), autocommit=True) as connection:
            ((size,),) = connection.execute(SIZE, (place,)).fetchall()
        return int(size)

    def counting(self) -> AbstractContextManager[Counter]:
        return counting_calls(AsyncCursor, "execute")


def _fill(url: str, schema: str, states: int) -> None:
    kinds = filling.KINDS
    parameters: dict[str, Any] = {
        "states": states,
        "kinds": len(kinds),
        "groups": filling.GROUPS,
        "due": to_micros(filling.FIRST_DUE),
        "delay": filling.delay_body(),
        "finish": FINISH,
        "flows": [kind.flow for kind in kinds],
        "statuses": [kind.status.value for kind in kinds],
        "bodies": [kind.body for kind in kinds],
        "are_delayed": [kind.is_delayed for kind in kinds],
        "stalls_after": [kind.stalls_after for kind in kinds],
        "number_mark": filling.NUMBER_MARK,
        "group_mark": filling.GROUP_MARK,
    }
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL("SET search_path TO {}").format(Identifier(schema)))
        with connection.transaction():
            for statement in (LOG, LATEST, DELAYS):
                connection.execute(statement, parameters)
            connection.execute(LABELS)
        connection.execute(f"VACUUM (ANALYZE) {TABLES}")
        connection.execute("CHECKPOINT")  # Else it would come while something is measured.
