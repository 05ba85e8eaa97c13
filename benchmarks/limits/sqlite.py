"""The bare loop on SQLite: a compare-and-set and an insert, in one transaction."""

import sqlite3

from benchmarks.limits.bare import Bare
from benchmarks.setting import Setting
from benchmarks.stopwatch import Stopwatch
from benchmarks.workload import Sample

__all__ = ["BareSQLite"]

STATEMENTS = 4
BODY = '{"v":1,"id":"a","transition":{"to":"x"}}'
SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE latest (id TEXT PRIMARY KEY, rev INTEGER NOT NULL);
CREATE TABLE log (rev INTEGER PRIMARY KEY, id TEXT NOT NULL, body TEXT);
INSERT INTO latest VALUES ('a', 0);
"""


class BareSQLite(Bare):
    """Nothing is faster for many tasks: a file has one writer."""

    one_name = many_name = "bare sqlite3"

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._connection: sqlite3.Connection | None = None
        self._rev = 0

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            path = self._setting.folder / "bare.db"
            self._connection = sqlite3.connect(path, isolation_level=None)
            self._setting.stack.callback(self._connection.close)
            self._connection.executescript(SCHEMA)
        return self._connection

    async def one(self, count: int) -> Sample:
        connection = self._opened()
        first, self._rev = self._rev, self._rev + count
        watch = Stopwatch()
        for rev in range(first, self._rev):
            connection.execute("BEGIN IMMEDIATE")
            change = "UPDATE latest SET rev = ? WHERE id = 'a' AND rev = ?"
            if connection.execute(change, (rev + 1, rev)).rowcount != 1:
                raise AssertionError
            connection.execute("INSERT INTO log VALUES (?, 'a', ?)", (rev + 1, BODY))
            connection.execute("COMMIT")
        return watch.sample(count, STATEMENTS)

    async def many(self, count: int) -> Sample:
        return await self.one(count)
