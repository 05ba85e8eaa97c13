"""Stores for recorded loads, also for those in processes of their own."""

from flowstate.clock import Clock
from flowstate.driver import Driver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver

__all__ = ["driver_on"]


def driver_on(store: str, schema: str, clock: Clock | None = None) -> Driver:
    """Return a driver for a file or a URL."""
    if store.startswith("redis"):
        return RedisDriver(store, namespace=schema)
    if store.startswith("postgres"):
        return PostgresDriver(store, schema=schema)
    return SQLiteDriver(store, clock=clock)
