"""Finds revisions by labels and status."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

__all__ = ["Found", "Walk", "conditions", "count", "merged", "tests"]

SCAN_LIMIT = 2_000
FEW = 200  # Revisions that are counted to find the rarest condition.
LEAPS = 32
Where = tuple[str, tuple[str, ...]]
"""A condition that an index leads to, in the order of revisions, and its parameters."""
Found = tuple[list[int], int | None]
"""Revisions in order, and up to which one the search came before it broke off."""


def conditions(labels: Mapping[str, str], status: str | None) -> list[Where]:
    """Return the conditions on a table of labels with a status, of labels, or of states."""
    has, values = ("1", ()) if status is None else ("status = ?", (status,))
    if not labels:
        return [(has, values)]
    return [(f"key = ? AND value = ? AND {has}", (*pair, *values)) for pair in labels.items()]


def tests(table: str, conditions: Sequence[Where], status: str | None) -> Where:
    """Return a condition: ``found.rev`` meets those of a table, and has a status in the log."""
    others = [(f"{table} WHERE {where}", values) for where, values in conditions]
    if status is not None:
        others.append(("log WHERE status = ?", (status,)))
    found = [f"EXISTS (SELECT 1 FROM {other} AND rev = found.rev)" for other, _ in others]
    return " AND ".join(found) or "1", tuple(value for _, values in others for value in values)


class Walk:
    """Walks the revisions of the rarest condition above ``after``; looks each up under the others.

    Args:
        connection: to read with.
        table: of the conditions.
        conditions: all must hold.
        after: the cursor.
        status: that the revisions must have in the log, too.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        table: str,
        conditions: Sequence[Where],
        *,
        after: int,
        status: str | None = None,
    ) -> None:
        self._connection = connection
        self._table = table
        self._after = after
        if len(conditions) > 1:
            conditions = sorted(conditions, key=self._count)
        self._conditions = conditions
        self._is_tested = len(conditions) > 1 or status is not None
        self._tests, self._parameters = tests(table, conditions[1:], status)

    def _count(self, condition: Where) -> int:
        """Return how many revisions meet a condition, or that they are not few."""
        where, values = condition
        few = f"SELECT 1 FROM {self._table} WHERE {where} AND rev > ? LIMIT {FEW}"
        (count,) = self._connection.execute(
            f"SELECT count(*) FROM ({few})", (*values, self._after)
        ).fetchone()
        return int(count)

    def find(self, upto: int, limit: int) -> Found:
        """Return matching revisions, and where the search broke off."""
        scan = SCAN_LIMIT if self._is_tested else limit
        where, values = self._conditions[0]
        found = (
            f"SELECT rev FROM {self._table} WHERE {where} AND rev > ? AND rev <= ?"
            " ORDER BY rev LIMIT ?"
        )
        rows = self._connection.execute(
            f"SELECT rev, {self._tests} FROM ({found}) AS found",
            (*self._parameters, *values, self._after, upto, scan),
        ).fetchall()
        broke_off = self._is_tested and len(rows) == scan
        return [rev for rev, answers in rows if answers], rows[-1][0] if broke_off else None

    def newest(self, upto: int) -> int | None:
        """Return the newest match.

        At first by leaps: from the newest of one label to the newest of the next that is no
        newer, until all meet. That passes over what has only some of the labels, however much.
        """
        newest: int | None = upto
        for _ in range(LEAPS):
            before = newest
            for where, values in self._conditions:
                leap = f"SELECT max(rev) FROM {self._table} WHERE {where} AND rev <= ?"
                (newest,) = self._connection.execute(leap, (*values, newest)).fetchone()
                if newest is None:
                    return None
            if not self._is_tested or newest == before:
                break
        if not self._is_tested:
            return newest
        where, values = self._conditions[0]
        found = f"SELECT rev FROM {self._table} WHERE {where} AND rev <= ? ORDER BY rev DESC"
        row = self._connection.execute(
            f"SELECT rev FROM ({found}) AS found WHERE {self._tests} LIMIT 1",
            (*values, newest, *self._parameters),
        ).fetchone()
        return None if row is None else row[0]

    def all(self) -> Where:
        """Return a statement for all matches, and its parameters."""
        where, values = self._conditions[0]
        statement = f"SELECT rev FROM {self._table} AS found WHERE {where} AND {self._tests}"
        return statement, (*values, *self._parameters)


def count(connection: sqlite3.Connection, walks: Iterable[Walk]) -> int:
    """Return how many revisions match any of some walks."""
    statements, parameters = zip(*(walk.all() for walk in walks), strict=True)
    union = " UNION ".join(statements)
    (found,) = connection.execute(
        f"SELECT count(*) FROM ({union})", [*chain(*parameters)]
    ).fetchone()
    return int(found)


def merged(parts: Iterable[Found]) -> Found:
    """Return the revisions of all parts, up to where the first search broke off."""
    parts = list(parts)
    stop = min((end for _, end in parts if end is not None), default=None)
    revs = sorted({rev for revs, _ in parts for rev in revs})
    return (revs if stop is None else [rev for rev in revs if rev <= stop]), stop
