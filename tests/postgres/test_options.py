"""Options, and settings of servers and of the environment: they work, or the error is clear."""

import asyncio
import logging
import os
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier
from psycopg_pool import AsyncConnectionPool

from flowstate import (
    Commit,
    Data,
    DriverError,
    Engine,
    FlowRegistry,
    FlowstateError,
    InvalidInputError,
    State,
    StateContext,
    StoreData,
    StoreUnavailableError,
    Transit,
)
from flowstate.driver import DueQuery, Heartbeat, StateQuery
from flowstate.drivers.postgres import PostgresDriver
from tests.postgres.server import Server
from tests.servers import Postgres
from tests.support import commit_one, put, read_log

MESSY = "hunter2-@/?#:%zz"
WRONG: list[tuple[str, Any]] = [
    ("store", 3),
    ("store", None),
    ("store", b"postgresql://"),
    ("schema", 3),
    ("migrate", 1),
    ("listen", "no"),
    ("poll_interval", 0),
    ("poll_interval", float("nan")),
    ("timeout", -1.0),
    ("timeout", "10"),
    ("timeout", True),
    ("prepare", None),
    ("pool_size", 0),
    ("pool_size", 1.5),
    ("pool_size", 100_000),
    ("clock", 7),
]
MALFORMED = [
    f"postgresql://user:{MESSY}@127.0.0.1:1/db",
    f"postgresql://user:{MESSY}",
    f"postgresql://127.0.0.1:{MESSY}/db",
    "postgresql://user:hunter2@hunter2@127.0.0.1:1/db",
    "postgresql://user:hunter2/x@127.0.0.1:1/db",
    "postgresql://user:5432/hunter2@127.0.0.1:1/db",
    "postgresql://user:hunter2?x@127.0.0.1:1/db",
    "postgresql://127.0.0.1:1/db?password=%zzhunter2",
    "postgresql://127.0.0.1:1/db?passwort=hunter2",
    "host=127.0.0.1 port=1 password='hunter2",
    "host=127.0.0.1 port=1 hunter2=x",
    "hunter2",
]
UNREACHABLE = [
    "postgresql://user:hunter2@127.0.0.1:1/db",
    "postgresql://127.0.0.1:1/db?password=hunter2",
    "host=127.0.0.1 port=1 password=hunter2",
]
SETTINGS = {
    "client_encoding": "LATIN1",
    "timezone": "Asia/Kathmandu",
    "datestyle": "SQL, DMY",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",
    "standard_conforming_strings": "off",
    "search_path": "pg_temp",
    "extra_float_digits": "-15",
    "xmlbinary": "hex",
    "enable_indexscan": "off",
}


@pytest.mark.parametrize(("option", "value"), WRONG)
def test_wrong_options_are_refused(option: str, value: Any) -> None:
    options = {"store": "postgresql://127.0.0.1/db"} | {option: value}
    with pytest.raises(InvalidInputError) as refused:
        PostgresDriver(**options)
    assert refused.value.field == option


@pytest.mark.parametrize("url", MALFORMED + UNREACHABLE)
async def test_a_password_is_never_told(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "flowstate")
    told = []
    try:
        driver = PostgresDriver(url, timeout=0.1)
        told.append(repr(driver))
        await driver.__aenter__()
    except FlowstateError as error:
        cause: BaseException | None = error
        while cause is not None:
            told.append(repr(cause) + str(cause))
            cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    assert len(told) > 0
    assert "hunter2" not in "".join(told) + caplog.text


@pytest.mark.parametrize(("setting", "value"), SETTINGS.items())
async def test_settings_of_the_role(
    postgres: Postgres, postgres_schema: str, setting: str, value: str
) -> None:
    flows = FlowRegistry()
    flows.declare("straße")
    with Server(postgres).made() as server:
        server.set(setting, value)
        async with Engine(PostgresDriver(server.url, schema=postgres_schema), flows) as engine:
            ctx = StateContext(State("ключ", labels={"\\": "é'\""}))
            ctx.data["blob"] = Data(bytes(range(256)))
            await engine.do(Commit(StoreData(ctx, "blob"), Transit(ctx, "straße")))
            assert await engine.get_state("ключ") == ctx.committed
            assert (await engine.get_data(ctx, "blob")).blob == bytes(range(256))
            page = await engine.get_states(labels={"\\": "é'\""}, latest_only=True)
            assert page.states[0].committed_at == ctx.committed.committed_at


