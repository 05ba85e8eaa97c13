"""Other processes are told of commits if they listen, and it costs nothing if nobody does."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection, AsyncCursor, OperationalError
from psycopg_pool import AsyncConnectionPool

from flowstate.driver import DelayQuery, NewDelay, Writes
from flowstate.drivers.postgres import PostgresDriver, hints
from flowstate.drivers.postgres.arrays import register
from flowstate.drivers.postgres.batch import Batch
from flowstate.drivers.postgres.queries import Queries
from flowstate.frozen import EMPTY
from tests.servers import Postgres
from tests.support import commit_one, put

NEVER = 1_000_000.0  # Seconds between two looks of a driver that nobody tells.
LOCKS = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock'
    AND classid = 1718382456 AND objid = '{schema}.log'::regclass::oid AND granted = {granted}
"""


@pytest.fixture
async def driver(postgres: Postgres, postgres_schema: str) -> AsyncIterator[PostgresDriver]:
    async with PostgresDriver(postgres.url(), schema=postgres_schema) as driver:
        yield driver


@pytest.fixture
async def other(
    postgres: Postgres, postgres_schema: str, driver: PostgresDriver
) -> AsyncIterator[PostgresDriver]:
    """On the same store, as it were in another process."""
    url = postgres.url()
    async with PostgresDriver(url, schema=postgres_schema, poll_interval=NEVER) as other:
        yield other


async def until(postgres: Postgres, schema: str, listeners: int, *, granted: bool = True) -> None:
    """Wait until so many sessions listen, or wait for a commit before they do."""
    query = LOCKS.format(schema=schema, granted=granted).encode()
    async with await AsyncConnection.connect(postgres.url(), autocommit=True) as connection:
        while await (await connection.execute(query)).fetchall() != [(listeners,)]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # reason: the server tells nobody


async def until_head(driver: PostgresDriver, rev: int) -> None:
    """Wait for a revision as watches do; the hints may come early."""
    while await driver.head() < rev:
        await driver.wait(rev - 1)


def tells(driver: PostgresDriver) -> bool:
    """Return whether a driver has ever told other processes of its commits."""
    return "notify" in driver._opened().hints._tasks


async def test_nobody_is_told_while_nobody_listens(driver: PostgresDriver) -> None:
    await commit_one(driver, put("1", "a"))

    assert not tells(driver)


async def test_who_listens_is_told(
    driver: PostgresDriver, other: PostgresDriver, postgres: Postgres, postgres_schema: str
) -> None:
    waiting = asyncio.create_task(other.wait(0))
    await until(postgres, postgres_schema, 1)
    await commit_one(driver, put("1", "a"))
    await asyncio.wait_for(waiting, 10.0)

    assert tells(driver)


async def until_listening(driver: PostgresDriver, postgres: Postgres, schema: str) -> None:
    """Let a driver listen, until it has taken its first looks."""
    waiting = asyncio.create_task(driver.wait(0))
    await until(postgres, schema, 1)
    while driver._opened().hints._hint.is_set():  # noqa: ASYNC110
        await asyncio.sleep(0.01)  # reason: it tells nobody
    waiting.cancel()


def delayed(token: str, rev: int, due: datetime) -> Writes:
    """Return writes that put a state and delay it."""
    (state,) = put(token, "a", rev).puts
    return Writes(token, (state,), delays=(NewDelay(state, "next", EMPTY, due, None, True, 0),))


async def test_a_delay_at_the_time_of_one_that_is_gone_is_news(
    driver: PostgresDriver, other: PostgresDriver, postgres: Postgres, postgres_schema: str
) -> None:
    await until_listening(other, postgres, postgres_schema)
    due = datetime.now(UTC) + timedelta(hours=1)
    first = asyncio.create_task(other.wait_delay(other._delay_written.count))
    await commit_one(driver, delayed("1", 0, due))
    await asyncio.wait_for(first, 10.0)
    await commit_one(other, put("2", "a", 1))  # Its own commit, for which it does not look.
    assert not (await other.get_delayed(DelayQuery(everything=True))).delayed
    second = asyncio.create_task(other.wait_delay(other._delay_written.count))
    await commit_one(driver, delayed("3", 2, due))

    await asyncio.wait_for(second, 10.0)


async def test_a_notification_that_fails_is_sent_again(
    driver: PostgresDriver,
    other: PostgresDriver,
    postgres: Postgres,
    postgres_schema: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await until_listening(other, postgres, postgres_schema)
    execute, failures = AsyncCursor.execute, iter([OperationalError("broken")])

    async def failing(self: AsyncCursor[Any], query: Any, *arguments: Any, **more: Any) -> Any:
        if query is hints.NOTIFY and (error := next(failures, None)):
            raise error
        return await execute(self, query, *arguments, **more)

    monkeypatch.setattr(AsyncCursor, "execute", failing)
    waiting = asyncio.create_task(other.wait(0))
    await commit_one(driver, put("1", "a"))

    await asyncio.wait_for(waiting, 10.0)


async def test_who_has_closed_does_not_listen(
    driver: PostgresDriver, postgres: Postgres, postgres_schema: str
) -> None:
    async with PostgresDriver(postgres.url(), schema=postgres_schema) as other:
        waiting = asyncio.create_task(other.wait(0))
        await until(postgres, postgres_schema, 1)
        waiting.cancel()
    await until(postgres, postgres_schema, 0)
    await commit_one(driver, put("1", "a"))

    assert not tells(driver)


async def test_a_pool_gets_its_connection_back_deaf(
    driver: PostgresDriver, postgres: Postgres, postgres_schema: str
) -> None:
    async with AsyncConnectionPool(postgres.url(), min_size=1, max_size=4, open=False) as pool:
        async with PostgresDriver(pool, schema=postgres_schema) as other:
            waiting = asyncio.create_task(other.wait(0))
            await until(postgres, postgres_schema, 1)
            waiting.cancel()
        await until(postgres, postgres_schema, 0)
        await commit_one(driver, put("1", "a"))

    assert not tells(driver)


async def test_what_is_committed_while_somebody_begins_to_listen_is_seen(
    driver: PostgresDriver, other: PostgresDriver, postgres: Postgres, postgres_schema: str
) -> None:
    """The commit has found nobody listening, and tells nobody."""
    await commit_one(driver, put("1", "a"))
    batch = Batch([put("2", "b")])
    async with await AsyncConnection.connect(postgres.url()) as connection:
        cursor = connection.cursor()
        register(cursor)
        await cursor.execute(Queries(postgres_schema).commit(batch), batch.parameters)
        (answer,) = await cursor.fetchall()
        assert not batch.is_heard(answer)
        waiting = asyncio.create_task(until_head(other, 2))
        await until(postgres, postgres_schema, 1, granted=False)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 10.0)
