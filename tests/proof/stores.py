"""New, empty stores of every kind, and their removal."""

import contextlib
import itertools
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier
from redis import Redis

from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.testcases import Capabilities, MakeDriver
from tests.proof.bug import Bug

__all__ = ["CAPABILITIES", "new_stores"]

NewStore = Callable[[], MakeDriver]
OWN_CLOCK = Capabilities(shared=True, durable=True, fake_clock=False, any_loop=False)
CAPABILITIES = {
    "memory": Capabilities(shared=False, durable=False, fake_clock=True, any_loop=True),
    "sqlite": Capabilities(shared=True, durable=True, fake_clock=True, any_loop=True),
    "postgres": OWN_CLOCK,
    "redis": OWN_CLOCK,
}


@contextlib.contextmanager
def new_stores(bug: Bug, urls: Mapping[str, str]) -> Iterator[NewStore]:
    """Make stores for a bug, as many as are wanted, and remove them in the end."""
    match bug.store:
        case "sqlite":
            making = _in_files()
        case "postgres":
            making = _in_schemas(urls["postgres"])
        case "redis":
            making = _in_namespaces(urls["redis"])
        case _:
            making = _in_memory(bug.driver)
    with making as new:
        yield new


@contextlib.contextmanager
def _in_memory(driver: type[MemoryDriver]) -> Iterator[NewStore]:
    yield lambda: driver


@contextlib.contextmanager
def _in_files() -> Iterator[NewStore]:
    with tempfile.TemporaryDirectory(prefix="flowstate-proof-") as folder:
        number = itertools.count()

        def new() -> MakeDriver:
            path = Path(folder) / f"{next(number)}.db"
            return lambda clock: SQLiteDriver(path, clock=clock, synchronous="NORMAL")

        yield new


@contextlib.contextmanager
def _in_schemas(url: str) -> Iterator[NewStore]:
    made: list[str] = []

    def new() -> MakeDriver:
        made.append(schema := f"proof_{secrets.token_hex(8)}")
        return lambda _: PostgresDriver(url, schema=schema, pool_size=4)

    yield new
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        for schema in made:
            connection.execute(SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(Identifier(schema)))


@contextlib.contextmanager
def _in_namespaces(url: str) -> Iterator[NewStore]:
    place, number = f"proof-{secrets.token_hex(8)}", itertools.count()

    def new() -> MakeDriver:
        namespace = f"{place}-{next(number)}"
        return lambda _: RedisDriver(url, namespace=namespace)

    yield new
    with Redis.from_url(url) as client:
        for key in client.scan_iter(f"{{{place}-*", count=1_000):
            client.delete(key)
