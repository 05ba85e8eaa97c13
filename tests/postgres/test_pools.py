"""Pools of the user's own: small ones, exhausted ones, and ones with tastes of their own."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg import AsyncClientCursor, AsyncConnection, AsyncRawCursor
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from flowstate import (
    Commit,
    Data,
    Delay,
    Engine,
    FlowRegistry,
    RevisionMismatchError,
    State,
    StateContext,
    StoreBusyError,
    StoreData,
    Transit,
)
from flowstate.driver import Claim, Driver, Drop, Writes
from flowstate.drivers.postgres import PostgresDriver
from tests.postgres.steps import changed_to, commit, head_of
from tests.servers import Postgres
from tests.support import commit_one, put, read_log

Pool = AsyncConnectionPool[AsyncConnection[Any]]


def pool_of(postgres: Postgres, size: int, **options: Any) -> Pool:
    return AsyncConnectionPool(
        postgres.url(), min_size=size, max_size=size, open=False, kwargs=options
    )


@contextlib.asynccontextmanager
async def all_taken(pool: Pool) -> AsyncIterator[None]:
    """Hold every connection that the pool still has."""
    async with contextlib.AsyncExitStack() as stack:
        with contextlib.suppress(Exception):
            while True:
                await stack.enter_async_context(pool.connection(0.05))
        yield


class SlowPool(AsyncConnectionPool[AsyncConnection[Any]]):
    """Takes a while to take a connection back, as one does that many tasks use at once."""

    def __init__(self, url: str) -> None:
        super().__init__(url, min_size=1, max_size=1, open=False)
        self.taking_back = asyncio.Event()

    async def putconn(self, conn: AsyncConnection[Any]) -> None:
        self.taking_back.set()
        await asyncio.sleep(0.01)  # reason: time for a cancellation of the task that does it
        await super().putconn(conn)


@pytest.mark.parametrize("times", [1, 2])
async def test_a_connection_is_given_back_also_by_a_task_that_is_cancelled_then(
    postgres: Postgres, postgres_schema: str, times: int
) -> None:
    pool = SlowPool(postgres.url())
    async with pool, PostgresDriver(pool, schema=postgres_schema, timeout=5.0) as driver:
        pool.taking_back.clear()
        reading = asyncio.create_task(head_of(driver))
        await pool.taking_back.wait()
        for _ in range(times):
            reading.cancel()
            await asyncio.sleep(0)  # reason: the cancellation has to arrive
        await asyncio.wait([reading])

        assert await head_of(driver) == 0


async def use_everything(driver: Driver) -> None:
    """Do one of each, and many at once."""
    flows = FlowRegistry()
    flows.declare("next")
    async with Engine(driver, flows) as engine, engine.watch() as states:
        contexts = [StateContext(State(f"state-{number}")) for number in range(20)]
        await asyncio.gather(*(engine.do(Commit(Transit(ctx, "next"))) for ctx in contexts))
        assert [(await anext(states)).rev for _ in contexts] == list(range(1, 21))
        found = await asyncio.gather(*(engine.get_state(ctx.current.id) for ctx in contexts))
        assert found == [ctx.committed for ctx in contexts]
        ctx = contexts[0]
        ctx.data = {"blob": Data(b"blob")}
        later = found[0].committed_at
        assert later is not None
        await engine.do(Commit(Delay(ctx, "next", until=later), StoreData(ctx, "blob")))
        assert (await engine.get_data(ctx, "blob")).blob == b"blob"
        (delay,) = (await engine.get_delayed_states()).delayed
        claim, drop = Claim(delay.id, "me", 60.0), Drop(delay.id, "me")
        claimed = await commit(driver, Writes("1", claims=(claim,)), Writes("2", drops=(drop,)))
        assert claimed == [(), ()]
        with pytest.raises(RevisionMismatchError):
            await engine.do(Commit(Transit(StateContext(State("state-1")), "next")))
        assert await engine.compact(21) == 1
        assert await engine.head() == 21


@pytest.mark.parametrize("size", [1, 2, 3, 4])
async def test_small_pools(postgres: Postgres, postgres_schema: str, size: int) -> None:
    async with pool_of(postgres, size) as pool:
        await use_everything(PostgresDriver(pool, schema=postgres_schema))


async def test_a_pool_of_one_for_a_url(postgres: Postgres, postgres_schema: str) -> None:
    await use_everything(PostgresDriver(postgres.url(), schema=postgres_schema, pool_size=1))


async def test_many_drivers_share_a_pool(postgres: Postgres, postgres_schema: str) -> None:
    """What they keep for themselves must leave something for reads."""
    async with pool_of(postgres, 4) as pool, contextlib.AsyncExitStack() as stack:
        drivers = [PostgresDriver(pool, schema=postgres_schema, timeout=3.0) for _ in range(3)]
        for number, driver in enumerate(drivers, 1):
            await stack.enter_async_context(driver)
            waiting = asyncio.ensure_future(changed_to(driver, 99))
            stack.push_async_callback(asyncio.wait, [waiting])
            stack.callback(waiting.cancel)
            await commit_one(driver, put(f"{number}", f"state-{number}"))
        for driver in drivers:
            assert [state.rev for state in await read_log(driver)] == [1, 2, 3]


@pytest.mark.parametrize("size", [1, 4])
async def test_an_exhausted_pool(postgres: Postgres, postgres_schema: str, size: int) -> None:
    async with (
        pool_of(postgres, size) as pool,
        PostgresDriver(pool, schema=postgres_schema, timeout=0.2) as driver,
    ):
        async with all_taken(pool):
            started = time.monotonic()
            with pytest.raises(StoreBusyError):
                await driver.commit([put(f"{n}", f"state-{n}") for n in range(20)])
            with pytest.raises(StoreBusyError, match="connection"):
                await head_of(driver)
            assert time.monotonic() - started < 3.0
        await commit_one(driver, put("1", "a"))
        async with all_taken(pool):
            with pytest.raises(StoreBusyError):
                await head_of(driver)
        assert await head_of(driver) == 1


async def test_a_pool_that_is_exhausted_for_a_while(
    postgres: Postgres, postgres_schema: str
) -> None:
    async with (
        pool_of(postgres, 1) as pool,
        PostgresDriver(pool, schema=postgres_schema) as driver,
    ):
        async with all_taken(pool):
            waiting = asyncio.gather(
                head_of(driver), *(commit_one(driver, put(f"{n}", f"state-{n}")) for n in range(3))
            )
            await asyncio.wait([waiting], timeout=0.7)  # Longer than one look into the pool.
            assert not waiting.done()
        await waiting
        assert await head_of(driver) == 3


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"autocommit": True},
        {"row_factory": dict_row},
        {"prepare_threshold": None},
        {"prepare_threshold": 0},
        {"cursor_factory": AsyncClientCursor},
        {"cursor_factory": AsyncRawCursor, "row_factory": dict_row, "autocommit": True},
    ],
    ids=["plain", "autocommit", "rows", "unprepared", "prepared", "cursor", "all"],
)
async def test_connections_come_back_as_they_were(
    postgres: Postgres, postgres_schema: str, options: dict[str, Any]
) -> None:
    def taste(connection: AsyncConnection[Any]) -> list[Any]:
        return [
            connection.autocommit,
            connection.row_factory,
            connection.cursor_factory,
            connection.prepare_threshold,
            connection.info.transaction_status,
        ]

    async with await AsyncConnection.connect(postgres.url(), **options) as fresh:
        expected = taste(fresh)
    assert expected[-1] is TransactionStatus.IDLE
    async with pool_of(postgres, 5, **options) as pool:
        await use_everything(PostgresDriver(pool, schema=postgres_schema))
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(5):
                connection = await stack.enter_async_context(pool.connection())
                assert taste(connection) == expected
                heard = await connection.execute("SELECT FROM pg_listening_channels()")
                assert heard.rowcount == 0
        assert pool.get_stats()["pool_available"] == 5
        assert "returns_bad" not in pool.get_stats()
