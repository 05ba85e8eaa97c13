"""Servers for whoever asks; no tests of examples where only the tests are, as beside a wheel."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

# Its pytest plugin imports it at the very end otherwise, where CPython 3.11 was seen to fail while
# it parses ("AST constructor recursion depth mismatch"): a syntax tree that is built while the
# garbage collector runs finalizers confuses it.
import hypothesis  # noqa: F401
import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from tests.servers import FAST, GivenServer, Postgres, PostgresServer

collect_ignore = (
    [] if (Path(__file__).parent.parent / "examples").is_dir() else ["test_cookbook.py"]
)

GIVEN = "FLOWSTATE_TEST_POSTGRES_URL"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A Postgres server for all tests: the one that the environment names, or one of our own.

    Our own has ``fsync=off``, and nobody may stop it; see ``private_postgres``.
    """
    if url := os.environ.get(GIVEN):
        yield GivenServer(url)
    else:
        with PostgresServer(FAST) as server:
            yield server


@pytest.fixture
def postgres_schema(postgres: Postgres) -> Iterator[str]:
    """A schema name that nobody has used; what the test makes of it is dropped."""
    name = f"test_{secrets.token_hex(8)}"
    yield name
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        # Whoever still holds a lock on it is a leak that the test should hear of.
        connection.execute("SET lock_timeout = '5s'")
        connection.execute("SET client_min_messages = warning")
        connection.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(name)))


@pytest.fixture(scope="module")
def _private_postgres() -> Iterator[PostgresServer]:
    if GIVEN in os.environ:
        pytest.skip(f"needs a server that it may kill, and {GIVEN} names one that it must not")
    with PostgresServer() as server:
        yield server


@pytest.fixture
def private_postgres(_private_postgres: PostgresServer) -> PostgresServer:
    """A durable Postgres server that a test may stop, kill and restart; it runs at first.

    The tests of a module share it, one after the other.
    """
    _private_postgres.start()
    return _private_postgres
