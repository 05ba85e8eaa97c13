"""Finds revisions by labels and status."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Walk", "conditions", "merged"]

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
        others = [(f"{table} WHERE {where}", values) for where, values in conditions[1:]]
        if status is not None:
            others.append(("log WHERE status = ?", (status,)))
        self._tests = [f"EXISTS (SELECT 1 FROM {other} AND rev = found.rev)" for other, _ in others]
        self._parameters = [value for _, values in others for value in values]

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
        scan = SCAN_LIMIT if self._tests else limit
        where, values = self._conditions[0]
        found = (
            f"SELECT rev FROM {self._table} WHERE {where} AND rev > ? AND rev <= ?"
            " ORDER BY rev LIMIT ?"
        )
        rows = self._connection.execute(
            f"SELECT rev, {' AND '.join(self._tests) or '1'} FROM ({found}) AS found",
            (*self._parameters, *values, self._after, upto, scan),
        ).fetchall()
        broke_off = self._tests and len(rows) == scan
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
            if not self._tests or newest == before:
                break
        if not self._tests:
            return newest
        where, values = self._conditions[0]
        found = f"SELECT rev FROM {self._table} WHERE {where} AND rev <= ? ORDER BY rev DESC"
        row = self._connection.execute(
            f"SELECT rev FROM ({found}) AS found WHERE {' AND '.join(self._tests)} LIMIT 1",
            (*values, newest, *self._parameters),
        ).fetchone()
        return None if row is None else row[0]


def merged(parts: Iterable[Found]) -> Found:
    """Return the revisions of all parts, up to where the first search broke off."""
    parts = list(parts)
    stop = min((end for _, end in parts if end is not None), default=None)
    revs = sorted({rev for revs, _ in parts for rev in revs})
    return (revs if stop is None else [rev for rev in revs if rev <= stop]), stop
