"""``call: sql``: statements on databases that the host program names, SQLite and Postgres."""

import asyncio
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from itertools import islice
from typing import Any

import attrs
import msgspec

from flowstate import InvalidInputError
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.runtime import Call

__all__ = ["Database", "as_pyformat", "sql"]

# A quoted text, a name, a comment, a cast; and else a parameter.
TOKEN = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/"""
    r"""|\$(\w*)\$.*?\$\1\$|::|:([A-Za-z_]\w*)""",
    re.DOTALL,
)
Rows = list[dict[str, Any]]
REFUSED = {sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA}
READING = (["select"], ["values"], ["with"])
CHANGING = {"delete", "insert", "into", "merge", "update"}
KINDS = ("sqlite:///", "postgres://", "postgresql://")
STEPS = 10_000  # Of SQLite between two looks at the time.
BUSY = 5.0  # Seconds that SQLite waits for others.


def _check_url(_: Any, __: Any, url: str) -> None:
    if not url.startswith(KINDS):
        raise InvalidInputError("url", f"must begin with one of {', '.join(KINDS)}")


async def sql(arguments: Mapping[str, Any], call: Call) -> Any:
    """Run one statement in a transaction of its own: ``{database, query, parameters}``.

    It returns the rows as an array of objects, or ``{"changed": n}`` if it gives none. The query
    is a text as the document has it; parameters are written as ``:name``, and ``:key`` is the key
    of this call, the same whenever it is repeated.

    Raises:
        TaskError: ``configuration``: no such database, or the query was put together by an
            expression; ``communication``, ``timeout``, ``runtime``: see :class:`Database`.
    """
    database, query = call.runtime.databases.get(arguments["database"]), arguments["query"]
    if database is None:
        raise TaskError.of("configuration", f"no database {arguments['database']!r}")
    if call.written.get("query") != query:
        raise TaskError.of("configuration", "a query is a text; values belong in parameters")
    return await database.run(query, {"key": call.key, **(arguments.get("parameters") or {})})


@attrs.frozen
class Database:
    """A database that documents can name.

    Attributes:
        url: ``sqlite:///path/to/file`` or ``postgresql://...``; with what its role may do, since a
            document may do all of that.
        seconds: that a statement may take.
        most_rows: that a query may give.
        most_bytes: that its rows may have, as JSON.
        connections: at once; further calls wait.

    Raises:
        InvalidInputError: the URL is of no such kind.
    """

    url: str = attrs.field(repr=False, validator=_check_url)
    seconds: float = attrs.field(default=30.0, kw_only=True)
    most_rows: int = attrs.field(default=1_000, kw_only=True)
    most_bytes: int = attrs.field(default=1024 * 1024, kw_only=True)
    connections: int = attrs.field(default=4, kw_only=True)
    _free: asyncio.Semaphore = attrs.field(
        init=False, default=attrs.Factory(lambda self: asyncio.Semaphore(self.connections), True)
    )

    async def run(self, text: str, parameters: Mapping[str, Any]) -> Any:
        """Run one statement in a transaction of its own; return JSON.

        Returns:
            The rows, as a list of objects; for a statement that gives none ``{"changed": n}``.

        Raises:
            TaskError: ``communication``: it cannot be reached; ``timeout``; ``runtime``: it refuses
                the statement, or gives too much.
        """
        run = self._sqlite if self.url.startswith("sqlite:") else self._postgres
        async with self._free:
            gave = await run(text, parameters)
        if isinstance(gave, int):
            return {"changed": gave}
        if len(gave) > self.most_rows:
            raise TaskError.of("runtime", f"more than {self.most_rows} rows")
        rows = msgspec.to_builtins(gave, enc_hook=str)
        size = len(msgspec.json.encode(rows))
        if size > self.most_bytes:
            raise TaskError.of("runtime", f"rows of {size} bytes, more than {self.most_bytes}")
        return rows

    async def _sqlite(self, text: str, parameters: Mapping[str, Any]) -> Rows | int:
        stop = threading.Event()
        deadline = time.monotonic() + self.seconds
        values = {
            name: msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value
            for name, value in parameters.items()
        }

        def run() -> Rows | int:
            file = self.url.removeprefix("sqlite:///")
            with closing(sqlite3.connect(file, timeout=min(BUSY, self.seconds))) as connection:
                connection.set_progress_handler(
                    lambda: stop.is_set() or time.monotonic() > deadline, STEPS
                )
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2 * self.most_bytes)
                connection.set_authorizer(
                    lambda action, *_: (
                        sqlite3.SQLITE_DENY if action in REFUSED else sqlite3.SQLITE_OK
                    )
                )
                with connection:
                    cursor = connection.execute(text, values)
                    if cursor.description is None:
                        (changed,) = connection.execute("select changes()").fetchone()
                        return int(changed)  # Of all kinds, which rowcount is not.
                    names = [each[0] for each in cursor.description]
                    rows: Iterable[Any] = islice(cursor, self.most_rows + 1)
                    return [dict(zip(names, row, strict=True)) for row in rows]

        try:
            return await asyncio.to_thread(run)
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if name == "SQLITE_INTERRUPT":
                raise self._late() from None
            raise _refused(str(error), name) from None
        finally:
            stop.set()

    async def _postgres(self, text: str, parameters: Mapping[str, Any]) -> Rows | int:
        import psycopg  # noqa: PLC0415 - of an extra
        from psycopg.rows import dict_row  # noqa: PLC0415
        from psycopg.types.json import Jsonb  # noqa: PLC0415

        query = as_pyformat(text).encode()
        values = {
            name: Jsonb(value) if isinstance(value, dict) else value
            for name, value in parameters.items()
        }
        try:
            async with (
                asyncio.timeout(self.seconds + BUSY),
                await psycopg.AsyncConnection.connect(self.url, row_factory=dict_row) as connection,
                connection.cursor() as cursor,
            ):
                limit = f"SET LOCAL statement_timeout = {int(self.seconds * 1000)}"
                await cursor.execute(limit.encode())
                if not _only_reads(text):
                    await cursor.execute(query, values)
                    if cursor.description is None:
                        return max(cursor.rowcount, 0)
                    return await cursor.fetchmany(self.most_rows + 1)
                rows: Rows = []
                async for row in cursor.stream(query, values):  # Not all are loaded at first.
                    rows.append(row)
                    if len(rows) > self.most_rows:
                        break
                return rows
        except (TimeoutError, psycopg.errors.QueryCanceled):
            raise self._late() from None
        except psycopg.Error as error:
            if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
                raise TaskError.of("communication", "no connection to the database") from None
            raise _refused(error.diag.message_primary or str(error), error.sqlstate or "") from None

    def _late(self) -> TaskError:
        return TaskError.of("timeout", f"the statement took more than {self.seconds:g} s")


def as_pyformat(text: str) -> str:
    """Return a statement with parameters written as ``:name`` as psycopg reads it."""

    def replaced(match: re.Match[str]) -> str:
        return f"%({match[2]})s" if match[2] else match[0].replace("%", "%%")

    parts, end = [], 0
    for match in TOKEN.finditer(text):
        parts += [text[end : match.start()].replace("%", "%%"), replaced(match)]
        end = match.end()
    return "".join([*parts, text[end:].replace("%", "%%")])


def _only_reads(text: str) -> bool:
    words = re.findall(r"[a-z]+", TOKEN.sub(" ", text).lower())
    return words[:1] in READING and CHANGING.isdisjoint(words)


def _refused(text: str, code: str) -> TaskError:
    error = TaskError.of("runtime", text)
    error.extra["code"] = code
    return error
