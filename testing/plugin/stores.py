"""Empty stores for tests, which leave nothing behind."""

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from flowstate.clock import Clock
from flowstate.driver import Driver

__all__ = ["empty_store"]

# The driver modules are imported when they are asked for: two of them need more to be installed.


@contextlib.contextmanager
def empty_store(name: str, clock: Clock, folder: Path, url: str = "") -> Iterator[Driver]:
    """Make a driver, not open yet, on a store that is new, and clean up at the end.

    Args:
        name: memory, sqlite, postgres or redis.
        clock: for the first two; the others have clocks of their own.
        folder: for the file of SQLite.
        url: of the server, for the other two.
    """
    match name:
        case "memory":
            from flowstate.drivers.memory import MemoryDriver  # noqa: PLC0415

            yield MemoryDriver(clock)
        case "sqlite":
            from flowstate.drivers.sqlite import SQLiteDriver  # noqa: PLC0415

            yield SQLiteDriver(folder / "flowstate.db", clock=clock)
        case "postgres":
            with _postgres(url) as driver:
                yield driver
        case "redis":
            with _redis(url) as driver:
                yield driver
        case _:
            raise ValueError(f"no driver {name!r}")


@contextlib.contextmanager
def _postgres(url: str) -> Iterator[Driver]:
    import psycopg  # noqa: PLC0415
    from psycopg.sql import SQL, Identifier  # noqa: PLC0415

    from flowstate.drivers.postgres import PostgresDriver  # noqa: PLC0415

    schema = f"flowstate_test_{secrets.token_hex(8)}"
    try:
        yield PostgresDriver(url, schema=schema)
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET client_min_messages = warning")
            connection.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(schema)))


@contextlib.contextmanager
def _redis(url: str) -> Iterator[Driver]:
    from redis import Redis  # noqa: PLC0415

    from flowstate.drivers.redis import RedisDriver  # noqa: PLC0415

    namespace = f"flowstate-test-{secrets.token_hex(8)}"
    try:
        yield RedisDriver(url, namespace=namespace)
    finally:
        with Redis.from_url(url) as client:
            for key in client.scan_iter(f"{{{namespace}}}:*", count=1_000):
                client.delete(key)
