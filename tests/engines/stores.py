"""Drivers of the four stores, for tests that run on each."""

from pathlib import Path

import pytest

from flowstate.driver import Driver
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver

__all__ = ["STORES", "driver_of"]

STORES = ("memory", "sqlite", "postgres", "redis")


def driver_of(store: str, request: pytest.FixtureRequest) -> Driver:
    """Return a driver of a store that has nothing yet; it goes by real time."""
    match store:
        case "memory":
            return MemoryDriver()
        case "sqlite":
            path: Path = request.getfixturevalue("tmp_path")
            return SQLiteDriver(path / "store.db")
        case "postgres":
            url: str = request.getfixturevalue("postgres").url()
            return PostgresDriver(url, schema=request.getfixturevalue("postgres_schema"))
        case _:
            url = request.getfixturevalue("redis_server").url()
            return RedisDriver(url, namespace=request.getfixturevalue("redis_namespace"))
