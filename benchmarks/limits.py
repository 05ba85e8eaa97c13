"""The bare loops that flowstate is compared with: what the store costs without it."""

import sqlite3
from datetime import datetime
from pathlib import Path
from time import perf_counter

__all__ = ["bare_memory", "bare_sqlite"]


class BareState:
    """A slotted object with the fields that a state has."""

    __slots__ = ("annotations", "committed_at", "id", "labels", "rev", "status", "to")

    def __init__(
        self,
        id: str,
        rev: int,
        labels: dict[str, str] | None,
        annotations: dict[str, str] | None,
        to: str,
        status: str,
        committed_at: datetime | None,
    ) -> None:
        self.id = id
        self.rev = rev
        self.labels = labels
        self.annotations = annotations
        self.to = to
        self.status = status
        self.committed_at = committed_at


async def _nothing() -> None:
    pass


async def bare_memory(count: int) -> float:
    """Check a dict, put a slotted object, append to a list, await once; seconds per round."""
    latest: dict[str, int] = {}
    log: list[BareState] = []
    start = perf_counter()
    for rev in range(count):
        if latest.get("a", 0) != rev:
            raise AssertionError
        state = BareState("a", rev + 1, None, None, "x", "active", None)
        latest["a"] = rev + 1
        log.append(state)
        await _nothing()
    return (perf_counter() - start) / count


def bare_sqlite(path: Path, count: int) -> float:
    """Compare-and-set a row and insert another, in a transaction; seconds per transaction."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE latest (id TEXT PRIMARY KEY, rev INTEGER NOT NULL)")
    connection.execute("CREATE TABLE log (rev INTEGER PRIMARY KEY, id TEXT NOT NULL, body TEXT)")
    connection.execute("INSERT INTO latest VALUES ('a', 0)")
    body = '{"v":1,"id":"a","transition":{"to":"x"}}'
    start = perf_counter()
    for rev in range(count):
        connection.execute("BEGIN IMMEDIATE")
        change = "UPDATE latest SET rev = ? WHERE id = 'a' AND rev = ?"
        if connection.execute(change, (rev + 1, rev)).rowcount != 1:
            raise AssertionError
        connection.execute("INSERT INTO log VALUES (?, 'a', ?)", (rev + 1, body))
        connection.execute("COMMIT")
    seconds = (perf_counter() - start) / count
    connection.close()
    return seconds
