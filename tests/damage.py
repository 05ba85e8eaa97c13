"""Makes the stored form of a revision or a delay unreadable, without the driver's help."""

import contextlib
import sqlite3
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier
from redis import Redis

from flowstate.testcases import Damage

__all__ = ["in_postgres", "in_redis", "in_sqlite"]

NEWER = '{"v": 2, "id": "newer"}'
BROKEN = '{"v": 1, "id": '
STRANGE = "[]"  # A column for JSON takes nothing that is none.


def in_sqlite(path: Path, what: Damage, id: str) -> None:
    """Write over the body in a file."""
    table, place = _place(what)
    body = NEWER if what.startswith("newer") else BROKEN
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(f"UPDATE {table} SET body = ? WHERE {place.format('?')}", (body, id))


def in_postgres(url: str, schema: str, what: Damage, id: str) -> None:
    """Write over the body in a table."""
    table, place = _place(what)
    body = NEWER if what.startswith("newer") else STRANGE
    statement = SQL("UPDATE {} SET body = %s WHERE " + place.format("%s")).format(
        Identifier(schema, table)
    )
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(SQL("SET search_path = {}").format(Identifier(schema)))
        connection.execute(statement, (body, id))


def _place(what: Damage) -> tuple[str, str]:
    if what.endswith("delay"):
        return "delay", "id = {}"
    return "log", "rev = (SELECT rev FROM latest WHERE id = {})"


def in_redis(url: str, namespace: str, what: Damage, id: str) -> None:
    """Write over the body in a hash; of a revision, write the whole log once more."""
    body = (NEWER if what.startswith("newer") else BROKEN).encode()
    with Redis.from_url(url) as client:
        if what.endswith("delay"):
            client.hset(f"{{{namespace}}}:delay_bodies", id, body)
            return
        log = f"{{{namespace}}}:log"
        entries = client.xrange(log)
        last = [entry for entry, fields in entries if fields[b"i"] == id.encode()][-1]
        with client.pipeline() as writes:
            writes.delete(log)
            for entry, fields in entries:
                writes.xadd(log, {**fields, b"b": body} if entry == last else fields, id=entry)
            writes.execute()
