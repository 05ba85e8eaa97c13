"""Stores by their address, so that the processes of a test can share one."""

from flowstate.clock import Clock
from flowstate.driver import Driver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver

__all__ = ["driver_on"]


def driver_on(url: str, schema: str, clock: Clock | None = None) -> Driver:
    """Return a driver for the file, or for a part of the server, at ``url``."""
    if url.startswith("redis"):
        return RedisDriver(url, namespace=schema, clock=clock)
    if url.startswith("postgres"):
        return PostgresDriver(url, schema=schema, clock=clock)
    return SQLiteDriver(url, clock=clock)
