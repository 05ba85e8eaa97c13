"""Where each system keeps what it stores."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier

from benchmarks.peers import prefect, restate
from benchmarks.peers.statements import SETTINGS, SQLITE, prepare_counting
from benchmarks.peers.systems import SYSTEMS
from benchmarks.setting import Setting
from tests.servers import PostgresServer

__all__ = ["Places"]


class Places:
    """A database or a folder for each system, and for counting a server that counts.

    That server works only while it is needed, so that it disturbs no other one.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._counting: PostgresServer | None = None

    @property
    def folder(self) -> Path:
        """Where files of this run belong."""
        return self._setting.folder

    @asynccontextmanager
    async def of(self, system: str) -> AsyncIterator[str]:
        """Yield where the system stores what is measured.

        Raises:
            NotInstalledError: the system has a server of its own, which is not there.
        """
        match SYSTEMS[system].store:
            case "memory":
                yield ""
            case "sqlite":
                yield str(self._folder(system))
            case "postgres":
                yield self._setting.postgres_url(_slug(system))
            case "restate":
                with restate.running_server(restate.server_program()) as place:
                    yield place
            case "prefect":
                with prefect.running_server(self._setting.postgres_url(_slug(system))) as place:
                    yield place

    @asynccontextmanager
    async def counting(self, system: str) -> AsyncIterator[tuple[str, str] | None]:
        """Yield a place where statements can be counted, and what counts them there."""
        match SYSTEMS[system].store:
            case "sqlite":
                yield str(self._folder(system)), SQLITE
            case "postgres":
                server = self._counting_server()
                server.start()
                try:
                    url = _new_database(server, _slug(system))
                    yield url, f"{server.url()} {url}"
                finally:
                    server.stop()
            case _:
                yield None

    def _folder(self, system: str) -> Path:
        folder = self._setting.folder / _slug(system)
        folder.mkdir(exist_ok=True)
        return folder

    def _counting_server(self) -> PostgresServer:
        if self._counting is None:
            self._counting = self._setting.stack.enter_context(PostgresServer(SETTINGS))
            prepare_counting(self._counting.url())
        return self._counting


def _new_database(server: PostgresServer, name: str) -> str:
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    return server.url(name)


def _slug(system: str) -> str:
    return re.sub(r"\W+", "_", system.lower())
