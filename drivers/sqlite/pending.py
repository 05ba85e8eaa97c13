"""The rows that a batch of commits has still to write."""

import sqlite3
from collections.abc import Iterable

import attrs
from msgspec import json

from flowstate.codec import decode_annotations
from flowstate.drivers.sqlite.rows import Row, insert

__all__ = ["Pending", "array"]

LATEST = "latest (id, rev, status, labels, stalls_at, flow)"
UPDATE_LATEST = (
    "ON CONFLICT (id) DO UPDATE SET"
    " rev = excluded.rev, status = excluded.status, labels = excluded.labels,"
    " stalls_at = excluded.stalls_at, flow = excluded.flow, beat_at = NULL, note = NULL"
)
UPDATE_DATA = "ON CONFLICT (checksum) DO UPDATE SET stored_at = excluded.stored_at"
DELAY = "delay (id, state_id, rev, due, body, flow)"
Delay = tuple[Row, tuple[str, ...]]


def array(ids: Iterable[str]) -> str:
    """Return ids as JSON, for ``json_each``."""
    return json.encode(list(ids)).decode()


@attrs.define
class Pending:
    """Rows of one transaction.

    Attributes:
        stored: revision, labels and status of the states that the batch names, as stored.
        has_delays: whether any are stored.
        latest: id, rev, status, labels, time of stalling and flow, by id.
        log: all revisions.
        labels: of all revisions.
        data: by checksum.
        references: of revisions to data.
        delays: with the data that they refer to, by state.
        change: a row that was claimed or dropped already, and whether it is there.
    """

    stored: dict[str, tuple[int, str | None, str]]
    has_delays: bool
    latest: dict[str, Row] = attrs.field(init=False, factory=dict)
    log: list[Row] = attrs.field(init=False, factory=list)
    labels: list[Row] = attrs.field(init=False, factory=list)
    data: dict[str, Row] = attrs.field(init=False, factory=dict)
    references: list[Row] = attrs.field(init=False, factory=list)
    delays: dict[str, list[Delay]] = attrs.field(init=False, factory=dict)
    change: tuple[str, Row, bool] | None = attrs.field(init=False, default=None)

    def rev(self, id: str) -> int:
        """Return the latest revision of a state, as of the commits judged so far."""
        row = self.latest.get(id)
        if row is not None:
            return int(row[1])
        return self.stored[id][0] if id in self.stored else 0

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write all of it."""
        insert(connection, "log", self.log)
        insert(connection, LATEST, list(self.latest.values()), UPDATE_LATEST)
        if self.labels or any(labels for _, labels, _ in self.stored.values()):
            self._flush_labels(connection)
        insert(connection, "data", list(self.data.values()), UPDATE_DATA)
        insert(connection, "data_reference", self.references)
        if self.delays:
            self._flush_delays(connection)

    def _flush_labels(self, connection: sqlite3.Connection) -> None:
        insert(connection, "label", self.labels)
        outdated: list[Row] = []
        newest: list[Row] = []
        for id, rev, status, labels, *_ in self.latest.values():
            if id in self.stored:
                old_rev, old_labels, old_status = self.stored[id]
                outdated += _label_rows(old_labels, old_status, old_rev)
            newest += _label_rows(labels, status, rev)
        connection.executemany(
            "DELETE FROM latest_label WHERE key = ? AND value = ? AND status = ? AND rev = ?",
            outdated,
        )
        insert(connection, "latest_label", newest)

    def _flush_delays(self, connection: sqlite3.Connection) -> None:
        if self.has_delays:
            moved = [id for id in self.delays if id in self.latest]
            connection.execute(
                "DELETE FROM delay WHERE state_id IN (SELECT value FROM json_each(?))",
                (array(moved),),
            )
        kept = [kept for delays in self.delays.values() for kept in delays]
        if kept:
            rows = [row for row, _ in kept]
            insert(connection, DELAY, rows, "ON CONFLICT (id) DO NOTHING")
            references = [(row[0], checksum) for row, sums in kept for checksum in set(sums)]
            insert(connection, "delay_reference", references, "ON CONFLICT DO NOTHING")
            connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'delays'")

    def is_stored(self, connection: sqlite3.Connection) -> bool:
        """Return whether the transaction is in the store: all of it is, or nothing."""
        proof = self._find_proof()
        if proof is None:
            return True
        where, values, is_there = proof
        found = connection.execute(f"SELECT 1 FROM {where}", values).fetchone()
        return (found is not None) == is_there

    def _find_proof(self) -> tuple[str, Row, bool] | None:
        """Return a row, and whether it proves by being there, or by being gone, what happened."""
        if self.log:
            rev, token = self.log[-1][0], self.log[-1][6]
            return "log WHERE rev = ? AND token = ?", (rev, token), True
        for delays in self.delays.values():
            if delays:
                return "delay WHERE id = ?", delays[0][0][:1], True
        for checksum, stored_at, *_ in self.data.values():
            return "data WHERE checksum = ? AND stored_at = ?", (checksum, stored_at), True
        return self.change


def _label_rows(labels: str | None, status: str, rev: int) -> list[Row]:
    if labels is None:
        return []
    return [(key, value, status, rev) for key, value in decode_annotations(labels).items()]
