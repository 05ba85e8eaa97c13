"""Judges a batch of commits and stores what is not refused, within one transaction."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from msgspec import Raw, json
from msgspec.structs import replace

from flowstate.codec import (
    ABSENT,
    DelayBody,
    decode_annotations,
    decode_state,
    encode_annotations,
    encode_body,
    encode_delay,
    encode_state,
)
from flowstate.data import Data
from flowstate.driver import NewDelay, Verdict, Writes
from flowstate.drivers.sqlite.rows import STATE, insert, state_of
from flowstate.drivers.sqlite.stalling import postpone, stalls_at
from flowstate.drivers.sqlite.times import LAST, MICROSECOND, from_micros, to_micros
from flowstate.errors import CodecError, DataNotFoundError, RevisionMismatchError
from flowstate.state import State

__all__ = ["Batch"]

Row = tuple[Any, ...]
LATEST = "latest (id, rev, status, labels, stalls_at)"
UPDATE_LATEST = (
    "ON CONFLICT (id) DO UPDATE SET"
    " rev = excluded.rev, status = excluded.status, labels = excluded.labels,"
    " stalls_at = excluded.stalls_at, beat_at = NULL, note = NULL"
)
UPDATE_DATA = "ON CONFLICT (checksum) DO UPDATE SET stored_at = excluded.stored_at"
# What took the place of a revision: right after it, where a state that changes often has it, or
# else from the state's latest revision backwards.
NEXT = "SELECT rev, token FROM log WHERE rev > ? AND rev <= ? AND id = ? ORDER BY rev LIMIT 1"
NEAR = 64
SUCCESSOR = (
    "WITH RECURSIVE later (rev, previous, token) AS ("
    "SELECT rev, previous, token FROM latest JOIN log USING (rev)"
    " WHERE latest.id = ? AND rev > ?"
    " UNION ALL SELECT log.rev, log.previous, log.token FROM later JOIN log"
    " ON log.rev = later.previous WHERE later.previous > ?)"
    " SELECT min(rev), token FROM later"
)


class Batch:
    """The commits of one transaction: judged in memory first, stored by :meth:`flush`.

    Attributes:
        head: the revision that the last commit of the batch got.
    """

    def __init__(
        self, connection: sqlite3.Connection, batch: Sequence[Writes], now: datetime
    ) -> None:
        self._connection = connection
        head, last, has_delays = connection.execute(
            "SELECT max(rev), (SELECT committed_at FROM log ORDER BY rev DESC LIMIT 1),"
            " EXISTS (SELECT 1 FROM delay) FROM log"
        ).fetchone()
        self.head: int = head or 0
        self._now = to_micros(now)
        if not isinstance(last, int | None):
            raise CodecError(f"time of revision {head}: {last!r}")
        self._stamp = max(self._now, last or self._now)
        self._committed_at = from_micros(self._stamp)
        self._has_delays = bool(has_delays)
        self._stored = self._read_latest(batch)
        self._latest: dict[str, Row] = {}
        self._log: list[Row] = []
        self._labels: list[Row] = []
        self._data: dict[str, Row] = {}
        self._references: list[Row] = []
        self._delays: dict[str, list[Row]] = {}
        self._verdicts: dict[str, Verdict] = {}

    def _read_latest(self, batch: Sequence[Writes]) -> dict[str, tuple[int, str | None]]:
        """Return revision and labels of every state that the batch names and the store has."""
        ids = {state.id for writes in batch for state in writes.puts}
        ids.update([id for writes in batch for id, _ in writes.checks])
        if len(ids) == 1:
            which, parameter = "= ?", ids.pop()
        else:
            which = "IN (SELECT value FROM json_each(?))"
            parameter = json.encode(list(ids)).decode()
        rows = self._connection.execute(
            f"SELECT id, rev, labels FROM latest WHERE id {which}", (parameter,)
        )
        return {id: (rev, labels) for id, rev, labels in rows}

    def _rev(self, id: str) -> int:
        row = self._latest.get(id)
        if row is not None:
            return int(row[1])
        return self._stored.get(id, (0, None))[0]

    def judge(self, writes: Writes) -> Verdict:
        """Return the verdict on one commit, and remember what it writes."""
        verdict = self._verdicts.get(writes.token)
        if verdict is None:
            verdict = self._verdicts[writes.token] = self._judge(writes)
        return verdict

    def _judge(self, writes: Writes) -> Verdict:
        for state in writes.puts:
            if self._rev(state.id) != state.rev:
                return self._mismatch(writes)
        if writes.checks or writes.data or writes.delays or writes.needs:
            return self._judge_rest(writes)
        return tuple([self._put(state, writes.token, None) for state in writes.puts])

    def _mismatch(self, writes: Writes) -> Verdict:
        expected = [*((state.id, state.rev) for state in writes.puts), *writes.checks]
        mismatched = [id for id, rev in expected if self._rev(id) != rev]
        return self.replayed(writes) or RevisionMismatchError(mismatched)

    def _judge_rest(self, writes: Writes) -> Verdict:
        """Judge writes that have more than puts."""
        if any(self._rev(id) != rev for id, rev in writes.checks):
            return self._mismatch(writes)
        brought = {data.checksum for data in writes.data}
        missing = [c for c in writes.needs if c not in brought and not self._has_data(c)]
        if missing:
            return DataNotFoundError(f"data {', '.join(missing)} is no longer stored")
        for data in writes.data:
            self._store_data(data)
        dues = [self._due(delay) for delay in writes.delays]
        earliest: dict[int | None, int] = {}
        for delay, due in zip(writes.delays, dues, strict=True):
            earliest[delay.put] = min(due, earliest.get(delay.put, due))
        states = tuple(
            [
                self._put(state, writes.token, earliest.get(place))
                for place, state in enumerate(writes.puts)
            ]
        )
        for index, (delay, due) in enumerate(zip(writes.delays, dues, strict=True)):
            state = delay.state if delay.put is None else states[delay.put]
            id = f"{writes.token}.{index}"
            if delay.put is None and not self._has_delay(id):
                self._postpone(state, due)
            self._delay(id, delay, state, due)
        return states

    def _put(self, draft: State, token: str, until: int | None) -> State:
        rev = self.head = self.head + 1
        id = draft.id
        status = draft.status._value_
        labels = None
        if draft.labels:
            labels = json.encode(draft.labels).decode()
            self._labels += [(key, value, rev) for key, value in draft.labels.items()]
        if draft.data:
            self._references += {(rev, ref.checksum) for ref in draft.data.values()}
        row = (rev, id, draft.rev, status, self._stamp, until, token, encode_body(draft))
        self._log.append(row)
        stalls = stalls_at(draft, self._stamp if until is None else until)
        self._latest[id] = (id, rev, status, labels, stalls)
        if self._has_delays or self._delays:
            self._delays[id] = []
        delayed_until = None if until is None else from_micros(until)
        return replace(draft, rev=rev, committed_at=self._committed_at, delayed_until=delayed_until)

    def _due(self, delay: NewDelay) -> int:
        if delay.due is not None:
            return to_micros(delay.due)
        after = 0 if delay.after is None else delay.after // MICROSECOND
        return min(self._now + after, LAST)

    def _delay(self, id: str, delay: NewDelay, state: State, due: int) -> None:
        own = ABSENT if delay.put is not None else Raw(encode_state(state))
        body = encode_delay(DelayBody(delay.to, delay.annotations, delay.commit, own)).decode()
        self._delays.setdefault(state.id, []).append((id, state.id, state.rev, due, body))

    def _postpone(self, delayed: State, due: int) -> None:
        """Let a revision that gets a delay by itself stall after that delay."""
        row = self._latest.get(delayed.id)
        if row is None:
            postpone(self._connection, delayed, due)
        elif row[1] == delayed.rev and row[4] is not None:
            body = self._log[delayed.rev - self._log[0][0]][7]
            until = stalls_at(decode_state(body), due) or 0
            self._latest[delayed.id] = (*row[:4], max(row[4], until))

    def _has_delay(self, id: str) -> bool:
        found = self._connection.execute("SELECT 1 FROM delay WHERE id = ?", (id,))
        return found.fetchone() is not None

    def _store_data(self, data: Data) -> None:
        annotations = encode_annotations(data.annotations).decode()
        self._data[data.checksum] = (data.checksum, self.head, annotations, data.blob)

    def _has_data(self, checksum: str) -> bool:
        if checksum in self._data:
            return True
        found = self._connection.execute("SELECT 1 FROM data WHERE checksum = ?", (checksum,))
        return found.fetchone() is not None

    def replayed(self, writes: Writes) -> Verdict | None:
        """Return the verdict that this very commit got before, if it was committed."""
        if not writes.puts:
            return None
        first = writes.puts[0]
        near = (first.rev, first.rev + NEAR, first.id)
        found = self._connection.execute(NEXT, near).fetchone()
        if found is None:
            later = (first.id, first.rev, first.rev)
            found = self._connection.execute(SUCCESSOR, later).fetchone()
        if found is None or found[1] != writes.token:
            return None
        rows = self._connection.execute(
            f"SELECT {STATE} FROM log WHERE rev >= ? AND rev < ? AND token = ? ORDER BY rev",
            (found[0], found[0] + len(writes.puts), writes.token),
        ).fetchall()
        return tuple([state_of(row) for row in rows]) if len(rows) == len(writes.puts) else None

    def flush(self) -> None:
        """Write everything that was not refused."""
        insert(self._connection, "log", self._log)
        insert(self._connection, LATEST, list(self._latest.values()), UPDATE_LATEST)
        if self._labels or any(labels for _, labels in self._stored.values()):
            self._flush_labels()
        insert(self._connection, "data", list(self._data.values()), UPDATE_DATA)
        insert(self._connection, "data_reference", self._references)
        if self._delays:
            self._flush_delays()

    def is_stored(self, connection: sqlite3.Connection) -> bool:
        """Return whether what :meth:`flush` wrote is in the store; all of it is, or nothing."""
        if self._log:
            rev, token = self._log[-1][0], self._log[-1][6]
            proofs = [("log WHERE rev = ? AND token = ?", (rev, token))]
        else:
            delays = [row[:1] for rows in self._delays.values() for row in rows]
            proofs = [("delay WHERE id = ?", row) for row in delays]
            stored = [row[:2] for row in self._data.values()]
            proofs += [("data WHERE checksum = ? AND stored_at = ?", row) for row in stored]
        return all(
            connection.execute(f"SELECT 1 FROM {proof}", values).fetchone()
            for proof, values in proofs
        )

    def _flush_labels(self) -> None:
        insert(self._connection, "label", self._labels)
        outdated: list[Row] = []
        newest: list[Row] = []
        for id, rev, _, labels, _ in self._latest.values():
            old_rev, old_labels = self._stored.get(id, (0, None))
            if old_labels is not None:
                outdated += [(*pair, old_rev) for pair in _pairs(old_labels)]
            if labels is not None:
                newest += [(*pair, rev) for pair in _pairs(labels)]
        if outdated:
            self._connection.executemany(
                "DELETE FROM latest_label WHERE key = ? AND value = ? AND rev = ?", outdated
            )
        insert(self._connection, "latest_label", newest)

    def _flush_delays(self) -> None:
        if self._has_delays:
            self._connection.execute(
                "DELETE FROM delay WHERE state_id IN (SELECT value FROM json_each(?))",
                (json.encode([id for id in self._delays if id in self._latest]).decode(),),
            )
        rows = [row for delays in self._delays.values() for row in delays]
        insert(self._connection, "delay", rows, "ON CONFLICT (id) DO NOTHING")


def _pairs(labels: str) -> list[tuple[str, str]]:
    return list(decode_annotations(labels).items())
