"""Finds the revisions of one state: each row of the log names the one before."""

import sqlite3
from collections import deque
from collections.abc import Mapping

from flowstate.driver import StateQuery
from flowstate.drivers.sqlite.labels import Found, conditions, tests
from flowstate.drivers.sqlite.rows import IS_THERE

__all__ = ["History"]

LATEST = f"found (rev) AS (SELECT rev FROM latest WHERE id = ? AND rev > ? AND {IS_THERE})"
# From the newest to the oldest above the cursor. A state that is forgotten has a history, too.
ALL = (
    "RECURSIVE found (rev) AS (SELECT rev FROM latest WHERE id = ? AND rev > ?"
    " UNION ALL SELECT previous FROM found CROSS JOIN log USING (rev)"
    " WHERE previous > ? AND previous < rev)"
)


class History:
    """Walks the revisions of a state back to the cursor, by their numbers alone.

    Args:
        connection: to read with.
        query: names the state, and says which of its revisions.
        labels: that they must have.
        after: the cursor.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        query: StateQuery,
        labels: Mapping[str, str],
        after: int,
    ) -> None:
        self._connection = connection
        table, cursors = (LATEST, (after,)) if query.latest_only else (ALL, (after, after))
        has, values = tests("label", conditions(labels, None) if labels else [], query.status)
        self._statement = f"WITH {table} SELECT rev FROM found WHERE {has} AND rev <= ?"
        self._parameters = (query.id, *cursors, *values)

    def find(self, upto: int, limit: int) -> Found:
        """Return the first matching revisions, which are the last that the walk comes to."""
        found = self._connection.execute(self._statement, (*self._parameters, upto))
        return sorted(rev for (rev,) in deque(found, limit)), None

    def newest(self, upto: int) -> int | None:
        """Return the newest match, with which the walk ends."""
        statement = f"{self._statement} LIMIT 1"
        row = self._connection.execute(statement, (*self._parameters, upto)).fetchone()
        return None if row is None else row[0]