async def test_settings_of_the_environment(
    postgres: Postgres, postgres_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = urlsplit(postgres.url())
    for name, value in {
        "PGHOST": parts.hostname,
        "PGPORT": str(parts.port),
        "PGUSER": parts.username,
        "PGPASSWORD": parts.password,
        "PGDATABASE": "postgres",
        "PGCLIENTENCODING": "LATIN1",
        "PGTZ": "Asia/Kathmandu",
        "PGCONNECT_TIMEOUT": "7",
    }.items():
        monkeypatch.setenv(name, value or "")
    async with PostgresDriver("postgresql://", schema=postgres_schema) as driver:
        (state,) = await commit_one(driver, put("1", "ключ"))
        assert await read_log(driver) == [state]


def test_a_damaged_setting_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "soon")
    with pytest.raises(InvalidInputError, match=r"^PGCONNECT_TIMEOUT: "):
        PostgresDriver("postgresql://localhost/")
    PostgresDriver("postgresql://localhost/?connect_timeout=2")


async def test_functions_of_the_users_own_hide_none(
    postgres: Postgres, postgres_schema: str
) -> None:
    body = "RETURNS timestamptz LANGUAGE sql AS $$ SELECT timestamptz '2001-01-01' $$"
    with psycopg.connect(postgres.url(), autocommit=True) as other:
        other.execute("CREATE SCHEMA IF NOT EXISTS fake_clock")
        other.execute(f"CREATE OR REPLACE FUNCTION fake_clock.clock_timestamp() {body}")
    url = make_conninfo(postgres.url(), options="-c search_path=fake_clock,pg_catalog")
    async with PostgresDriver(url, schema=postgres_schema) as driver:
        (state,) = await commit_one(driver, put("1", "a"))
        (liveness,) = await driver.get_liveness(["a"])
        assert state.committed_at is not None
        assert liveness is not None
        now = (await driver.get_due(DueQuery("stall"))).now
        assert min(state.committed_at, liveness.now, now).year > 2001


async def test_a_pool_with_another_encoding_is_refused(
    postgres: Postgres, postgres_schema: str
) -> None:
    options = {"client_encoding": "LATIN1"}
    async with AsyncConnectionPool(postgres.url(), min_size=1, open=False, kwargs=options) as pool:
        with pytest.raises(StoreUnavailableError, match="client_encoding"):
            await PostgresDriver(pool, schema=postgres_schema).__aenter__()
        assert pool.get_stats()["pool_available"] == 1


async def test_heartbeats_do_not_queue_behind_reads(
    postgres: Postgres, postgres_schema: str
) -> None:
    async with PostgresDriver(postgres.url(), schema=postgres_schema) as driver:
        await commit_one(driver, put("1", "a"))
        with psycopg.connect(postgres.url()) as other:
            table = Identifier(postgres_schema, "meta")
            other.execute(SQL("LOCK TABLE {}").format(table))
            reads = [asyncio.ensure_future(driver.get_states(StateQuery())) for _ in range(20)]
            await asyncio.wait(reads, timeout=0.1)
            async with asyncio.timeout(2.0):
                assert await driver.beat([Heartbeat("a", 1, 60.0, "")]) == [True]
            assert not any(read.done() for read in reads)
            other.rollback()
        await asyncio.gather(*reads)


async def test_a_driver_that_was_made_before_a_fork(
    postgres: Postgres, postgres_schema: str
) -> None:
    driver = PostgresDriver(postgres.url(), schema=postgres_schema)
    async with driver:
        await commit_one(driver, put("1", "a"))
        pid = os.fork()
        if not pid:
            try:
                await driver.get_state("a")
            except DriverError:
                os._exit(7)
            os._exit(1)
        _, status = os.waitpid(pid, 0)  # noqa: ASYNC222 - it ends at once
        assert os.waitstatus_to_exitcode(status) == 7
        assert await driver.get_state("a") is not None
