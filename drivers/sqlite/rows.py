"""Selecting and inserting rows."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from typing import Any

__all__ = ["FORGOTTEN", "IS_THERE", "REVISION", "Row", "bound", "insert", "is_text", "snapshot"]

Row = tuple[Any, ...]
REVISION = "log.rev, log.id, log.committed_at, log.delayed_until, log.body"
FORGOTTEN = "forgotten"
"""Instead of a status, in the row of a state that has no latest revision until it begins again."""
IS_THERE = f"latest.status IS NOT '{FORGOTTEN}'"
ROWS_PER_STATEMENT = 256


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Let all statements inside read the same."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:  # SQLite ends it by itself when the disk fails.
            connection.execute("COMMIT")


def bound(text: str | bytes) -> bytes:
    """Return a text, also one that is no UTF-8, to be bound to ``CAST(? AS TEXT)``."""
    return text if isinstance(text, bytes) else text.encode(errors="surrogateescape")


def is_text(stored: object) -> bool:
    """Return whether what was stored as a text is one, and was read as UTF-8."""
    try:
        return isinstance(stored, str) and stored.encode() is not None
    except UnicodeEncodeError:
        return False


def insert(connection: sqlite3.Connection, into: str, rows: Sequence[Row], then: str = "") -> None:
    """Insert rows, many with one statement.

    Each statement gives up the interpreter's lock and has to get it back, which is slow while
    the event loop is busy; so a few large ones beat many small ones.
    """
    if len(rows) == 1:
        connection.execute(_insertion(into, len(rows[0]), 1, then), rows[0])
        return
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        chunk = rows[start : start + ROWS_PER_STATEMENT]
        connection.execute(_insertion(into, len(chunk[0]), len(chunk), then), [*chain(*chunk)])


@cache
def _insertion(into: str, columns: int, rows: int, then: str) -> str:
    holes = f"({','.join('?' * columns)})"
    return f"INSERT INTO {into} VALUES {','.join([holes] * rows)} {then}"
