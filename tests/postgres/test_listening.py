"""Other processes are told of commits if they listen, and it costs nothing while none does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg import AsyncConnection, AsyncCursor, OperationalError
from psycopg_pool import AsyncConnectionPool

from flowstate import Delayer, Engine, FlowRegistry, State, Transition
from flowstate.driver import NewDelay, Seen, Writes
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.postgres.listener import channel_of
from flowstate.ground.frozen import EMPTY
from tests.postgres.steps import changed_to, commit, commit_on
from tests.servers import Postgres
from tests.support import commit_one, put

NEVER = 1_000_000.0  # Seconds between two looks of a driver that is told nothing.
PATIENCE = 10.0
LISTENERS = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock'
    AND classid = 1718382456 AND objid = '{schema}.log'::regclass::oid AND granted = {granted}
"""


class Spy:
    """Hears what is told, without being known as a listener."""

    def __init__(self, connection: AsyncConnection[Any], schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def heard(self, seconds: float = 0.2) -> int:
        """Return how many pieces of news have come since the last call, and a little later."""
        notifications = [each async for each in self._connection.notifies(timeout=seconds)]
        return sum(not each.payload.startswith("hello") for each in notifications)

    async def until(self, listeners: int, *, granted: bool = True) -> None:
        """Wait until so many sessions listen, or wait for a commit before they do."""
        query = LISTENERS.format(schema=self._schema, granted=granted).encode()
        async with asyncio.timeout(PATIENCE):
            while await self._found(query) != listeners:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # reason: the server does not tell

    async def _found(self, query: bytes) -> int:
        ((count,),) = await (await self._connection.execute(query)).fetchall()
        return int(count)


@pytest.fixture
async def driver(postgres: Postgres, postgres_schema: str) -> AsyncIterator[PostgresDriver]:
    url = postgres.url()
    async with PostgresDriver(url, schema=postgres_schema, poll_interval=NEVER) as driver:
        yield driver


@pytest.fixture
async def other(
    postgres: Postgres, postgres_schema: str, driver: PostgresDriver
) -> AsyncIterator[PostgresDriver]:
    """On the same store, as it were in another process."""
    url = postgres.url()
    async with PostgresDriver(url, schema=postgres_schema, poll_interval=NEVER) as other:
        yield other


@pytest.fixture
async def spy(postgres: Postgres, postgres_schema: str) -> AsyncIterator[Spy]:
    async with await AsyncConnection.connect(postgres.url(), autocommit=True) as connection:
        await connection.execute(f"LISTEN {channel_of(postgres_schema)}".encode())
        yield Spy(connection, postgres_schema)


@contextlib.asynccontextmanager
async def listening(driver: PostgresDriver, spy: Spy, listeners: int = 1) -> AsyncIterator[None]:
    """Let a driver listen; it goes on to do so until it is closed."""
    waiting = asyncio.create_task(changed_to(driver, 10**9))
    await spy.until(listeners)
    yield
    waiting.cancel()


async def test_nothing_is_told_while_none_listens(driver: PostgresDriver, spy: Spy) -> None:
    await commit_one(driver, put("1", "a"))

    assert await spy.heard() == 0


async def test_a_process_does_not_tell_itself(
    postgres: Postgres, postgres_schema: str, spy: Spy
) -> None:
    flows = FlowRegistry()
    flows.declare("next")
    driver = PostgresDriver(postgres.url(), schema=postgres_schema)
    async with Engine(driver, flows) as engine, Delayer(engine):
        await spy.until(1)
        await spy.heard()
        for number in range(50):
            await commit_one(driver, put(f"{number}", f"state-{number}"))
        assert await spy.heard() == 0


async def test_each_commit_is_told_to_another_process(
    driver: PostgresDriver, other: PostgresDriver, spy: Spy
) -> None:
    async with listening(driver, spy), listening(other, spy, 2), asyncio.timeout(PATIENCE):
        for number in range(1, 51):
            await commit_one(driver, put(f"{number}", f"state-{number}"))
            assert (await changed_to(other, number)).head == number


async def test_who_is_alone_again_tells_nothing(
    postgres: Postgres, postgres_schema: str, spy: Spy
) -> None:
    url = postgres.url()
    first = PostgresDriver(url, schema=postgres_schema, poll_interval=0.01)
    second = PostgresDriver(url, schema=postgres_schema)
    async with first, listening(first, spy):
        async with second, listening(second, spy, 2):
            await commit_one(first, put("1", "a"))
            assert await spy.heard() > 0
        await spy.until(1)
        await spy.heard(0.5)
        await commit_one(first, put("2", "b"))
        assert await spy.heard() == 0


async def test_a_delay_at_the_time_of_one_that_is_gone_is_news(
    driver: PostgresDriver, other: PostgresDriver, spy: Spy
) -> None:
    due = datetime.now(UTC) + timedelta(hours=1)

    def delayed(token: str, rev: int) -> Writes:
        state = State("a", rev, transition=Transition("next"))
        delay = NewDelay(state, "next", EMPTY, due, None, commit=True, body="", put=0)
        return Writes(token, (state,), delays=(delay,))

    async with listening(other, spy), asyncio.timeout(PATIENCE):
        await commit(driver, delayed("1", 0))
        seen = await changed_to(other, 1)
        await commit(driver, delayed("2", 1))
        after = await changed_to(other, 2)
        while after.due == seen.due:
            after = await other.changed(after)


async def test_a_notification_that_fails_is_sent_again(
    driver: PostgresDriver, other: PostgresDriver, spy: Spy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(other, spy):
        execute, failures = AsyncCursor.execute, iter([OperationalError("broken")])

        async def failing(self: AsyncCursor[Any], query: Any, *args: Any, **more: Any) -> Any:
            if b"pg_notify" in query and (error := next(failures, None)):
                raise error
            return await execute(self, query, *args, **more)

        monkeypatch.setattr(AsyncCursor, "execute", failing)
        await commit_one(driver, put("1", "a"))
        async with asyncio.timeout(PATIENCE):
            await changed_to(other, 1)


async def test_who_has_closed_does_not_listen(
    driver: PostgresDriver, postgres: Postgres, postgres_schema: str, spy: Spy
) -> None:
    other = PostgresDriver(postgres.url(), schema=postgres_schema)
    async with other, listening(other, spy):
        pass
    await spy.until(0)
    await commit_one(driver, put("1", "a"))

    assert await spy.heard() == 0


async def test_a_pool_gets_its_connection_back_deaf(
    driver: PostgresDriver, postgres: Postgres, postgres_schema: str, spy: Spy
) -> None:
    async with AsyncConnectionPool(postgres.url(), min_size=1, max_size=4, open=False) as pool:
        other = PostgresDriver(pool, schema=postgres_schema)
        async with other, listening(other, spy):
            pass
        await spy.until(0)
        await commit_one(driver, put("1", "a"))

    assert await spy.heard() == 0


async def test_what_is_committed_while_one_begins_to_listen_is_seen(
    driver: PostgresDriver, other: PostgresDriver, postgres: Postgres, spy: Spy
) -> None:
    """The commit has found no listener, and tells nothing."""
    await commit_one(driver, put("1", "a"))
    schema = spy._schema
    async with await AsyncConnection.connect(postgres.url()) as connection:
        assert not await commit_on(connection, schema, put("2", "b"))
        waiting = asyncio.create_task(changed_to(other, 2))
        await spy.until(1, granted=False)
        assert not waiting.done()
    async with asyncio.timeout(PATIENCE):
        assert (await waiting).head == 2


async def test_a_wait_returns_at_once_where_nothing_was_seen(driver: PostgresDriver) -> None:
    async with asyncio.timeout(PATIENCE):
        assert (await driver.changed(Seen())).head == 0
