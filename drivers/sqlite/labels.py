"""Finds revisions by labels."""

import sqlite3
from collections.abc import Iterable

__all__ = ["Found", "Walk", "merged"]

SCAN_LIMIT = 2_000
FEW = 200  # Revisions of a label that are counted to find the rarest one.
LEAPS = 32
Pair = tuple[str, str]
Found = tuple[list[int], int | None]
"""Revisions in order, and up to which one the search came before it broke off."""


class Walk:
    """Walks the revisions that have one label, the rarest, and looks each up under the others."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        table: str,
        pairs: list[Pair],
        status: tuple[str, ...],
        after: int,
    ) -> None:
        self._connection = connection
        self._has = f"{table} WHERE key = ? AND value = ?" + " AND status = ?" * len(status)
        self._status = status
        self._pairs = (
            sorted(pairs, key=lambda pair: self._count(pair, after)) if len(pairs) > 1 else pairs
        )
        self._tests = [f"EXISTS (SELECT 1 FROM {self._has} AND rev = found.rev)"] * (len(pairs) - 1)
        self._parameters = [text for pair in self._pairs[1:] for text in (*pair, *status)]

    def test_status(self, status: str | None) -> None:
        """Test also the status, of which the table knows nothing."""
        if status is not None:
            self._tests.append("EXISTS (SELECT 1 FROM log WHERE rev = found.rev AND status = ?)")
            self._parameters.append(status)

    def _count(self, pair: Pair, after: int) -> int:
        """Return how many revisions have a label, or that they are not few."""
        few = f"SELECT 1 FROM {self._has} AND rev > ? LIMIT {FEW}"
        parameters = (*pair, *self._status, after)
        (count,) = self._connection.execute(f"SELECT count(*) FROM ({few})", parameters).fetchone()
        return int(count)

    def find(self, after: int, upto: int, limit: int) -> Found:
        """Return matching revisions, and where the search broke off."""
        scan = SCAN_LIMIT if self._tests else limit
        found = f"SELECT rev FROM {self._has} AND rev > ? AND rev <= ? ORDER BY rev LIMIT ?"
        rows = self._connection.execute(
            f"SELECT rev, {' AND '.join(self._tests) or '1'} FROM ({found}) AS found",
            (*self._parameters, *self._pairs[0], *self._status, after, upto, scan),
        ).fetchall()
        broke_off = self._tests and len(rows) == scan
        return [rev for rev, answers in rows if answers], rows[-1][0] if broke_off else None

    def newest(self, upto: int) -> int | None:
        """Return the newest match.

        At first by leaps: from the newest of one label to the newest of the next that is no
        newer, until all meet. That passes over what has only some of the labels, however much.
        """
        for _ in range(LEAPS):
            before = upto
            for pair in self._pairs:
                leap = f"SELECT max(rev) FROM {self._has} AND rev <= ?"
                (upto,) = self._connection.execute(leap, (*pair, *self._status, upto)).fetchone()
                if upto is None:
                    return None
            if upto == before:
                break
        row = self._connection.execute(
            f"SELECT rev FROM (SELECT rev FROM {self._has} AND rev <= ? ORDER BY rev DESC) AS found"
            f" WHERE {' AND '.join(self._tests) or '1'} LIMIT 1",
            (*self._pairs[0], *self._status, upto, *self._parameters),
        ).fetchone()
        return None if row is None else row[0]


def merged(parts: Iterable[Found]) -> Found:
    """Return the revisions of all parts, up to where the first search broke off."""
    parts = list(parts)
    stop = min((end for _, end in parts if end is not None), default=None)
    revs = sorted({rev for revs, _ in parts for rev in revs})
    return (revs if stop is None else [rev for rev in revs if rev <= stop]), stop
