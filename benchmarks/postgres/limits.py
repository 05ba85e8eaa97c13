"""The bare loops: compare-and-set a row and insert another, in one statement."""

import asyncio
from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any

from psycopg import AsyncConnection, AsyncCursor

from flowstate.drivers.postgres import migration_sql

__all__ = ["Bare"]

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


class Bare:
    """Loops over connections that stay open."""

    def __init__(self, cursors: list[AsyncCursor[Any]]) -> None:
        self._cursors = cursors
        self._one = 0
        self._many = 0

    @classmethod
    async def open(cls, stack: AsyncExitStack, url: str) -> "Bare":
        connections = [
            await stack.enter_async_context(await AsyncConnection.connect(url, autocommit=True))
            for _ in range(CONNECTIONS)
        ]
        await connections[0].execute(migration_sql("bare").encode())
        await connections[0].execute(PREPARE)
        bare = cls([connection.cursor() for connection in connections])
        await bare.one(WARM_UP)
        await bare.many(WARM_UP * CONNECTIONS * PER_STATEMENT)
        return bare

    async def one(self, count: int) -> float:
        """Commit one after the other; seconds per commit."""
        cursor = self._cursors[0]
        start = perf_counter()
        for rev in range(self._one, self._one + count):
            await cursor.execute(ONE, (rev + 1, "s0", rev, rev, EACH.format(rev), BODY))
            if await cursor.fetchone() is None:
                raise AssertionError
        self._one += count
        return (perf_counter() - start) / count

    async def many(self, count: int) -> float:
        """Commit 100 with each statement, on 4 connections; seconds per commit."""
        statements = max(1, count // (CONNECTIONS * PER_STATEMENT))

        async def work(number: int, cursor: AsyncCursor[Any]) -> None:
            first = (number + 1) * PER_STATEMENT
            ids = [f"s{n}" for n in range(first, first + PER_STATEMENT)]
            for rev in range(self._many, self._many + statements):
                revs = [rev] * PER_STATEMENT
                await cursor.execute(MANY, (ids, revs, EACH.format(rev), BODY))
                if len(await cursor.fetchall()) != PER_STATEMENT:
                    raise AssertionError

        start = perf_counter()
        await asyncio.gather(*(work(*numbered) for numbered in enumerate(self._cursors)))
        self._many += statements
        return (perf_counter() - start) / (statements * CONNECTIONS * PER_STATEMENT)
