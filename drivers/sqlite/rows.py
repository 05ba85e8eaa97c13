"""From rows to states."""

import sqlite3
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

from flowstate.codec import decode_state
from flowstate.drivers.sqlite.times import from_micros
from flowstate.state import State

__all__ = ["STATE", "insert", "state_of"]

STATE = "log.rev, log.committed_at, log.delayed_until, log.body"
ROWS_PER_STATEMENT = 256


def state_of(row: Sequence[Any]) -> State:
    """Return the state of a row that was selected as :data:`STATE`.

    Raises:
        CodecError: the body is damaged, or of a newer version.
    """
    rev, committed_at, delayed_until, body = row
    until = None if delayed_until is None else from_micros(delayed_until)
    return decode_state(body, rev, from_micros(committed_at), until)


def insert(
    connection: sqlite3.Connection, into: str, rows: Sequence[tuple[Any, ...]], then: str = ""
) -> None:
    """Insert rows, many with one statement.

    Each statement gives up the interpreter's lock and has to get it back, which is slow while
    the event loop is busy; so a few large ones beat many small ones.
    """
    if len(rows) == 1:
        connection.execute(_insertion(into, len(rows[0]), 1, then), rows[0])
        return
    for start in range(0, len(rows), ROWS_PER_STATEMENT):
        chunk = rows[start : start + ROWS_PER_STATEMENT]
        statement = _insertion(into, len(chunk[0]), len(chunk), then)
        connection.execute(statement, list(chain.from_iterable(chunk)))


@cache
def _insertion(into: str, columns: int, rows: int, then: str) -> str:
    holes = f"({','.join('?' * columns)})"
    return f"INSERT INTO {into} VALUES {','.join([holes] * rows)} {then}"
