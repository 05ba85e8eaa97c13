"""A server that is there and does not answer: every operation ends, and so does the driver."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from flowstate import (
    Commit,
    CommitUnknownError,
    DriverClosedError,
    DriverError,
    Engine,
    FlowRegistry,
    Pause,
    State,
    StateContext,
    StoreUnavailableError,
)
from flowstate.driver import DueQuery, Heartbeat, NewDelay, Seen, StateQuery, Writes
from flowstate.drivers.postgres import PostgresDriver
from flowstate.ground.frozen import EMPTY
from tests.postgres.steps import commit, head_of
from tests.servers import FAST, PostgresServer
from tests.support import commit_one, put, read_log

TIMEOUT = 1.0
LIMIT = TIMEOUT + 0.5


@pytest.fixture(scope="module")
def server() -> Any:
    with PostgresServer(FAST) as server:
        yield server


@pytest.fixture
async def driver(server: PostgresServer, postgres_schema: str) -> AsyncIterator[PostgresDriver]:
    """A driver with a connection for each kind of work, all of them warm."""
    url = server.url()
    async with PostgresDriver(url, schema=postgres_schema, timeout=TIMEOUT) as driver:
        await warm(driver)
        yield driver


async def warm(driver: PostgresDriver) -> None:
    await commit_one(driver, put("warm", "warm"))
    await driver.get_state("warm")
    await driver.beat([Heartbeat("warm", 1, 60.0, "")])
    await driver.changed(Seen())


async def within(limit: float, work: Awaitable[Any]) -> Any:
    """Return what it returns or raises, having checked how long that took."""
    started = time.monotonic()
    outcome: Any
    (outcome,) = await asyncio.gather(work, return_exceptions=True)
    assert time.monotonic() - started < limit
    return outcome


READS: dict[str, Callable[[PostgresDriver], Awaitable[Any]]] = {
    "state": lambda driver: driver.get_state("warm"),
    "states": lambda driver: driver.get_states(StateQuery()),
    "data": lambda driver: driver.get_data("0"),
    "due": lambda driver: driver.get_due(DueQuery("stall", ("next",), others=True)),
    "heartbeat": lambda driver: driver.beat([Heartbeat("warm", 1, 60.0, "")]),
    "liveness": lambda driver: driver.get_liveness(["warm"]),
    "compaction": lambda driver: driver.compact(1),
}


@pytest.mark.parametrize("read", READS)
async def test_what_may_be_done_again_is_unavailable(
    server: PostgresServer, driver: PostgresDriver, read: str
) -> None:
    with server.standing_still():
        assert type(await within(LIMIT, READS[read](driver))) is StoreUnavailableError
    await READS[read](driver)


async def test_commits_are_unknown(server: PostgresServer, driver: PostgresDriver) -> None:
    state = State("later", 0)
    delay = NewDelay(state, "next", EMPTY, None, timedelta(days=1), commit=True, body="")
    with server.standing_still():
        writes = put("1", "a"), Writes("2", delays=(delay,))
        put_and_delay = await within(LIMIT, commit(driver, *writes))
    assert [type(verdict) for verdict in put_and_delay] == [CommitUnknownError] * 2
    await commit(driver, put("3", "a"))  # Refused if the first one has come through.
    assert [state.id for state in await read_log(driver)] == ["warm", "a"]


async def test_a_commit_for_which_time_is_up_in_the_engine(
    server: PostgresServer, driver: PostgresDriver
) -> None:
    async with Engine(driver, FlowRegistry(), shutdown_timeout=TIMEOUT) as engine:
        ctx = StateContext(State("a"))
        await engine.do(Commit(Pause(ctx)))

        async def hasty() -> None:
            async with asyncio.timeout(0.1):
                await engine.do(Commit(Pause(ctx)))

        with server.standing_still():
            outcome = await within(LIMIT, hasty())
    assert isinstance(outcome, TimeoutError | CommitUnknownError)


async def test_a_read_that_is_cancelled(server: PostgresServer, driver: PostgresDriver) -> None:
    async def hasty() -> None:
        async with asyncio.timeout(0.1):
            await driver.get_state("warm")

    with server.standing_still():
        assert isinstance(await within(LIMIT, hasty()), TimeoutError)
    assert await driver.get_state("warm") is not None


async def test_waits_hear_of_it(server: PostgresServer, driver: PostgresDriver) -> None:
    seen = await driver.changed(Seen())
    with server.standing_still():
        assert isinstance(await within(2 * LIMIT, driver.changed(seen)), DriverError | Seen)


async def test_opening(server: PostgresServer, postgres_schema: str) -> None:
    driver = PostgresDriver(server.url(), schema=postgres_schema, timeout=TIMEOUT)
    with server.standing_still():
        assert type(await within(LIMIT, driver.__aenter__())) is StoreUnavailableError
    async with driver:
        assert await head_of(driver) == 0


@pytest.mark.parametrize("is_pool", [False, True])
async def test_closing(server: PostgresServer, postgres_schema: str, is_pool: bool) -> None:
    pool = AsyncConnectionPool(server.url(), min_size=4, max_size=4, open=False)
    await pool.open(wait=True)
    store = pool if is_pool else server.url()
    driver = PostgresDriver(store, schema=postgres_schema, timeout=TIMEOUT)
    await driver.__aenter__()
    await warm(driver)
    waiting = asyncio.ensure_future(driver.changed(await driver.changed(Seen())))
    with server.standing_still():
        reading = asyncio.ensure_future(driver.get_state("warm"))
        await asyncio.sleep(0.1)  # reason: the read has to be on its way
        assert await within(3.0 * LIMIT, driver.__aexit__(None, None, None)) is None
        outcomes = await asyncio.gather(waiting, reading, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} <= {DriverClosedError, StoreUnavailableError}
    await pool.close()


async def test_a_transaction_of_the_users_own(
    server: PostgresServer, driver: PostgresDriver
) -> None:
    async with await AsyncConnection.connect(server.url()) as connection:

        async def joined() -> None:
            async with driver.transaction(connection) as tx:
                tx.add(put("1", "a"), lambda _: None)
                await connection.execute("SELECT 1")
                still.__enter__()

        still = server.standing_still()
        try:
            outcome = await within(2 * LIMIT, joined())
        finally:
            still.__exit__(None, None, None)
    assert isinstance(outcome, psycopg.Error | CommitUnknownError)
