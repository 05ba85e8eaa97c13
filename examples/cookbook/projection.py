"""Transactional consumer: a table of your own on Postgres, exactly once, in the order of the log.

``DATABASE_URL=... python -m examples.cookbook.projection``
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg_pool import AsyncConnectionPool

from examples.cookbook.helpers import begin
from flowstate import Command, Commit, End, Engine, FlowRegistry, State, StateContext, Status
from flowstate.drivers.postgres import PostgresDriver
from flowstate.recovery import Consumer

ORDERS = {"kind": "order"}
TABLE = "CREATE TABLE IF NOT EXISTS sales (item text PRIMARY KEY, number int NOT NULL)"
COUNT = """
INSERT INTO sales AS old VALUES (%s, 1) ON CONFLICT (item) DO UPDATE SET number = old.number + 1
"""
flows = FlowRegistry()


@flows.flow
async def order(ctx: StateContext, engine: Engine) -> Command:
    return Commit(End(ctx))


async def count(state: State, tx: Any) -> None:
    """Count an order; the row and the place of the consumer are one transaction."""
    await tx.connection.execute(COUNT, (state.get(str),))


def projection(engine: Engine, driver: PostgresDriver, pool: AsyncConnectionPool) -> Consumer:
    @asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        async with pool.connection() as connection, driver.transaction(connection) as tx:
            yield tx

    return Consumer(
        engine, "sales", count, labels=ORDERS, status=Status.ENDED, transaction=transaction
    )


async def demo(engine: Engine, driver: PostgresDriver, pool: AsyncConnectionPool) -> list[str]:
    """Count three orders, and read the table."""
    async with pool.connection() as connection:
        await connection.execute(TABLE)
    async with projection(engine, driver, pool) as consumer:
        for number, item in enumerate(("tea", "cups", "tea")):
            await begin(engine, State(f"order {number}", labels=ORDERS), "order", item)
            await engine.wait_for(f"order {number}", status=Status.ENDED)
        while await consumer.lag():
            await engine.clock.sleep(0.05)
    async with pool.connection() as connection:
        rows = await connection.execute("SELECT item, number FROM sales ORDER BY item")
        return [f"{item}: {number}" async for item, number in rows]


async def main(url: str) -> None:
    driver = PostgresDriver(url)
    async with Engine(driver, flows) as engine, AsyncConnectionPool(url, open=False) as pool:
        print(*await demo(engine, driver, pool), sep="\n")


if __name__ == "__main__":
    asyncio.run(main(os.environ["DATABASE_URL"]))
