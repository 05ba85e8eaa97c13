"""A consumer whose handler writes to tables of the user's own: rows and place are one."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from psycopg import AsyncConnection

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FlowRegistry,
    Pause,
    RetryPolicy,
    State,
    StateContext,
)
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.postgres.transaction import PostgresTransaction
from flowstate.recovery import Consumer
from tests.servers import Postgres

ORDER = {"kind": "order"}
SOON = RetryPolicy(first=0.01, longest=0.02)


@pytest.fixture
def driver(postgres: Postgres, postgres_schema: str) -> PostgresDriver:
    return PostgresDriver(postgres.url(), schema=postgres_schema, timeout=5.0)


@pytest.fixture
async def engine(driver: PostgresDriver) -> AsyncIterator[Engine]:
    async with Engine(driver, FlowRegistry()) as engine:
        yield engine


class Table:
    """A projection of the orders, in the schema of the store."""

    def __init__(self, url: str, schema: str, driver: PostgresDriver) -> None:
        self._url = url
        self._name = f'"{schema}".orders'
        self._driver = driver
        self.breaks = 0

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresTransaction]:
        async with (
            await AsyncConnection.connect(self._url) as connection,
            self._driver.transaction(connection) as tx,
        ):
            yield tx
            if self.breaks:  # Right before COMMIT.
                self.breaks -= 1
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    async def create(self) -> None:
        async with await AsyncConnection.connect(self._url) as connection:
            # No key: what is written twice shows.
            await connection.execute(f"CREATE TABLE {self._name} (id text, rev bigint)")

    async def write(self, state: State, tx: PostgresTransaction) -> None:
        await tx.connection.execute(
            f"INSERT INTO {self._name} VALUES (%s, %s)", (state.id, state.rev)
        )

    async def rows(self) -> list[Any]:
        async with await AsyncConnection.connect(self._url) as connection:
            cursor = await connection.execute(f"SELECT id FROM {self._name} ORDER BY rev")
            return [id for (id,) in await cursor.fetchall()]


@pytest.fixture
async def table(
    postgres: Postgres, postgres_schema: str, driver: PostgresDriver, engine: Engine
) -> Table:
    table = Table(postgres.url(), postgres_schema, driver)
    await table.create()
    return table


async def commit_orders(engine: Engine, *ids: str) -> None:
    for id in ids:
        await engine.do(Commit(Pause(StateContext(State(id, labels=ORDER)))))


async def caught_up(engine: Engine, consumer: Consumer) -> None:
    while not consumer.is_consuming or await consumer.lag():
        await engine.clock.sleep(0.01)


@contextlib.asynccontextmanager
async def consuming(engine: Engine, table: Table, handle: Any) -> AsyncIterator[Consumer]:
    async with Consumer(
        engine,
        "orders",
        handle,
        labels=ORDER,
        transaction=table.transaction,
        retry=SOON,
        lease=2.0,
    ) as consumer:
        yield consumer


async def test_rows_and_place_are_one(engine: Engine, table: Table) -> None:
    await commit_orders(engine, "a", "b", "c")
    fails = 2

    async def handle(state: State, tx: PostgresTransaction) -> None:
        nonlocal fails
        await table.write(state, tx)
        if state.id == "b" and fails:
            fails -= 1
            raise ValueError("after it has written")

    async with consuming(engine, table, handle) as consumer:
        await caught_up(engine, consumer)
    await commit_orders(engine, "d")
    async with consuming(engine, table, handle) as consumer:
        await caught_up(engine, consumer)
    assert await table.rows() == ["a", "b", "c", "d"]


async def test_states_that_the_handler_returns_are_part_of_it(engine: Engine, table: Table) -> None:
    await commit_orders(engine, "a", "b")

    async def handle(state: State, tx: PostgresTransaction) -> Command[None]:
        await table.write(state, tx)
        return End(StateContext(State(f"done {state.id}")))

    async with consuming(engine, table, handle) as consumer:
        await caught_up(engine, consumer)
    assert await table.rows() == ["a", "b"]
    done = [state.id async for state in engine.states() if state.id.startswith("done")]
    assert done == ["done a", "done b"]


async def test_a_connection_that_breaks_before_commit_writes_nothing_twice(
    engine: Engine, table: Table
) -> None:
    await commit_orders(engine, "a", "b", "c")
    table.breaks = 2
    async with consuming(engine, table, table.write) as consumer:
        await caught_up(engine, consumer)
    assert table.breaks == 0
    assert await table.rows() == ["a", "b", "c"]


async def test_a_lease_that_was_taken_meanwhile_takes_the_rows_back(
    engine: Engine, table: Table
) -> None:
    await commit_orders(engine, "a")
    takes = 1

    async def handle(state: State, tx: PostgresTransaction) -> None:
        nonlocal takes
        await table.write(state, tx)
        if takes:
            takes = 0
            lease = await engine.get_state("flowstate.lease.flowstate.consumer.orders")
            await engine.do(Commit(End(StateContext(lease))))

    async with consuming(engine, table, handle) as consumer:
        await caught_up(engine, consumer)
    assert takes == 0
    assert await table.rows() == ["a"]
