"""Settings of a role or of the environment: the store works as ever, or says why it does not."""

import asyncio
import secrets
from datetime import timedelta

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from flowstate import (
    Command,
    Commit,
    Data,
    Delay,
    Delayer,
    End,
    Engine,
    FlowRegistry,
    Pause,
    State,
    StateContext,
    Status,
    StoreData,
    StoreReadOnlyError,
    StoreUnavailableError,
    Transit,
)
from flowstate.drivers.postgres import PostgresDriver
from flowstate.recovery import Lease
from tests.postgres.server import Server
from tests.servers import Postgres

WORKS = {
    "statement_timeout": "500ms",
    "lock_timeout": "5ms",
    "idle_in_transaction_session_timeout": "50ms",
    "idle_session_timeout": "100ms",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "plpgsql.variable_conflict": "use_variable",
    "plpgsql.extra_errors": "all",
    "plan_cache_mode": "force_custom_plan",
    "work_mem": "64kB",
    "client_min_messages": "debug5",
    "row_security": "off",
    "search_path": "nowhere",
    "default_transaction_deferrable": "on",
    "session_replication_role": "replica",
    "jit_above_cost": "0",
}
REFUSED = {
    "default_transaction_read_only": ("on", StoreReadOnlyError),
    "default_transaction_isolation": ("serializable", StoreUnavailableError),
}
VARIABLES = {
    "PGCLIENTENCODING": "SQL_ASCII",
    "PGTZ": "Asia/Kathmandu",
    "PGDATESTYLE": "German, DMY",
    "PGGEQO": "off",
    "PGOPTIONS": "-c search_path=nowhere -c statement_timeout=500ms -c bytea_output=escape",
    "PGAPPNAME": "é",
    "PGSSLMODE": "prefer",
    "PGGSSENCMODE": "disable",
    "PGTARGETSESSIONATTRS": "read-write",
    "PGPASSFILE": "/nonexistent",
    "PGSERVICEFILE": "/nonexistent",
    "TZ": "America/St_Johns",
    "LC_ALL": "C",
}
flows = FlowRegistry()


@flows.flow("end")
async def end(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))


async def use(url: str, schema: str) -> None:
    """Do what a program does: commit, read, wait, fire, watch, lead and compact."""
    labels = {"\\": "é'\"{},NULL", "n": "NULL"}
    async with (
        Engine(PostgresDriver(url, schema=schema, timeout=5.0), flows) as engine,
        Delayer(engine, poll_interval=0.1),
        Lease(engine, "a") as lease,
        engine.watch(labels=labels) as states,
    ):
        ctx = StateContext(State("ключ", labels=labels, annotations={"a": "NULL"}))
        ctx.data["blob"] = Data(bytes(range(256)), {"n": "null"})
        await engine.do(Commit(StoreData(ctx, "blob"), Transit(ctx, "end", {"z": "NULL"})))
        assert await engine.get_state("ключ") == ctx.committed == await anext(states)
        assert (await engine.get_data(ctx, "blob")).blob == bytes(range(256))
        page = await engine.get_states(labels=labels, latest_only=True, status=Status.ACTIVE)
        assert list(page.states) == [ctx.committed]
        await lease.wait_held()
        await asyncio.sleep(0.25)  # reason: connections stand idle for longer than they may
        delayed = StateContext(State("NULL", labels=labels))
        await engine.do(Commit(Delay(delayed, "end", timedelta(milliseconds=50))))
        while (await anext(states)).status is not Status.ENDED:
            pass
        commits = [Commit(Pause(StateContext(State(f"{n}")))) for n in range(100)]
        await asyncio.gather(*map(engine.do, commits))
        await engine.compact(await engine.head())


@pytest.mark.parametrize(("setting", "value"), WORKS.items())
async def test_a_setting_of_the_role(
    postgres: Postgres, postgres_schema: str, setting: str, value: str
) -> None:
    with Server(postgres).made() as server:
        server.set(setting, value)
        async with asyncio.timeout(20):
            await use(server.url, postgres_schema)


@pytest.mark.parametrize("setting", REFUSED)
async def test_a_setting_that_will_not_do(
    postgres: Postgres, postgres_schema: str, setting: str
) -> None:
    value, error = REFUSED[setting]
    with Server(postgres).made() as server:
        server.set(setting, value)
        with pytest.raises(error, match=r"read.only|isolation"):
            await use(server.url, postgres_schema)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_an_encoding_that_will_not_do(postgres: Postgres, encoding: str) -> None:
    name = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(postgres.url(), autocommit=True) as admin:
        statement = "CREATE DATABASE {} ENCODING {} TEMPLATE template0 LOCALE 'C'"
        admin.execute(SQL(statement).format(Identifier(name), encoding))
        try:
            with pytest.raises(StoreUnavailableError, match=encoding):
                await use(postgres.url(name), "flowstate")
        finally:
            admin.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


async def test_variables_of_the_environment(
    postgres: Postgres, postgres_schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    await use(postgres.url(), postgres_schema)
