"""Pages of what is due: an index search for each flow, whatever is due for other flows."""

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain, islice
from typing import NamedTuple

from flowstate.driver import DueKind, DuePage, DueQuery
from flowstate.drivers.kit.records import TIMER_REV, due_page
from flowstate.drivers.kit.times import FIRST, LAST, to_micros
from flowstate.drivers.sqlite.rows import IS_THERE, REVISION, Row, bound, is_text, snapshot

__all__ = ["get_due"]

MAX_OTHERS = 100


class _Source(NamedTuple):
    """Where what is due of one kind is found: between which times, and by which statements.

    A latest revision that never stalls, and has not ended, is due at the first moment that there
    is. So the index of what stalls begins, for each flow, with what is idle.
    """

    first: int
    last: int
    place: str
    outside: str
    whole: str
    flows: str
    bad_flows: str
    other: str


def _source(table: str, first: int, last: int, columns: str, found: str) -> _Source:
    due = f"FROM {table} WHERE flow = ? AND due"
    some = f"FROM {table} WHERE due NOTNULL AND flow"
    # The plus takes away the affinity of the cast, with which the index would not be searched.
    behind = "(due, id) > (?, +CAST(? AS TEXT))"
    return _Source(
        first,
        last,
        place=f"SELECT due, id {due} <= {last} AND {behind} ORDER BY due, id LIMIT ?",
        outside=f"SELECT due, id {due} < {FIRST} UNION ALL SELECT due, id {due} > {LAST}",
        whole=f"SELECT {columns} FROM {found} WHERE {table}.id = +CAST(? AS TEXT)",
        flows=f"SELECT flow {some} > ? ORDER BY flow LIMIT 1",
        bad_flows=f"SELECT DISTINCT flow {some} >= x''",
        other=f"SELECT 1 {due} BETWEEN {first} AND ? LIMIT 1",
    )


STATE = f"latest.id, due, latest.id, latest.rev, NULL, {REVISION}"
IN_LOG = "latest LEFT JOIN log ON log.rev = latest.rev"
# A timer is of the latest revision of its state, if it has one.
DELAY = (
    "delay.id, delay.due, state_id, delay.rev, delay.body, coalesce(latest.rev, log.rev),"
    " log.id, log.committed_at, log.delayed_until, log.body"
)
OF_REVISION = (
    "delay LEFT JOIN latest"
    f" ON latest.id = CASE delay.rev WHEN {TIMER_REV} THEN state_id END AND {IS_THERE}"
    " LEFT JOIN log ON log.rev = coalesce(latest.rev, delay.rev)"
)
SOURCES: dict[DueKind, _Source] = {
    "delay": _source("delay", FIRST, LAST, DELAY, OF_REVISION),
    "stall": _source("latest", FIRST + 1, LAST, STATE, IN_LOG),
    "idle": _source("latest", FIRST, FIRST, STATE, IN_LOG),
}


def get_due(connection: sqlite3.Connection, query: DueQuery, now: datetime) -> DuePage:
    """Return a page of what is due."""
    with snapshot(connection):
        return _Page(connection, query, now).read()


class _Page:
    """One query, to be read within one read transaction."""

    def __init__(self, connection: sqlite3.Connection, query: DueQuery, now: datetime) -> None:
        self._connection = connection
        self._query = query
        self._now = now
        self._source = SOURCES[query.kind]
        until = to_micros(now if query.until is None else query.until)
        self._last = min(LAST if query.everything else until, self._source.last)
        self._is_idle = query.kind == "idle"
        bad = [flow for (flow,) in connection.execute(self._source.bad_flows)]
        # Only what is idle need not have been sent to a flow.
        self._bad_flows = bad if self._is_idle else ["", *bad]

    def read(self) -> DuePage:
        asked = self._query.flows
        flows = list(self._all_flows() if asked is None else dict.fromkeys(asked))
        all_flows = list(dict.fromkeys([*flows, *self._bad_flows]))
        found = sorted(chain.from_iterable(map(self._places, all_flows)))
        due = [place for place in found[: self._query.limit] if place[0] <= self._last]
        next_at = found[len(due)][0] if len(found) > len(due) else None
        return due_page(
            self._query,
            (self._row(*place) for place in due),
            more=next_at is not None and next_at <= self._last,
            now=self._now,
            next_at=next_at,
            without_time=islice(self._without_time(all_flows), self._query.limit),
            others=self._others(flows) if self._query.others else (),
        )

    def _all_flows(self) -> Iterator[str]:
        """Return the flows that something goes to, by one index search for each."""
        flow = ""
        if self._is_idle:
            yield flow
        while row := self._connection.execute(self._source.flows, (flow,)).fetchone():
            (flow,) = row
            if not isinstance(flow, str):
                return
            yield flow

    def _places(self, flow: object) -> Iterator[tuple[float, bytes, object]]:
        """Return time, id and flow of the first of a flow, up to the one after the page."""
        place, after = (self._source.first, b""), self._query.after
        if after is not None:
            place = max(place, (to_micros(after[0]), bound(after[1])))
        limit = self._query.limit + 1
        for time, id in self._connection.execute(self._source.place, (flow, *place, limit)):
            yield time, bound(id), flow
            if time > self._last:
                return

    def _row(self, time: float, id: bytes, flow: object) -> Row:
        row: Row | None = self._connection.execute(self._source.whole, (id,)).fetchone()
        if row is None:
            return (id, time, *[None] * 8)
        # What has no flow fires nowhere, even if its body names one. A timer of a lost state is
        # no damage, so its id must be one.
        is_bad = flow in self._bad_flows or not is_text(row[2])
        return (*row[:4], *[None] * 6) if is_bad else row

    def _without_time(self, flows: Sequence[object]) -> Iterator[Row]:
        """Return what no order of times leads to."""
        if self._query.after is not None or self._is_idle:
            return
        for flow in flows:
            for time, id in self._connection.execute(self._source.outside, (flow, flow)):
                whole = self._row(time, bound(id), flow)
                yield (whole[0], time, *whole[2:])

    def _others(self, flows: Sequence[str]) -> list[str]:
        own = set(flows)
        others = (flow for flow in self._all_flows() if flow not in own)
        return list(islice(filter(self._has_due, others), MAX_OTHERS))

    def _has_due(self, flow: str) -> bool:
        found = self._connection.execute(self._source.other, (flow, self._last))
        return found.fetchone() is not None
