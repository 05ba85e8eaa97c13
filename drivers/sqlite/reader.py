"""Answers queries about the log on a reading connection, each from one snapshot."""

import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial

from msgspec import json

from flowstate.codec import decode_annotations
from flowstate.data import Data
from flowstate.driver import StateQuery, States
from flowstate.drivers.kit.records import check_gaps, page_of, state_or_raise
from flowstate.drivers.kit.times import FIRST, to_micros
from flowstate.drivers.sqlite import labels
from flowstate.drivers.sqlite.history import History
from flowstate.drivers.sqlite.labels import Walk, conditions, merged
from flowstate.drivers.sqlite.rows import IS_THERE, REVISION, Row, snapshot
from flowstate.ground.frozen import EMPTY
from flowstate.state import State, Status

__all__ = ["count", "get_data", "get_outlook", "get_state", "get_states"]


def get_outlook(connection: sqlite3.Connection) -> tuple[int, object]:
    """Return the highest revision, and what differs once delays have been stored."""
    head, delays = connection.execute(
        "SELECT (SELECT max(rev) FROM log), (SELECT value FROM meta WHERE key = 'delays')"
    ).fetchone()
    return head or 0, delays


def get_state(connection: sqlite3.Connection, id: str, rev: int | None) -> State | None:
    """Return the latest revision of a state, or revision ``rev`` of it.

    Raises:
        DamagedRevisionError: it cannot be read.
    """
    if rev is None:
        statement = (
            "SELECT latest.rev, latest.id, log.committed_at, log.delayed_until, log.body"
            f" FROM latest LEFT JOIN log USING (rev) WHERE latest.id = ? AND {IS_THERE}"
        )
        row = connection.execute(statement, (id,)).fetchone()
    else:
        statement = f"SELECT {REVISION} FROM log WHERE id = ? AND rev = ?"
        row = connection.execute(statement, (id, rev)).fetchone()
    return None if row is None else state_or_raise(row)


def get_data(connection: sqlite3.Connection, checksum: str) -> Data | None:
    """Return stored data."""
    row = connection.execute(
        "SELECT blob, annotations FROM data WHERE checksum = ?", (checksum,)
    ).fetchone()
    return None if row is None else Data(row[0], decode_annotations(row[1]), checksum=checksum)


def get_states(connection: sqlite3.Connection, query: StateQuery) -> States:
    """Return a page of revisions.

    Raises:
        CompactedError: revisions that the query insists on are compacted.
    """
    with snapshot(connection):
        page = _Page(connection, query).read()
    return page()  # Reading holds up the write-ahead log, and this takes longest.


def count(connection: sqlite3.Connection, query: StateQuery) -> int:
    """Return how many states have a latest revision with the labels and the status of a query."""
    terms = query.labels or (EMPTY,)
    with snapshot(connection):
        walks = (
            [_latest(connection, term, status, 0) for term in terms] for status in _statuses(query)
        )
        return sum(labels.count(connection, some) for some in walks)


def _statuses(query: StateQuery) -> Iterable[Status]:
    return Status if query.status is None else (query.status,)


def _latest(
    connection: sqlite3.Connection, labels: Mapping[str, str], status: Status, after: int
) -> Walk:
    """Return what finds latest revisions: an index leads to those of one status, in their order."""
    table = "latest_label" if labels else "latest"
    return Walk(connection, table, conditions(labels, status), after=after)


class _Page:
    """One query, to be read within one read transaction."""

    def __init__(self, connection: sqlite3.Connection, query: StateQuery) -> None:
        self._connection = connection
        self._query = query
        head, self._floor = connection.execute(
            "SELECT (SELECT max(rev) FROM log), value FROM meta WHERE key = 'floor'"
        ).fetchone()
        self._head: int = head or 0

    def read(self) -> Callable[[], States]:
        """Return what makes the page, from rows that are read."""
        query = self._query
        check_gaps(query, self._floor)
        after, upto = self._bounds()
        if query.since_latest:
            newest = [walk.newest(upto) for walk in self._walks(0)]
            found = max((rev for rev in newest if rev is not None), default=self._head + 1)
            after = max(after, found - 1)
        revs, stop = merged(walk.find(upto, query.limit + 1) for walk in self._walks(after))
        if len(revs) > query.limit:
            revs = revs[: query.limit]
            stop = revs[-1]
        rows = list(self._rows(revs))
        if rows and rows[-1][0] < revs[-1]:
            stop = rows[-1][0]
        return partial(page_of, query, rows, head=self._head, floor=self._floor, stop=stop)

    def _walks(self, after: int) -> Iterator[Walk | History]:
        """Return what finds the matches above a cursor."""
        query, connection = self._query, self._connection
        for term in query.labels or (EMPTY,):
            if query.id is not None:
                yield History(connection, query, term, after)
            elif query.latest_only:
                for status in _statuses(query):
                    yield _latest(connection, term, status, after)
            elif term:
                found = conditions(term, None)
                yield Walk(connection, "label", found, after=after, status=query.status)
            else:
                yield Walk(connection, "log", conditions(term, query.status), after=after)

    def _rows(self, revs: list[int]) -> Iterator[Row]:
        if not revs:
            return
        where, parameters = "rev IN (SELECT value FROM json_each(?))", (_array(revs),)
        if len(revs) == revs[-1] - revs[0] + 1:
            where, parameters = "rev BETWEEN ? AND ?", (revs[0], revs[-1])  # type: ignore[assignment]
        left, id = self._query.max_bytes, self._query.id
        statement = f"SELECT {REVISION} FROM log WHERE {where} ORDER BY rev"
        for row in self._connection.execute(statement, parameters):
            yield row if id is None else (row[0], id, *row[2:])
            left -= len(row[4] or "")
            if left <= 0:
                return

    def _bounds(self) -> tuple[int, int]:
        after, upto = self._query.after, self._head
        if self._query.since_time is not None:
            after = max(after, self._last_before(self._query.since_time))
        if self._query.committed_before is not None:
            upto = self._last_before(self._query.committed_before)
        return after, upto

    def _last_before(self, time: datetime) -> int:
        """Return the last revision committed before ``time``; times rise with revisions."""

        def committed_at(rev: int) -> int:
            row = self._connection.execute(
                "SELECT committed_at FROM log WHERE rev <= ? ORDER BY rev DESC LIMIT 1", (rev,)
            ).fetchone()
            return row[0] if row and isinstance(row[0], int) else FIRST

        return bisect_left(range(self._head + 1), to_micros(time), lo=1, key=committed_at) - 1


def _array(values: Sequence[int]) -> str:
    return json.encode(values).decode()
