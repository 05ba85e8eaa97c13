"""What a suite is given: amounts, a folder, and servers that start when they are needed first."""

import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg.sql import SQL, Identifier
from redis import Redis

from benchmarks.sizes import Sizes
from benchmarks.workload import Workload

__all__ = ["GIVEN_POSTGRES", "GIVEN_REDIS", "Setting", "Suite"]

GIVEN_POSTGRES = "FLOWSTATE_TEST_POSTGRES_URL"
GIVEN_REDIS = "FLOWSTATE_TEST_REDIS_URL"


class Setting:
    """Where workloads run.

    Servers are those that the environment names, or our own ones, as durable as they can be. What
    is made on them belongs to this run and is removed at its end.

    Attributes:
        sizes: how much of everything.
        stack: closes at the end of the run what workloads leave open: engines, connections.
        folder: for files of this run; it is on a disk, and removed at the end.
    """

    def __init__(self, sizes: Sizes, stack: AsyncExitStack, folder: Path) -> None:
        self.sizes = sizes
        self.stack = stack
        self.folder = folder
        self._postgres = ""
        self._redis = ""
        self._databases: dict[str, str] = {}
        self._namespaces: dict[str, str] = {}

    @property
    def postgres_server(self) -> str | None:
        """The URL of the server itself, for an administrator; ``None`` until it is needed."""
        return self._postgres or None

    @property
    def redis_server(self) -> str | None:
        """As of Postgres."""
        return self._redis or None

    def postgres_url(self, name: str = "flowstate") -> str:
        """Return where an own, empty database is; another name means another one."""
        if name not in self._databases:
            server = self.started_postgres()
            unique = f"benchmarks_{name}_{secrets.token_hex(8)}"
            with psycopg.connect(server, autocommit=True) as connection:
                connection.execute(SQL("CREATE DATABASE {}").format(Identifier(unique)))
            self.stack.callback(_drop_database, server, unique)
            self._databases[name] = urlsplit(server)._replace(path=unique).geturl()
        return self._databases[name]

    def redis_url(self) -> str:
        """Return where Redis is; what is stored there goes under a ``redis_namespace``."""
        if not self._redis:
            self._redis = os.environ.get(GIVEN_REDIS) or self._own_redis()
        return self._redis

    def redis_namespace(self, name: str = "flowstate") -> str:
        """Return an own, empty namespace; its keys begin with ``{namespace}:``, braces included."""
        if name not in self._namespaces:
            self._namespaces[name] = f"benchmarks-{name}-{secrets.token_hex(8)}"
            self.stack.callback(_drop_namespace, self.redis_url(), self._namespaces[name])
        return self._namespaces[name]

    def started_postgres(self) -> str:
        """Return the URL of the server itself."""
        if not self._postgres:
            self._postgres = os.environ.get(GIVEN_POSTGRES) or self._own_postgres()
        return self._postgres

    # Where servers are given, as to the halves of a pair, the library of another checkout runs
    # without the tools that start them.

    def _own_postgres(self) -> str:
        from tests.servers import PostgresServer  # noqa: PLC0415

        return self.stack.enter_context(PostgresServer()).url()

    def _own_redis(self) -> str:
        from tests.redis_servers import DURABLE, RedisServer  # noqa: PLC0415

        return self.stack.enter_context(RedisServer(DURABLE)).url()


Suite = Callable[[Setting], Iterable[Workload]]
"""Says what to measure. It makes nothing large: its measures do, when they run first."""


def _drop_database(url: str, name: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(name)))


def _drop_namespace(url: str, name: str) -> None:
    with Redis.from_url(url) as client:
        for keys in _pages(list(client.scan_iter(f"{{{name}}}:*", count=1_000))):
            client.unlink(*keys)


def _pages(keys: list[bytes], size: int = 1_000) -> Iterable[list[bytes]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))
