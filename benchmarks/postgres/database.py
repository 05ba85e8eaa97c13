"""Where to measure: a database of our own, on a server as durable as Postgres is by default."""

import os
import secrets
from contextlib import AsyncExitStack, ExitStack

import psycopg
from psycopg.sql import SQL, Identifier

from flowstate import State
from flowstate.codec import encode_body
from tests.servers import GivenServer, Postgres, PostgresServer

__all__ = ["Database", "fill"]

GIVEN = "FLOWSTATE_TEST_POSTGRES_URL"

# What workloads.fill commits: a revision of each of 100 new states, and then another of each.
FILL = """
INSERT INTO log
    SELECT rev, 's' || number, CASE WHEN rev = first THEN 0 ELSE first END, 'active',
        clock_timestamp(), NULL, md5(rev::text),
        replace(replace(%(body)s, '@number', number::text), '@group', (number %% 100)::text)::json
    FROM (
        SELECT rev, (rev - 1) / 200 * 200 + (rev - 1) %% 100 + 1 AS first,
            (rev - 1) / 200 * 100 + (rev - 1) %% 100 AS number
        FROM generate_series(1, %(revisions)s) AS rev
    ) AS numbered
"""
REST = """
INSERT INTO latest SELECT id, rev, status, true, false FROM log WHERE previous > 0;
INSERT INTO label SELECT 'group', body -> 'labels' ->> 'group', rev FROM log;
INSERT INTO latest_label
    SELECT 'group', body -> 'labels' ->> 'group', rev FROM log WHERE previous > 0;
"""


class Database:
    """Made when it is needed first, and dropped at the end.

    The server is the one that the environment names, or one of our own.
    """

    def __init__(self, stack: AsyncExitStack | ExitStack) -> None:
        self._stack = stack
        self._server: Postgres | None = None
        self._urls: dict[str, str] = {}

    def url(self, name: str = "flowstate") -> str:
        """Return where it is; another name means another database on the same server."""
        if self._server is None:
            given = os.environ.get(GIVEN)
            self._server = (
                GivenServer(given) if given else self._stack.enter_context(PostgresServer())
            )
        if name not in self._urls:
            unique = f"benchmarks_{name}_{secrets.token_hex(8)}"
            with psycopg.connect(self._server.url(), autocommit=True) as connection:
                connection.execute(SQL("CREATE DATABASE {}").format(Identifier(unique)))
            self._stack.callback(_drop, self._server.url(), unique)
            self._urls[name] = self._server.url(unique)
        return self._urls[name]


def _drop(url: str, name: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def fill(url: str, schema: str, revisions: int) -> None:
    """Write so many revisions into an empty store, as ``workloads.fill`` would commit them."""
    body = encode_body(State("s@number", labels={"group": "@group"}))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL("SET search_path TO {}").format(Identifier(schema)))
        connection.execute(FILL, {"body": body, "revisions": revisions})
        connection.execute(REST)
        connection.execute("VACUUM (ANALYZE) log, latest, label, latest_label")
        connection.execute("CHECKPOINT")  # Else it would come while something is measured.
