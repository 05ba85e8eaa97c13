"""Removes old revisions and data, a chunk in each transaction, so that commits go on between."""

import sqlite3

from flowstate.drivers.sqlite.rows import FORGOTTEN, IS_THERE

__all__ = ["compact_some", "drop_some"]

CHUNK = 2_000
DATA_CHUNK = 500
MAX_DROPPED_BYTES = 16 * 1024 * 1024

_DOOMED = (
    "SELECT rev FROM log WHERE rev > :after AND rev <= :last AND NOT EXISTS"
    f" (SELECT 1 FROM latest WHERE latest.id = log.id AND latest.rev = log.rev AND {IS_THERE})"
)
_FORGOTTEN = f"latest WHERE status = '{FORGOTTEN}' AND rev > :after AND rev <= :last"
_LABELS = "CASE WHEN json_valid(log.body) THEN log.body ELSE '{}' END, '$.labels'"
_UNREFERENCED = (
    "NOT EXISTS (SELECT 1 FROM data_reference AS ref WHERE ref.checksum = data.checksum)"
    " AND NOT EXISTS (SELECT 1 FROM delay_reference AS ref WHERE ref.checksum = data.checksum)"
)


def compact_some(
    connection: sqlite3.Connection, after: int, before_rev: int
) -> tuple[int, int | None]:
    """Remove outdated revisions above ``after`` and below ``before_rev``, at most a chunk.

    Returns how many were removed, and after which revision to go on; ``None`` at the end.
    """
    (head,) = connection.execute("SELECT max(rev) FROM log").fetchone()
    target = min(before_rev, head or 0)
    (last,) = connection.execute(
        "SELECT max(rev) FROM (SELECT rev FROM log WHERE rev > ? AND rev < ? ORDER BY rev LIMIT ?)",
        (after, target, CHUNK),
    ).fetchone()
    floor = max(target, 1) if last is None else last + 1
    connection.execute("UPDATE meta SET value = max(value, ?) WHERE key = 'floor'", (floor,))
    if last is None:
        return 0, None
    chunk = {"after": after, "last": last}
    connection.execute(
        "DELETE FROM label WHERE (key, value, rev) IN (SELECT pair.key, pair.value, log.rev"
        f" FROM log, json_each({_LABELS}) AS pair WHERE log.rev IN ({_DOOMED}))",
        chunk,
    )
    connection.execute(f"DELETE FROM data_reference WHERE rev IN ({_DOOMED})", chunk)
    removed = connection.execute(f"DELETE FROM log WHERE rev IN ({_DOOMED})", chunk).rowcount
    connection.execute(f"DELETE FROM {_FORGOTTEN}", chunk)
    return removed, last


def drop_some(connection: sqlite3.Connection, after: int, before_rev: int) -> int | None:
    """Remove data that nothing refers to and that was stored before ``before_rev``.

    What was stored at the head is meant for a commit that is still to come. Looks at a chunk of
    the data, and stops early when what it has removed is large. Returns after which row to go
    on; ``None`` at the end.
    """
    rows = connection.execute(
        f"SELECT rowid, length(blob), {_UNREFERENCED} AND stored_at < min(?, coalesce("
        "(SELECT max(rev) FROM log), 0)) FROM data WHERE rowid > ? ORDER BY rowid LIMIT ?",
        (before_rev, after, DATA_CHUNK),
    ).fetchall()
    left = MAX_DROPPED_BYTES
    for row, size, is_doomed in rows:
        after = row
        if is_doomed:
            connection.execute("DELETE FROM data WHERE rowid = ?", (row,))
            left -= size
        if left <= 0:
            return after
    return after if len(rows) == DATA_CHUNK else None
