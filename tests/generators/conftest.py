"""Stores for the generators: each of the four, empty, opened as often as wanted."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flowstate.driver import Driver
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver
from tests.redis_servers import RedisLike
from tests.servers import Postgres

Open = Callable[[], Driver]


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def open_store(request: pytest.FixtureRequest) -> Open:
    """Return what makes drivers on one new, empty store."""
    return {"memory": _memory, "sqlite": _sqlite, "postgres": _postgres, "redis": _redis}[
        request.param
    ](request)


def _memory(request: pytest.FixtureRequest) -> Open:
    driver = MemoryDriver()
    return lambda: driver


def _sqlite(request: pytest.FixtureRequest) -> Open:
    path: Path = request.getfixturevalue("tmp_path") / "store.db"
    return lambda: SQLiteDriver(path, synchronous="NORMAL")


def _postgres(request: pytest.FixtureRequest) -> Open:
    server: Postgres = request.getfixturevalue("postgres")
    schema: str = request.getfixturevalue("postgres_schema")
    return lambda: PostgresDriver(server.url(), schema=schema, pool_size=4)


def _redis(request: pytest.FixtureRequest) -> Open:
    server: RedisLike = request.getfixturevalue("redis_server")
    namespace: str = request.getfixturevalue("redis_namespace")
    return lambda: RedisDriver(server.url(), namespace=namespace)


@pytest.fixture
def store(open_store: Open) -> Driver:
    """A driver on a new, empty store, not open yet."""
    return open_store()
