"""How many statements a store is sent, as Postgres or the library of SQLite says."""

import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import psycopg

__all__ = ["SETTINGS", "SQLITE", "Counter", "counter", "prepare_counting"]

SETTINGS = {"shared_preload_libraries": "pg_stat_statements"}
"""Of a server that counts."""

SQLITE = "sqlite"

# Those inside of functions are not counted: no client sends them.
CALLS = """
SELECT coalesce(sum(calls), 0)::bigint
    FROM pg_stat_statements JOIN pg_database ON pg_database.oid = dbid WHERE datname = %s
"""

Counter = Callable[[], int]
"""Returns how many there were up to now."""


def prepare_counting(server: str) -> None:
    """Let a server, of which this is an administrator's URL, say what it counts."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")


def counter(what: str) -> Counter:
    """Return what counts.

    Args:
        what: ``SQLITE``, for all databases that this process opens from now on; or an
            administrator's URL of a server, a space, and the URL of the database to count for.
    """
    if what == SQLITE:
        return _counter_of_sqlite()
    server, database = what.split()
    connection = psycopg.connect(server, autocommit=True)
    name = urlsplit(database).path.removeprefix("/")
    return partial(_calls, connection, name)


def _calls(connection: psycopg.Connection[tuple[int]], name: str) -> int:
    row = connection.execute(CALLS, (name,)).fetchone()
    return row[0] if row else 0


def _counter_of_sqlite() -> Counter:
    count = 0

    # What a trigger does would count too. None of those who are compared has one.
    def note(_: str) -> None:
        nonlocal count
        count += 1

    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(note)
        return connection

    # Clients call it by either name.
    vars(sqlite3)["connect"] = vars(sqlite3.dbapi2)["connect"] = traced
    return lambda: count
