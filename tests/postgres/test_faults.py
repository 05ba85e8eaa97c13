"""Connections ended by the server, locks held for too long, and settings that are not ours."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest

from flowstate import (
    Commit,
    DriverError,
    Engine,
    FlowRegistry,
    State,
    StateContext,
    StoreBusyError,
    StoreReadOnlyError,
    StoreUnavailableError,
    Transit,
)
from flowstate.driver import Heartbeat
from flowstate.drivers.postgres import PostgresDriver
from tests.postgres.server import Server
from tests.servers import Postgres
from tests.support import commit_one, put, read_log

COMMITTING, LISTENING, READING = "%.commit(%", "SELECT %pg_advisory_lock_shared%", "%.log%"


@pytest.fixture
def server(postgres: Postgres, postgres_schema: str) -> Iterator[Server]:
    with Server(postgres).made() as server:
        yield server


@pytest.fixture
def driver(server: Server, postgres_schema: str) -> PostgresDriver:
    return PostgresDriver(server.url, schema=postgres_schema, timeout=5.0)


@pytest.fixture
async def brief(server: Server, postgres_schema: str) -> AsyncIterator[PostgresDriver]:
    """A driver that soon loses patience."""
    async with PostgresDriver(server.url, schema=postgres_schema, timeout=0.2) as driver:
        yield driver


async def revs(driver: PostgresDriver) -> list[int]:
    return [state.rev for state in await read_log(driver)]


@pytest.mark.parametrize("ended", [COMMITTING, LISTENING, READING, "%"])
async def test_connections_ended_by_the_server(
    driver: PostgresDriver, server: Server, postgres_schema: str, ended: str
) -> None:
    """Watchers go on and miss nothing, also of what another process commits."""
    flows = FlowRegistry()
    flows.declare("next")
    other = PostgresDriver(server.url, schema=postgres_schema)
    async with Engine(driver, flows) as engine, other, engine.watch() as states:
        ctx = StateContext(State("a"))
        for turn in range(1, 16, 3):
            await engine.do(Commit(Transit(ctx, "next")))
            await commit_one(other, put(f"b{turn}", "b", 0 if turn == 1 else turn - 2))
            assert [(await anext(states)).rev for _ in range(2)] == [turn, turn + 1]
            waiting = asyncio.ensure_future(anext(states))
            if ended == LISTENING:
                await server.until(1, LISTENING)
            assert server.terminate(ended)
            await commit_one(other, put(f"c{turn}", "c", 0 if turn == 1 else turn - 1))
            assert (await waiting).rev == turn + 2
        assert await revs(driver) == list(range(1, 16))
        assert await revs(other) == list(range(1, 16))


@contextlib.contextmanager
def commit_lock(url: str, schema: str) -> Iterator[None]:
    """Hold what all commits wait for, in another transaction."""
    with psycopg.connect(url) as connection:
        connection.execute(f'SELECT "{schema}".lock_commits()'.encode())
        yield
        connection.rollback()


async def test_commits_are_locked(
    brief: PostgresDriver, postgres: Postgres, postgres_schema: str
) -> None:
    await commit_one(brief, put("1", "a"))
    with commit_lock(postgres.url(), postgres_schema):
        started = time.monotonic()
        with pytest.raises(StoreBusyError):
            await brief.commit([put(f"{n}", f"state-{n}") for n in range(50)])
        assert time.monotonic() - started < 5.0
        assert await revs(brief) == [1]
    await commit_one(brief, put("2", "b"))
    assert await revs(brief) == [1, 2]


async def test_commits_are_locked_for_a_while(
    driver: PostgresDriver, server: Server, postgres: Postgres, postgres_schema: str
) -> None:
    async with driver:
        with commit_lock(postgres.url(), postgres_schema):
            waiting = asyncio.ensure_future(commit_one(driver, put("1", "a")))
            await server.until(1, COMMITTING)
        (state,) = await waiting
        assert state.rev == 1


@pytest.mark.parametrize("setting", ["statement_timeout", "lock_timeout"])
async def test_timeouts_of_the_server(
    driver: PostgresDriver, server: Server, postgres: Postgres, postgres_schema: str, setting: str
) -> None:
    async with driver:
        await commit_one(driver, put("1", "a"))
    server.set(setting, "100ms")
    async with PostgresDriver(server.url, schema=postgres_schema, timeout=0.3) as brief:
        with commit_lock(postgres.url(), postgres_schema):
            for _ in range(2):
                with pytest.raises(StoreBusyError):
                    await commit_one(brief, put("2", "b"))
        await commit_one(brief, put("3", "b"))
        assert await revs(brief) == [1, 2]


async def test_tables_are_locked(
    brief: PostgresDriver, postgres: Postgres, postgres_schema: str
) -> None:
    await commit_one(brief, put("1", "a"))
    with psycopg.connect(postgres.url()) as other:
        other.execute(f'LOCK TABLE "{postgres_schema}".latest'.encode())
        with pytest.raises(StoreBusyError):
            await commit_one(brief, put("2", "b"))
    assert await revs(brief) == [1]
    await commit_one(brief, put("2", "b"))


async def test_idle_connections_are_ended(
    driver: PostgresDriver, server: Server, postgres_schema: str
) -> None:
    server.set("idle_session_timeout", "50ms")
    async with driver:
        for rev in range(1, 4):
            (state,) = await commit_one(driver, put(f"{rev}", f"state-{rev}"))
            assert state.rev == rev
            await server.until(0)
        assert await revs(driver) == [1, 2, 3]


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_isolation_levels(
    driver: PostgresDriver, server: Server, postgres_schema: str, level: str
) -> None:
    """At these the server judges commits by what it had before it got the lock."""
    async with driver:
        await commit_one(driver, put("1", "a"))
        server.set("default_transaction_isolation", level)
        server.terminate()
        with pytest.raises(StoreUnavailableError, match="read committed"):
            await commit_one(driver, put("2", "b"))
        assert await revs(driver) == [1]
    with pytest.raises(StoreUnavailableError, match="read committed"):
        await driver.__aenter__()
    options = "?options=-cdefault_transaction_isolation%3Dread%5C%20committed"
    async with PostgresDriver(server.url + options, schema=postgres_schema) as pinned:
        await commit_one(pinned, put("2", "b"))
        assert await revs(pinned) == [1, 2]


async def test_transactions_are_read_only(driver: PostgresDriver, server: Server) -> None:
    async with driver:
        await commit_one(driver, put("1", "a"))
    server.set("default_transaction_read_only", "on")
    async with driver:
        with pytest.raises(StoreReadOnlyError):
            await driver.commit([put("2", "b"), put("3", "c")])
        with pytest.raises(StoreReadOnlyError):
            await driver.beat([Heartbeat("a", 1, 60.0, "")])
        with pytest.raises(StoreReadOnlyError):
            await driver.compact(1)
        assert await revs(driver) == [1]


async def test_a_new_store_that_is_read_only(driver: PostgresDriver, server: Server) -> None:
    server.set("default_transaction_read_only", "on")
    with pytest.raises(StoreReadOnlyError):
        await driver.__aenter__()


@pytest.mark.parametrize("wrong", ["user", "password", "database", "server"])
async def test_a_wrong_url_is_explained(server: Server, wrong: str) -> None:
    url = {
        "user": server.url.replace(server.role, "nobody_is_called_that"),
        "password": server.url.replace("secret", "wrong"),
        "database": server.url.rpartition("/")[0] + "/not_there",
        "server": "postgresql://127.0.0.1:1/postgres",
    }[wrong]
    with pytest.raises(DriverError) as caught:
        await PostgresDriver(url, timeout=0.2).__aenter__()
    assert type(caught.value) is StoreUnavailableError
    said = {"user": "nobody_is", "password": "password", "database": "not_there"}
    assert said.get(wrong, "refused") in str(caught.value)
