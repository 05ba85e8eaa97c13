"""The driver behind PgBouncer in transaction mode, where this machine has it."""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict

from flowstate import Clock, Commit, Delay, Engine, FlowRegistry, Pause, State, StateContext
from flowstate.drivers.postgres import PostgresDriver
from flowstate.testcases import ALL, Capabilities, Case, run, select
from tests.servers import Postgres

PGBOUNCER = shutil.which(
    "pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
)
CAPABILITIES = Capabilities(shared=True, durable=True, fake_clock=False, any_loop=False)
PORT = 6432  # Only part of the name of a socket.
SERVER_CONNECTIONS = 2
NAMES = {
    "cancelled_commit_tells_the_truth",
    "cancelled_delay_and_data_are_not_doubled",
    "cancelled_reads_poison_nothing",
    "cancelled_watch_goes_on",
    "compacting_keeps_the_latest_revisions",
    "everything_is_there_after_reopening",
    "heartbeat_postpones",
    "heartbeats_against_commits",
    "heartbeats_in_large_numbers",
    "increments_are_never_lost",
    "largest_blob",
    "largest_commit",
    "several_driver_objects_write_one_log",
    "stalled_first_in_front",
    "two_delayers_on_one_store",
    "watch_sees_other_processes",
}
CASES = [case for case in select(ALL, CAPABILITIES) if case.name in NAMES]
CONFIGURATION = """
[databases]
* = host={host} port={port} user={user} password='{password}'

[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = {listen_port}
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
logfile = {folder}/log
"""

pytestmark = pytest.mark.skipif(
    PGBOUNCER is None, reason="needs the program pgbouncer, and there is none on this machine"
)


@pytest.fixture(scope="module")
def pgbouncer(postgres: Postgres) -> Iterator[str]:
    """The URL of a PgBouncer that goes from one of two connections to the next."""
    assert PGBOUNCER is not None
    server = conninfo_to_dict(postgres.url())
    with tempfile.TemporaryDirectory(prefix="flowstate-pgbouncer-") as name:
        folder = Path(name)
        configuration = folder / "pgbouncer.ini"
        configuration.touch(mode=0o600)  # Who can enter here needs no password.
        configuration.write_text(
            CONFIGURATION.format(
                host=server.get("host", "127.0.0.1"),
                port=server.get("port", 5432),
                user=server.get("user", "postgres"),
                password=str(server.get("password", "")).replace("'", "''"),
                folder=folder,
                listen_port=PORT,
                pool_size=SERVER_CONNECTIONS,
            )
        )
        with subprocess.Popen(
            [PGBOUNCER, "-q", configuration], **_as_nobody(folder, configuration)
        ) as process:
            try:
                asyncio.run(_until_ready(folder, process))
                place = urlencode({"host": name, "port": PORT})
                yield f"postgresql://anybody@/{server.get('dbname', 'postgres')}?{place}"
            finally:
                process.terminate()


def _as_nobody(*paths: Path) -> dict[str, Any]:
    """Return options for ``Popen``, because PgBouncer refuses to be run by root."""
    if os.geteuid() != 0:
        return {}
    user = pwd.getpwnam("nobody")
    for path in paths:
        os.chown(path, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


async def _until_ready(folder: Path, process: subprocess.Popen[bytes]) -> None:
    async with asyncio.timeout(10):
        while not (folder / f".s.PGSQL.{PORT}").exists():
            log = folder / "log"
            assert process.poll() is None, log.read_text() if log.exists() else ""
            await asyncio.sleep(0.01)  # reason: a file tells that it is ready


def test_the_cases_exist() -> None:
    assert {case.name for case in CASES} == NAMES


@pytest.mark.parametrize("case", CASES, ids=repr)
async def test_conformance(case: Case, pgbouncer: str, postgres_schema: str) -> None:
    def make(clock: Clock) -> PostgresDriver:
        return PostgresDriver(pgbouncer, schema=postgres_schema, listen=False, prepare=False)

    await run(case, make, CAPABILITIES)


async def test_more_clients_than_connections(pgbouncer: str, postgres_schema: str) -> None:
    """No connection keeps anything from one statement to the next."""
    flows = FlowRegistry()
    flows.declare("next")
    drivers = [
        PostgresDriver(pgbouncer, schema=postgres_schema, listen=False, prepare=False)
        for _ in range(4)
    ]

    async def count(engine: Engine, id: str) -> None:
        ctx = StateContext(State(id, labels={"kind": "count"}))
        for _ in range(20):
            await engine.do(Commit(Pause(ctx), Delay(ctx, "next", after=timedelta(days=1))))
            assert await engine.get_state(id) == ctx.committed

    async def use(driver: PostgresDriver, number: int) -> None:
        async with Engine(driver, flows) as engine:
            await asyncio.gather(*(count(engine, f"{number}-{task}") for task in range(4)))

    await asyncio.gather(*(use(driver, number) for number, driver in enumerate(drivers)))
    async with Engine(drivers[0], flows) as engine:
        assert await engine.head() == 320
        assert len((await engine.get_delayed_states()).delayed) == 16


async def test_a_transaction_of_ones_own(pgbouncer: str, postgres_schema: str) -> None:
    driver = PostgresDriver(pgbouncer, schema=postgres_schema, listen=False, prepare=False)
    async with (
        Engine(driver, FlowRegistry()) as engine,
        await AsyncConnection.connect(pgbouncer, prepare_threshold=None) as connection,
    ):
        for number in range(10):
            async with driver.transaction(connection) as tx:
                await engine.do(Commit(Pause(StateContext(State(f"{number}")))), tx=tx)
        assert [state.id async for state in engine.states()] == [f"{n}" for n in range(10)]
