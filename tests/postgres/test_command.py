"""``python -m flowstate.drivers.postgres``."""

import subprocess
import sys

import pytest

from flowstate.drivers.postgres import PostgresDriver, migration_sql
from tests.postgres.steps import head_of
from tests.servers import Postgres

pytestmark = pytest.mark.slow


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "flowstate.drivers.postgres", *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)


def test_sql() -> None:
    assert command("sql").stdout == migration_sql()
    done = command("sql", "--schema", 'a"b', "--since", "1")
    assert (done.returncode, done.stdout) == (0, migration_sql('a"b', since=1))


async def test_migrate(postgres: Postgres, postgres_schema: str) -> None:
    for _ in range(2):
        done = command("migrate", postgres.url(), "--schema", postgres_schema)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"schema {postgres_schema}: version 3\n"
    async with PostgresDriver(postgres.url(), schema=postgres_schema, migrate=False) as driver:
        assert await head_of(driver) == 0


def test_what_makes_no_sense() -> None:
    for arguments in (
        (),
        ("sql", "--since", "99"),
        ("sql", "--since", "x"),
        ("sql", "--schema", ""),
        ("migrate",),
        ("migrate", "postgresql://", "--schema", "x" * 64),
    ):
        done = command(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "usage: python -m flowstate.drivers.postgres" in done.stderr


def test_what_the_database_refuses(postgres: Postgres, postgres_schema: str) -> None:
    schema = ("--schema", "pg_mine")
    for arguments in (("nonsense",), ("postgresql://127.0.0.1:1/x",), (postgres.url(), *schema)):
        done = command("migrate", *arguments)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("python -m flowstate.drivers.postgres: Postgres schema ")
        assert "Traceback" not in done.stderr
