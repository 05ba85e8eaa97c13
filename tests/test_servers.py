"""The servers of the tests do what the tests rely on."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from tests.servers import GivenServer, Postgres, PostgresServer

STARTED_BY_ANOTHER = """
import sys
from tests.servers import FAST, PostgresServer
server = PostgresServer(FAST)
server.start()
print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""
USED: list[str] = []


def ask(url: str, query: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
    assert row is not None
    return str(row[0])


def count(url: str, increment: int) -> int:
    """Add to a number that is stored there, and return it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS numbers (number int NOT NULL)")
        connection.execute("INSERT INTO numbers VALUES (%s)", [increment])
        row = connection.execute("SELECT sum(number) FROM numbers").fetchone()
    assert row is not None
    return int(row[0])


def wait_until_gone(folder: Path) -> None:
    give_up = time.monotonic() + 10
    while folder.exists():
        assert time.monotonic() < give_up, sorted(folder.rglob("*"))[:10]
        time.sleep(0.01)  # reason: a process that is not ours removes it


def segments() -> set[str]:
    """The ids of all shared memory segments."""
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {line.split()[1] for line in lines}


def segment_of(server: PostgresServer) -> str:
    return (server.folder / "data/postmaster.pid").read_text().splitlines()[6].split()[1]


def test_takes_connections_by_tcp_and_by_socket(private_postgres: PostgresServer) -> None:
    assert int(ask(private_postgres.url(), "SHOW server_version_num")) >= 160_000
    assert ask(private_postgres.url(socket=True), "SELECT inet_server_addr()") == "None"
    assert ask(private_postgres.url("template1"), "SELECT current_database()") == "template1"


def test_is_durable_unless_told_otherwise(private_postgres: PostgresServer) -> None:
    url = private_postgres.url()

    assert [ask(url, f"SHOW {name}") for name in ("fsync", "synchronous_commit")] == [
        "on",
        "on",
    ]


def test_needs_a_password_by_tcp(private_postgres: PostgresServer) -> None:
    url = f"postgresql://postgres@127.0.0.1:{private_postgres.port}/postgres"

    with pytest.raises(psycopg.OperationalError, match="no password"):
        ask(url, "SELECT 1")


def test_settings_count_from_the_next_start(private_postgres: PostgresServer) -> None:
    private_postgres.settings["max_connections"] = 17
    private_postgres.restart()

    assert ask(private_postgres.url(), "SHOW max_connections") == "17"
    del private_postgres.settings["max_connections"]
    private_postgres.restart()


def test_goes_on_after_kill_at_once(private_postgres: PostgresServer) -> None:
    url = private_postgres.url()
    before = count(url, 0)
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO numbers VALUES (1000)")
        private_postgres.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match="refused"):
        count(url, 0)
    private_postgres.start()

    assert count(url, 1) == before + 1


def test_nothing_of_it_runs_after_kill(private_postgres: PostgresServer) -> None:
    children = Path(f"/proc/{private_postgres.pid}/task/{private_postgres.pid}/children")
    fds = []
    for pid in children.read_text().split():
        with contextlib.suppress(ProcessLookupError):  # A worker may have ended just now.
            fds.append(os.pidfd_open(int(pid)))
    assert len(fds) > 3
    private_postgres.kill()

    assert select.select(fds, [], [], 0)[0] == fds
    for fd in fds:
        os.close(fd)
    private_postgres.kill()
    assert private_postgres.pid == 0


def test_stops_in_order(private_postgres: PostgresServer) -> None:
    before = len(private_postgres.log)
    private_postgres.stop()
    private_postgres.stop()

    assert private_postgres.log[before:].rstrip().endswith("database system is shut down")


def test_leaves_nothing(private_postgres: PostgresServer) -> None:
    with PostgresServer() as server:
        folder, segment = server.folder, segment_of(server)
        assert segment in segments()
        server.kill()

    assert not folder.exists()
    assert segment not in segments()


def test_says_why_it_does_not_start(private_postgres: PostgresServer) -> None:
    with (
        pytest.raises(RuntimeError, match="no_such_setting"),
        PostgresServer({"no_such_setting": 1}) as server,
    ):
        pytest.fail(f"started: {server.log}")


def test_goes_with_tests_that_are_killed(private_postgres: PostgresServer) -> None:
    command = [sys.executable, "-c", STARTED_BY_ANOTHER]
    with subprocess.Popen(command, stdin=-1, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        pid, folder = other.stdout.readline().split()
        server = os.pidfd_open(int(pid))
        os.kill(other.pid, signal.SIGKILL)

        assert select.select([server], [], [], 10)[0]
        wait_until_gone(Path(folder))
        os.close(server)


def test_schema_is_dropped(postgres: Postgres, postgres_schema: str) -> None:
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {postgres_schema}")
        connection.execute(f"CREATE TABLE {postgres_schema}.things (id int)")
    USED.append(postgres_schema)


def test_schema_was_dropped(postgres: Postgres) -> None:
    query = "SELECT count(*) FROM pg_namespace WHERE nspname = '{}'"

    assert [ask(postgres.url(), query.format(name)) for name in USED] == ["0"] * len(USED)


def test_given_server_has_other_databases() -> None:
    server = GivenServer("postgresql://me:secret@db.example:5433/mine?sslmode=require")

    assert server.url().endswith("/mine?sslmode=require")
    assert server.url("other") == "postgresql://me:secret@db.example:5433/other?sslmode=require"
