"""A look at the server behind a driver."""

import asyncio
import contextlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Any, LiteralString
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import TupleRow
from psycopg.sql import SQL, Composed, Identifier

from tests.servers import Postgres

__all__ = ["Server"]


class Server:
    """A user of the server, made for one test, and what an administrator sees of it.

    Attributes:
        url: to connect as that user.
        role: its name.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._admin_url = postgres.url()
        self.role = f"test_{secrets.token_hex(8)}"
        parts = urlsplit(self._admin_url)
        place = parts.netloc.rpartition("@")[2]
        self.url = parts._replace(netloc=f"{self.role}:secret@{place}").geturl()

    @contextlib.contextmanager
    def made(self) -> Iterator["Server"]:
        """Make the user, who may do everything, and drop it at the end."""
        with psycopg.connect(self._admin_url, autocommit=True) as self._admin:
            self._run("CREATE ROLE {} SUPERUSER LOGIN PASSWORD 'secret'", self.role)
            try:
                yield self
            finally:
                self._run("REASSIGN OWNED BY {} TO CURRENT_USER", self.role)
                self._run("DROP OWNED BY {}", self.role)
                self._run("DROP ROLE {}", self.role)

    def _run(self, statement: LiteralString, *names: str) -> None:
        filled: Composed = SQL(statement).format(*map(Identifier, names))
        self._admin.execute(filled)

    def set(self, setting: str, value: str | None) -> None:
        """Change a setting of the user's further connections."""
        if value is None:
            self._run("ALTER ROLE {} RESET {}", self.role, setting)
        else:
            statement = SQL("ALTER ROLE {} SET {} = {}")
            self._admin.execute(statement.format(Identifier(self.role), Identifier(setting), value))

    def rows(self, query: LiteralString, parameters: Sequence[Any] = ()) -> list[TupleRow]:
        """Return what an administrator gets."""
        return self._admin.execute(query, parameters).fetchall()

    def pids(self, last_statement: str = "%") -> list[int]:
        """Return the connections of the user whose last statement is like that."""
        query = "SELECT pid FROM pg_stat_activity WHERE usename = %s AND query LIKE %s"
        return [pid for (pid,) in self.rows(query, (self.role, last_statement))]

    def terminate(self, last_statement: str = "%") -> int:
        """End these connections, wait for their end, and return how many there were."""
        pids = self.pids(last_statement)
        for pid in pids:
            assert self.rows("SELECT pg_terminate_backend(%s, 10000)", (pid,)) == [(True,)]
        return len(pids)

    async def until(self, count: int, last_statement: str = "%") -> None:
        """Wait until there are so many of these connections."""
        while len(self.pids(last_statement)) != count:  # noqa: ASYNC110 - the server does not tell
            await asyncio.sleep(0.01)  # reason: as above
