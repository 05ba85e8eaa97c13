"""The bare loops on Postgres: compare-and-set a row and insert another, in one statement."""

import asyncio
from typing import Any

from psycopg import AsyncConnection, AsyncCursor

from benchmarks.limits.bare import Bare
from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import Sample
from flowstate.drivers.postgres import migration_sql

__all__ = ["BarePostgres"]

CONNECTIONS = 4
PER_STATEMENT = 100
WARM_UP = 10
BODY = '{"v":1,"id":"hot-0","transition":{"to":"first"}}'
EACH = "abcdefabcdefabcdefabcdefabcdefab-{}"  # As long as the token of a commit.

# The tables are the very ones that the driver makes; the first 100 states are for single commits.
PREPARE = """
CREATE SEQUENCE bare.revs;
ALTER TABLE bare.log ALTER rev SET DEFAULT nextval('bare.revs');
INSERT INTO bare.latest SELECT 's' || n, 0, 'active', false, false FROM generate_series(0, 499) AS n
"""
ONE = """
WITH changed AS (
    UPDATE bare.latest SET rev = %s, status = 'active' WHERE id = %s AND rev = %s RETURNING id
)
INSERT INTO bare.log (id, previous, status, committed_at, token, body)
    SELECT id, %s, 'active', clock_timestamp(), %s, %s::json FROM changed
    RETURNING rev
"""
MANY = """
WITH changed AS (
    UPDATE bare.latest SET rev = expected.rev + 1, status = 'active'
        FROM unnest(%s::text[], %s::bigint[]) AS expected (id, rev)
        WHERE latest.id = expected.id AND latest.rev = expected.rev
        RETURNING latest.id, expected.rev
)
INSERT INTO bare.log (id, previous, status, committed_at, token, body)
    SELECT id, rev, 'active', clock_timestamp(), %s, %s::json FROM changed
    RETURNING rev
"""


class BarePostgres(Bare):
    """One statement that is prepared; for many tasks on 4 connections, with 100 in each."""

    one_name = "one statement each"
    many_name = "100 in each statement"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._cursors: list[AsyncCursor[Any]] = []
        self._one = 0
        self._many = 0

    async def _open(self) -> None:
        connections = []
        for _ in range(CONNECTIONS):
            url = self._setting.postgres_url()
            connection = await AsyncConnection.connect(url, autocommit=True)
            connections.append(await self._setting.stack.enter_async_context(connection))
        await connections[0].execute(migration_sql("bare").encode())
        await connections[0].execute(PREPARE)
        self._cursors = [connection.cursor() for connection in connections]
        await self.one(WARM_UP)
        await self.many(WARM_UP * CONNECTIONS * PER_STATEMENT)

    async def one(self, count: int) -> Sample:
        if not self._cursors:
            await self._open()
        cursor = self._cursors[0]
        first, self._one = self._one, self._one + count
        watch = Stopwatch()
        for rev in range(first, self._one):
            await cursor.execute(ONE, (rev + 1, "s0", rev, rev, EACH.format(rev), BODY))
            if await cursor.fetchone() is None:
                raise AssertionError
        return watch.sample(count, 1)

    async def many(self, count: int) -> Sample:
        if not self._cursors:
            await self._open()
        statements = max(1, count // (CONNECTIONS * PER_STATEMENT))
        first, self._many = self._many, self._many + statements
        watch = Stopwatch()
        work = (
            self._commit_many(number, cursor, range(first, self._many))
            for number, cursor in enumerate(self._cursors)
        )
        await asyncio.gather(*work)
        return watch.sample(statements * CONNECTIONS * PER_STATEMENT, 1 / PER_STATEMENT)

    async def _commit_many(self, number: int, cursor: AsyncCursor[Any], expected: range) -> None:
        first = (number + 1) * PER_STATEMENT
        ids = [f"s{n}" for n in range(first, first + PER_STATEMENT)]
        for rev in expected:
            revs = [rev] * PER_STATEMENT
            await cursor.execute(MANY, (ids, revs, EACH.format(rev), BODY))
            if len(await cursor.fetchall()) != PER_STATEMENT:
                raise AssertionError
