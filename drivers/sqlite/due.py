"""Pages of what is due: an index search for each flow, whatever is due for other flows."""

import sqlite3
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain, islice
from typing import NamedTuple

from flowstate.driver import DueKind, DuePage, DueQuery
from flowstate.drivers.kit.records import due_page
from flowstate.drivers.kit.times import FIRST, LAST, to_micros
from flowstate.drivers.sqlite.rows import REVISION, Row, bound, snapshot

__all__ = ["get_due"]

MAX_OTHERS = 100


class _Source(NamedTuple):
    """The statements for what is due of one kind."""

    place: str
    outside: str
    whole: str
    flows: str
    bad_flows: str
    other: str


def _source(table: str, time: str, columns: str) -> _Source:
    due = f"FROM {table} WHERE flow = ? AND {time}"
    # The plus takes away the affinity of the cast, with which the index would not be searched.
    behind = f"({time}, id) > (?, +CAST(? AS TEXT))"
    return _Source(
        place=f"SELECT {time}, id {due} <= {LAST} AND {behind} ORDER BY {time}, id LIMIT ?",
        outside=f"SELECT {time}, id {due} < {FIRST} UNION ALL SELECT {time}, id {due} > {LAST}",
        whole=f"SELECT {columns}, {REVISION} FROM {table} LEFT JOIN log ON log.rev = {table}.rev"
        f" WHERE {table}.id = +CAST(? AS TEXT)",
        flows=f"SELECT flow FROM {table} WHERE flow > ? AND {time} NOTNULL ORDER BY flow LIMIT 1",
        bad_flows=f"SELECT DISTINCT flow FROM {table} WHERE flow <= '' AND {time} NOTNULL"
        f" UNION ALL SELECT DISTINCT flow FROM {table} WHERE flow >= x'' AND {time} NOTNULL",
        other=f"SELECT 1 {due} BETWEEN {FIRST} AND ? LIMIT 1",
    )


SOURCES: dict[DueKind, _Source] = {
    "delay": _source("delay", "due", "delay.id, due, state_id, delay.rev, delay.body"),
    "stall": _source("latest", "stalls_at", "latest.id, stalls_at, latest.id, latest.rev, NULL"),
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
        self._last = LAST if query.everything else until
        self._bad_flows = [flow for (flow,) in connection.execute(self._source.bad_flows)]

    def read(self) -> DuePage:
        asked = self._query.flows
        flows = list(self._all_flows() if asked is None else dict.fromkeys(asked))
        all_flows = [*flows, *self._bad_flows]
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
        while row := self._connection.execute(self._source.flows, (flow,)).fetchone():
            (flow,) = row
            if not isinstance(flow, str):
                return
            yield flow

    def _places(self, flow: object) -> Iterator[tuple[float, bytes, object]]:
        """Return time, id and flow of the first of a flow, up to the one after the page."""
        after = self._query.after
        place = (FIRST, b"") if after is None else (to_micros(after[0]), bound(after[1]))
        limit = self._query.limit + 1
        for time, id in self._connection.execute(self._source.place, (flow, *place, limit)):
            yield time, bound(id), flow
            if time > self._last:
                return

    def _row(self, time: float, id: bytes, flow: object) -> Row:
        row: Row | None = self._connection.execute(self._source.whole, (id,)).fetchone()
        if row is None:
            return (id, time, *[None] * 8)
        # What has no flow fires nowhere, whatever its body says.
        return (*row[:4], *[None] * 6) if flow in self._bad_flows else row

    def _without_time(self, flows: Sequence[object]) -> Iterator[Row]:
        """Return what no order of times leads to."""
        if self._query.after is not None:
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
