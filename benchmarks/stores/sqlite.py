"""The SQLite driver, with ``synchronous = FULL`` as it is by default."""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.flows import FINISH
from benchmarks.setting import Setting
from benchmarks.stopwatch import Counter
from benchmarks.stores import filling
from benchmarks.stores.store import Address, Store, StoreName
from flowstate import Driver
from flowstate.codec import encode_annotations
from flowstate.drivers.kit.times import FIRST, to_micros

__all__ = ["SQLiteStore"]

KINDS = "CREATE TEMP TABLE kind (place, status, body, stalls_after, is_delayed, flow)"
# A revision of each state, a microsecond apart, the last one now.
SCRIPT = """
BEGIN IMMEDIATE;
CREATE TEMP TABLE numbered AS
    WITH RECURSIVE counted (number) AS (
        SELECT 0 UNION ALL SELECT number + 1 FROM counted WHERE number + 1 < :states
    )
    SELECT number, number + 1 AS rev, 's' || number AS id, number / :kinds % :groups AS "group",
        :now - :states + number + 1 AS committed_at, 'fill-' || number AS token,
        CASE WHEN kind.is_delayed THEN :due + number * 1000000 END AS due,
        kind.status, kind.body, kind.stalls_after, kind.flow
    FROM counted JOIN kind ON kind.place = number % :kinds;
INSERT INTO log
    SELECT rev, id, 0, status, committed_at, due, token,
        replace(replace(body, :number_mark, number), :group_mark, "group")
    FROM numbered ORDER BY number;
INSERT INTO latest (id, rev, status, labels, due, flow)
    SELECT id, rev, status, replace(:labels, :group_mark, "group"),
        CASE WHEN status <> 'ended'
            THEN coalesce(coalesce(due, committed_at) + stalls_after, :never) END,
        CASE WHEN status <> 'ended' THEN flow ELSE '' END
    FROM numbered ORDER BY id;
INSERT INTO label
    SELECT 'group', CAST("group" AS TEXT), rev FROM numbered ORDER BY 2, 3;
INSERT INTO latest_label (key, value, status, rev)
    SELECT 'group', CAST("group" AS TEXT), status, rev FROM numbered ORDER BY 2, 3, 4;
INSERT INTO delay (id, state_id, rev, due, body, flow)
    SELECT token || '.0', id, rev, due, :delay, :finish
    FROM numbered WHERE due NOTNULL ORDER BY 1;
DROP TABLE numbered;
DROP TABLE kind;
COMMIT;
PRAGMA wal_checkpoint(TRUNCATE);
"""


class SQLiteStore(Store):
    """One file for each place."""

    name: StoreName = "sqlite"
    is_shared = True

    def __init__(self, setting: Setting) -> None:
        self.small_log = setting.sizes.small_log
        self.log = setting.sizes.sqlite_log
        self.commits = setting.sizes.sqlite_commits
        self.operations = setting.sizes.operations
        self._folder = setting.folder

    def address(self, place: str) -> Address:
        return Address("sqlite", str(self._folder / f"{place}.db"))

    def driver(self, place: str) -> Driver:
        return self.address(place).driver()

    async def fill(self, place: str, states: int) -> None:
        await asyncio.to_thread(_fill, self.address(place).where, states)

    def size(self, place: str) -> int:
        path = self.address(place).where
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return Path(path).stat().st_size

    @contextmanager
    def counting(self) -> Iterator[Counter]:
        counter = Counter()
        connect = sqlite3.connect

        def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*arguments, **options)
            connection.set_trace_callback(counter)
            return connection

        with counter.counting(), patch.object(sqlite3, "connect", traced):
            yield counter


def _fill(path: str, states: int) -> None:
    parameters = {
        "states": states,
        "kinds": len(filling.KINDS),
        "groups": filling.GROUPS,
        "now": to_micros(datetime.now(UTC)),
        "due": to_micros(filling.FIRST_DUE),
        "never": FIRST,
        "labels": encode_annotations(filling.labels_of(filling.GROUP_MARK)).decode(),
        "delay": filling.delay_body(),
        "finish": FINISH,
        "number_mark": filling.NUMBER_MARK,
        "group_mark": filling.GROUP_MARK,
    }
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")  # It is filled once, or not at all.
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute(KINDS)
        rows = [
            (place, kind.status.value, kind.body, kind.stalls_after, kind.is_delayed, kind.flow)
            for place, kind in enumerate(filling.KINDS)
        ]
        connection.executemany("INSERT INTO kind VALUES (?, ?, ?, ?, ?, ?)", rows)
        for statement in SCRIPT.split(";\n"):
            connection.execute(statement, parameters)
