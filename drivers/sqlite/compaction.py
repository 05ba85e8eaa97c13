"""Removes old revisions, a few thousand in each transaction, so that commits go on between."""

import sqlite3

__all__ = ["compact_some", "drop_unreferenced"]

CHUNK = 2_000

_DOOMED = (
    "SELECT rev FROM log WHERE rev > :after AND rev <= :last AND NOT EXISTS"
    " (SELECT 1 FROM latest WHERE latest.id = log.id AND latest.rev = log.rev)"
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
        f" FROM log, json_each(log.body, '$.labels') AS pair WHERE log.rev IN ({_DOOMED}))",
        chunk,
    )
    connection.execute(f"DELETE FROM data_reference WHERE rev IN ({_DOOMED})", chunk)
    removed = connection.execute(f"DELETE FROM log WHERE rev IN ({_DOOMED})", chunk).rowcount
    return removed, last


def drop_unreferenced(connection: sqlite3.Connection, before_rev: int) -> None:
    """Remove data that no revision refers to and that was stored before ``before_rev``.

    What was stored at the head is meant for a commit that is still to come.
    """
    connection.execute(
        "DELETE FROM data WHERE stored_at < min(?, (SELECT max(rev) FROM log)) AND NOT EXISTS"
        " (SELECT 1 FROM data_reference WHERE data_reference.checksum = data.checksum)",
        (before_rev,),
    )
