"""Answers queries on a reading connection, each from one snapshot."""

import sqlite3
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from datetime import datetime
from math import ceil
from typing import Any

from msgspec import json
from msgspec.structs import replace

from flowstate.codec import ABSENT, decode_annotations, decode_delay, decode_state
from flowstate.data import Data
from flowstate.driver import (
    DamagedDelay,
    DelayedState,
    DelayedStates,
    DelayQuery,
    StateQuery,
    States,
)
from flowstate.drivers.sqlite.rows import STATE, state_of
from flowstate.drivers.sqlite.times import FIRST, LAST, from_micros, to_micros
from flowstate.errors import CodecError, CompactedError
from flowstate.frozen import freeze
from flowstate.state import State, Status

__all__ = ["get_data", "get_delayed", "get_head", "get_next_delay", "get_state", "get_states"]

Row = tuple[Any, ...]
SCAN_LIMIT = 2_000
# As bytes, because text that is no UTF-8 would fail the whole page.
DELAY = "delay.id, delay.due, CAST(delay.state_id AS BLOB)"
DELAYED = (
    "delay.rev, CAST(delay.body AS BLOB),"
    " log.rev, log.committed_at, log.delayed_until, CAST(log.body AS BLOB)"
)


def get_head(connection: sqlite3.Connection) -> int:
    """Return the highest revision."""
    (head,) = connection.execute("SELECT max(rev) FROM log").fetchone()
    return head or 0


def get_next_delay(connection: sqlite3.Connection) -> tuple[int, bytes] | None:
    """Return when the earliest delay is due, in microseconds since 1970, and its id."""
    row: tuple[int, bytes] | None = connection.execute(
        "SELECT due, CAST(id AS BLOB) FROM delay WHERE due >= ? AND due <= ?"
        " ORDER BY due, id LIMIT 1",
        (FIRST, LAST),
    ).fetchone()
    return row


def get_state(connection: sqlite3.Connection, id: str, rev: int | None) -> State | None:
    """Return the latest revision of a state, or revision ``rev`` of it."""
    if rev is None:
        rows = connection.execute(
            f"SELECT {STATE} FROM latest JOIN log USING (rev) WHERE latest.id = ?", (id,)
        )
    else:
        rows = connection.execute(f"SELECT {STATE} FROM log WHERE id = ? AND rev = ?", (id, rev))
    row = rows.fetchone()
    return None if row is None else state_of(row)


def get_data(connection: sqlite3.Connection, checksum: str) -> Data | None:
    """Return stored data."""
    row = connection.execute(
        "SELECT blob, annotations FROM data WHERE checksum = ?", (checksum,)
    ).fetchone()
    return None if row is None else Data(row[0], decode_annotations(row[1]), checksum=checksum)


def get_states(connection: sqlite3.Connection, query: StateQuery) -> States:
    """Return a page of revisions.

    Raises:
        CodecError: damaged.
    """
    connection.execute("BEGIN")
    try:
        return _Page(connection, query).read()
    except TypeError as error:  # A revision that is no number, say.
        raise CodecError(f"page of states: {error}") from error
    finally:
        if connection.in_transaction:  # SQLite ends it by itself when the disk fails.
            connection.execute("COMMIT")


class _Page:
    """One query within one read transaction."""

    def __init__(self, connection: sqlite3.Connection, query: StateQuery) -> None:
        self._connection = connection
        self._query = query
        self._head, self._floor = connection.execute(
            "SELECT (SELECT max(rev) FROM log), value FROM meta WHERE key = 'floor'"
        ).fetchone()
        self._head = self._head or 0

    def read(self) -> States:
        query = self._query
        if query.gaps_below is not None and self._floor > max(query.after + 1, query.gaps_below):
            raise CompactedError(self._floor)
        after, upto = self._bounds()
        if query.since_latest:
            newest = self._newest(upto)
            after = self._head if newest is None else max(after, newest - 1)
        revs, scanned_to = self._find(after, upto)
        more = len(revs) > query.limit or scanned_to is not None
        if len(revs) > query.limit:
            revs = revs[: query.limit]
            scanned_to = revs[-1]
        if scanned_to is None:
            scanned_to = max(self._head, query.after)
        return States(self._states(revs), scanned_to, more, self._head, self._floor)

    def _states(self, revs: list[int]) -> list[State]:
        if not revs:
            return []
        parameters: tuple[Any, ...]
        if len(revs) == revs[-1] - revs[0] + 1:
            where, parameters = "rev BETWEEN ? AND ?", (revs[0], revs[-1])
        else:
            where, parameters = "rev IN (SELECT value FROM json_each(?))", (_array(revs),)
        rows = self._connection.execute(
            f"SELECT {STATE} FROM log WHERE {where} ORDER BY rev", parameters
        )
        return [state_of(row) for row in rows]

    def _bounds(self) -> tuple[int, int]:
        """Return after and up to which revision to look."""
        after, upto = self._query.after, self._head
        if self._query.since_time is not None:
            after = max(after, self._last_before(self._query.since_time))
        if self._query.committed_before is not None:
            upto = self._last_before(self._query.committed_before)
        return after, upto

    def _last_before(self, time: datetime) -> int:
        """Return the last revision committed before ``time``; times rise with revisions."""
        micros = to_micros(time)

        def committed_at(rev: int) -> int:
            row = self._connection.execute(
                "SELECT committed_at FROM log WHERE rev <= ? ORDER BY rev DESC LIMIT 1", (rev,)
            ).fetchone()
            return -(2**62) if row is None else to_micros(from_micros(row[0]))

        return bisect_left(range(self._head + 1), micros, lo=1, key=committed_at) - 1

    def _find(self, after: int, upto: int) -> tuple[list[int], int | None]:
        """Return matching revisions, one more than the limit, and where the search broke off."""
        query = self._query
        if query.labels:
            parts = [self._find_labels(labels, after, upto) for labels in query.labels]
        elif query.latest_only:
            statuses = Status if query.status is None else (query.status,)
            parts = [self._find_in("latest", "status = ?", s, after, upto) for s in statuses]
        elif query.status is not None:
            parts = [self._find_in("log", "status = ?", query.status, after, upto)]
        else:
            parts = [self._find_in("log", "? = ''", "", after, upto)]
        broken = [end for _, end in parts if end is not None]
        scanned_to = min(broken, default=None)
        revs = sorted({rev for revs, _ in parts for rev in revs})
        if scanned_to is not None:
            revs = [rev for rev in revs if rev <= scanned_to]
        return revs, scanned_to

    def _find_in(
        self, table: str, where: str, value: str, after: int, upto: int
    ) -> tuple[list[int], int | None]:
        rows = self._connection.execute(
            f"SELECT rev FROM {table} WHERE {where} AND rev > ? AND rev <= ? ORDER BY rev LIMIT ?",
            (value, after, upto, self._query.limit + 1),
        )
        return [rev for (rev,) in rows], None

    def _find_labels(
        self, labels: Mapping[str, str], after: int, upto: int
    ) -> tuple[list[int], int | None]:
        """Walk one label's revisions, and look each of them up under the others."""
        (first, *others) = labels.items()
        table = self._label_table()
        tests, parameters = self._tests(others)
        scan = SCAN_LIMIT if tests else self._query.limit + 1
        rows = self._connection.execute(
            f"SELECT rev, {' AND '.join(tests) or '1'} FROM (SELECT rev FROM {table} WHERE"
            " key = ? AND value = ? AND rev > ? AND rev <= ? ORDER BY rev LIMIT ?) AS found",
            (*parameters, *first, after, upto, scan),
        ).fetchall()
        broke_off = tests and len(rows) == scan
        return [rev for rev, answers in rows if answers], rows[-1][0] if broke_off else None

    def _label_table(self) -> str:
        return "latest_label" if self._query.latest_only else "label"

    def _tests(self, others: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
        table = self._label_table()
        test = (
            f"EXISTS (SELECT 1 FROM {table} AS other"
            " WHERE other.key = ? AND other.value = ? AND other.rev = found.rev)"
        )
        tests = [test] * len(others)
        parameters = [text for pair in others for text in pair]
        if self._query.status is not None:
            tests.append("EXISTS (SELECT 1 FROM log WHERE log.rev = found.rev AND status = ?)")
            parameters.append(self._query.status)
        return tests, parameters

    def _newest(self, upto: int) -> int | None:
        """Return the newest match."""
        query = self._query
        found: list[int | None] = []
        for labels in query.labels:
            (first, *others) = labels.items()
            tests, parameters = self._tests(others)
            row = self._connection.execute(
                f"SELECT rev FROM {self._label_table()} AS found WHERE key = ? AND value = ?"
                f" AND rev <= ? AND {' AND '.join(tests) or '1'} ORDER BY rev DESC LIMIT 1",
                (*first, upto, *parameters),
            ).fetchone()
            found.append(None if row is None else row[0])
        if not query.labels:
            table = "latest" if query.latest_only else "log"
            for status in Status if query.status is None else (query.status,):
                row = self._connection.execute(
                    f"SELECT max(rev) FROM {table} WHERE status = ? AND rev <= ?", (status, upto)
                ).fetchone()
                found.append(row[0])
        return max((rev for rev in found if rev is not None), default=None)


def get_delayed(connection: sqlite3.Connection, query: DelayQuery, now: datetime) -> DelayedStates:
    """Return a page of delays."""
    until = to_micros(now if query.until is None else query.until)
    last = LAST if query.everything else until
    due, id = (FIRST, "") if query.after is None else (to_micros(query.after[0]), query.after[1])
    rows = connection.execute(
        f"SELECT {DELAY}, {DELAYED} FROM delay LEFT JOIN log ON log.rev = delay.rev"
        " WHERE (due, delay.id) > (?, ?) AND due <= ? ORDER BY due, delay.id LIMIT ?",
        (due, id, last, query.limit + 1),
    ).fetchall()
    more = len(rows) > query.limit
    if more:
        next_due = rows[query.limit][1]
    else:
        (next_due,) = connection.execute(
            "SELECT min(due) FROM delay WHERE due > ? AND due <= ?", (last, LAST)
        ).fetchone()
    delayed, damaged = _sorted_out(rows[: query.limit])
    if query.after is None:
        damaged += _without_time(connection, query.limit)
    next_due = None if next_due is None else from_micros(ceil(next_due))
    return DelayedStates(delayed, more, now, next_due, damaged)


def _sorted_out(rows: list[Row]) -> tuple[list[DelayedState], list[DamagedDelay]]:
    """Return the delays that can be read, and those that cannot."""
    delayed: list[DelayedState] = []
    damaged: list[DamagedDelay] = []
    for row in rows:
        try:
            delayed.append(_delayed(row))
        except CodecError as error:
            id, due, state_id, *_ = row
            # Rounded up, the next page begins behind it.
            damaged.append(DamagedDelay(id, _text(state_id), from_micros(ceil(due)), str(error)))
    return delayed, damaged


def _delayed(row: Row) -> DelayedState:
    id, due, state_id, rev, encoded, *in_log = row
    if type(due) is not int or type(rev) is not int:
        raise CodecError(f"delay: due at {due!r}, of revision {rev!r}")
    body = decode_delay(encoded)
    own = bytes(body.state)
    if own != bytes(ABSENT):
        state = replace(decode_state(own), rev=rev)
    elif in_log[0] is None:
        raise CodecError(f"delay: revision {rev} is not stored")
    else:
        state = state_of(in_log)
    if state.id != _text(state_id):
        raise CodecError(f"delay: of {_text(state_id)!r}, but revision {rev} is of {state.id!r}")
    annotations = freeze("annotations", body.annotations)
    return DelayedState(id, state, body.to, annotations, from_micros(due), body.commit)


def _without_time(connection: sqlite3.Connection, limit: int) -> list[DamagedDelay]:
    """Return delays whose time is none, and which no order of times would lead to."""
    rows = connection.execute(  # Two searches of an index, where OR might read it all.
        f"SELECT {DELAY} FROM delay WHERE due < ?"
        f" UNION ALL SELECT {DELAY} FROM delay WHERE due > ? LIMIT ?",
        (FIRST, LAST, limit),
    )
    return [
        DamagedDelay(id, _text(state_id), None, f"delay: due at {due!r}")
        for id, due, state_id in rows
    ]


def _text(stored: bytes | None) -> str:
    return (stored or b"").decode(errors="replace")


def _array(values: list[int]) -> str:
    return json.encode(values).decode()
