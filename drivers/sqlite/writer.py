"""Judges a batch of commits and stores what is not refused, within one transaction."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from itertools import chain

from msgspec import json
from msgspec.structs import replace

from flowstate.codec import decode_annotations, encode_annotations
from flowstate.driver import Claim, Drop, NewDelay, Verdict, Writes
from flowstate.drivers.kit.times import LAST, from_micros, micros_of, stalling_micros, to_micros
from flowstate.drivers.sqlite.file import File, OutcomeUnknownError
from flowstate.drivers.sqlite.liveness import postpone
from flowstate.drivers.sqlite.rows import Row, insert
from flowstate.errors import (
    ClaimLostError,
    CommitUnknownError,
    DataNotFoundError,
    FlowstateError,
    RevisionMismatchError,
    StoreBusyError,
    StoreReadOnlyError,
)
from flowstate.state import State

__all__ = ["Batch", "commit"]

MICROS = 1_000_000
# The first row is of the store, the others are of states. One statement is faster than two.
STORED = (
    "SELECT max(rev), (SELECT committed_at FROM log ORDER BY rev DESC LIMIT 1),"
    " EXISTS (SELECT 1 FROM delay), NULL FROM log"
    " UNION ALL SELECT id, rev, labels, status FROM latest WHERE id "
)
ONE = STORED + "= ?"
SOME = STORED + "IN (SELECT value FROM json_each(?))"
LATEST = "latest (id, rev, labels, status, stalls_at, flow)"
UPDATE_LATEST = (
    "ON CONFLICT (id) DO UPDATE SET"
    " rev = excluded.rev, status = excluded.status, labels = excluded.labels,"
    " stalls_at = excluded.stalls_at, flow = excluded.flow, beat_at = NULL, note = NULL"
)
UPDATE_DATA = "ON CONFLICT (checksum) DO UPDATE SET stored_at = excluded.stored_at"
DELAY = "delay (id, state_id, rev, due, body, flow)"
CLAIM = "UPDATE delay SET due = ?, holder = ? WHERE id = ?"
DROP = "DELETE FROM delay WHERE id = ? AND holder = ?"


def commit(file: File, batch: Sequence[Writes], now: Callable[[], datetime]) -> list[Verdict]:
    """Judge and store a batch.

    When it fails its halves are tried: a commit that makes the whole batch fail, say by being
    too large for the disk, must not take the others with it.
    """

    def judge(connection: sqlite3.Connection) -> tuple[Batch, list[Verdict]]:
        rows = Batch(connection, batch, now())
        verdicts = [rows.judge(writes) for writes in batch]
        rows.flush()
        return rows, verdicts

    try:
        return file.write(judge, lambda judged, fresh: judged[0].is_stored(fresh))[1]
    except OutcomeUnknownError:
        return [CommitUnknownError(writes.token) for writes in batch]
    except FlowstateError as error:
        if len(batch) == 1 or isinstance(error, StoreBusyError | StoreReadOnlyError):
            return [error for _ in batch]
    middle = len(batch) // 2
    return [*commit(file, batch[:middle], now), *commit(file, batch[middle:], now)]


class Batch:
    """The commits of one transaction: judged in memory first, stored by :meth:`flush`."""

    def __init__(
        self, connection: sqlite3.Connection, batch: Sequence[Writes], now: datetime
    ) -> None:
        self._connection = connection
        (head, last, has_delays, _), *latest = self._read(batch)
        self._head: int = head or 0
        self._now = self._stamp = to_micros(now)
        if isinstance(last, int) and last <= LAST:  # Unless it is damaged.
            self._stamp = max(self._now, last)
        self._committed_at = from_micros(self._stamp)
        self._has_delays = bool(has_delays)
        self._stored: dict[str, Row] = {row[0]: row for row in latest}
        self._latest: dict[str, Row] = {}
        self._log: list[Row] = []
        self._labels: list[Row] = []
        self._data: dict[str, Row] = {}
        self._references: list[Row] = []
        self._delays: dict[str, list[tuple[Row, Iterable[str]]]] = {}
        self._moved: set[str] = set()  # Whose stored delays a put drops.
        # Of revisions that get delays by themselves: when the last of those is due.
        self._later: dict[tuple[str, int], int] = {}
        # Where there is a row, or none, once a delay, a claim or a drop is stored.
        self._change: tuple[str, Row, bool] = ("meta", (), True)

    def _read(self, batch: Sequence[Writes]) -> list[Row]:
        ids = {state.id for writes in batch for state in writes.puts}
        ids.update([id for writes in batch for id, _ in writes.checks])
        if len(ids) == 1:
            return self._connection.execute(ONE, (ids.pop(),)).fetchall()
        return self._connection.execute(SOME, (_array(ids),)).fetchall()

    def _rev(self, id: str) -> int:
        row = self._latest.get(id) or self._stored.get(id)
        rev: int = 0 if row is None else row[1]
        return rev

    # Judging

    def judge(self, writes: Writes) -> Verdict:
        """Return the verdict on one commit, and remember what it writes."""
        for state in writes.puts:
            if self._rev(state.id) != state.rev:
                return self._mismatch(writes)
        if writes.checks or writes.data or writes.delays:
            return self._judge_rest(writes)
        if writes.needs or writes.claims or writes.drops:
            return self._judge_rest(writes)
        put, token = self._put, writes.token
        drafts = zip(writes.puts, writes.bodies, strict=True)
        return tuple([put(draft, body, token, None) for draft, body in drafts])

    def _mismatch(self, writes: Writes) -> FlowstateError:
        expected = [*((state.id, state.rev) for state in writes.puts), *writes.checks]
        return RevisionMismatchError([id for id, rev in expected if self._rev(id) != rev])

    def _judge_rest(self, writes: Writes) -> Verdict:
        refusal = self._refusal(writes)
        if refusal is not None:
            return refusal
        dues = [self._due(delay) for delay in writes.delays]
        until: dict[int | None, int] = {}
        for delay, due in zip(writes.delays, dues, strict=True):
            until[delay.put] = min(due, until.get(delay.put, due))
        drafts = enumerate(zip(writes.puts, writes.bodies, strict=True))
        states = [self._put(*draft, writes.token, until.get(n)) for n, draft in drafts]
        for data in writes.data:
            annotations = encode_annotations(data.annotations).decode()
            self._data[data.checksum] = (data.checksum, self._head, annotations, data.blob)
        for claim in writes.claims:
            self._claim(claim)
        for drop in writes.drops:
            self._drop(drop)
        self._delay(writes, states, dues)
        return tuple(states)

    def _refusal(self, writes: Writes) -> FlowstateError | None:
        if any(self._rev(id) != rev for id, rev in writes.checks):
            return self._mismatch(writes)
        brought = {data.checksum for data in writes.data}
        missing = [c for c in writes.needs if c not in brought and not self._has_data(c)]
        if missing:
            return DataNotFoundError(f"data {', '.join(missing)} is no longer stored")
        if writes.claims or writes.drops:
            self._flush_delays()
        lost = [claim.id for claim in writes.claims if not self._may_claim(claim)]
        return ClaimLostError(lost) if lost else None

    def _has_data(self, checksum: str) -> bool:
        if checksum in self._data:
            return True
        found = self._connection.execute("SELECT 1 FROM data WHERE checksum = ?", (checksum,))
        return found.fetchone() is not None

    def _may_claim(self, claim: Claim) -> bool:
        found = self._connection.execute(
            "SELECT 1 FROM delay WHERE id = ? AND (due <= ? OR holder = ?)",
            (claim.id, self._now, claim.holder),
        )
        return found.fetchone() is not None

    def _put(self, draft: State, body: str, token: str, until: int | None) -> State:
        rev = self._head = self._head + 1
        id = draft.id
        status = draft.status._value_
        labels = None
        if draft.labels:
            labels = json.encode(draft.labels).decode()
            self._labels += [(key, value, rev) for key, value in draft.labels.items()]
        if draft.data:
            self._references += {(rev, ref.checksum) for ref in draft.data.values()}
        self._log.append((rev, id, draft.rev, status, self._stamp, until, token, body))
        stalls = _stalls_at(draft, self._now if until is None else until)
        flow = "" if stalls is None else draft.transition.to
        self._latest[id] = (id, rev, labels, status, stalls, flow)
        if self._has_delays or self._delays:
            self._delays.pop(id, None)
            self._moved.add(id)
        delayed_until = None if until is None else from_micros(until)
        return replace(draft, rev=rev, committed_at=self._committed_at, delayed_until=delayed_until)

    def _claim(self, claim: Claim) -> None:
        until = min(self._now + round(claim.seconds * MICROS), LAST)
        self._connection.execute(CLAIM, (until, claim.holder, claim.id))
        where = "delay WHERE id = ? AND holder = ? AND due = ?"
        self._change = where, (claim.id, claim.holder, until), True

    def _drop(self, drop: Drop) -> None:
        if self._connection.execute(DROP, (drop.id, drop.holder)).rowcount:
            self._change = "delay WHERE id = ?", (drop.id,), False

    def _due(self, delay: NewDelay) -> int:
        if delay.due is not None:
            return to_micros(delay.due)
        return min(self._now + micros_of(delay.after), LAST)

    def _delay(self, writes: Writes, states: Sequence[State], dues: Sequence[int]) -> None:
        for index, (delay, due) in enumerate(zip(writes.delays, dues, strict=True)):
            state = delay.state if delay.put is None else states[delay.put]
            row = (f"{writes.token}.{index}", state.id, state.rev, due, delay.body, delay.to)
            self._delays.setdefault(state.id, []).append((row, set(delay.references)))
            if delay.put is None:
                place = state.id, state.rev
                self._later[place] = max(due, self._later.get(place, due))

    # Storing

    def flush(self) -> None:
        """Write what was not refused."""
        connection = self._connection
        insert(connection, "log", self._log)
        insert(connection, LATEST, list(self._latest.values()), UPDATE_LATEST)
        if self._labels or any(labels for _, _, labels, _ in self._stored.values()):
            self._flush_labels()
        if self._data or self._references:
            insert(connection, "data", list(self._data.values()), UPDATE_DATA)
            insert(connection, "data_reference", self._references)
        self._flush_delays()
        for place, due in self._later.items():
            postpone(connection, *place, due)

    def _flush_labels(self) -> None:
        insert(self._connection, "label", self._labels)
        outdated = [self._stored[id] for id in self._latest if id in self._stored]
        self._connection.executemany(
            "DELETE FROM latest_label WHERE key = ? AND value = ? AND status = ? AND rev = ?",
            _label_rows(outdated),
        )
        insert(self._connection, "latest_label", _label_rows(self._latest.values()))

    def _flush_delays(self) -> None:
        """Write delays, also before a commit that claims: it may claim one of the same batch."""
        if self._moved and self._has_delays:
            self._connection.execute(
                "DELETE FROM delay WHERE state_id IN (SELECT value FROM json_each(?))",
                (_array(self._moved),),
            )
        self._moved.clear()
        kept = [*chain.from_iterable(self._delays.values())]
        if kept:
            again = "ON CONFLICT DO NOTHING"
            insert(self._connection, DELAY, [row for row, _ in kept], again)
            references = [(row[0], checksum) for row, sums in kept for checksum in sums]
            insert(self._connection, "delay_reference", references, again)
            self._connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'delays'")
            self._change = "delay WHERE id = ?", kept[0][0][:1], True
            self._delays.clear()
            self._has_delays = True

    def is_stored(self, connection: sqlite3.Connection) -> bool:
        """Return whether the transaction is in the store: all of it is, or nothing."""
        where, values, is_there = self._proof()
        found = connection.execute(f"SELECT 1 FROM {where}", values).fetchone()
        return (found is not None) == is_there

    def _proof(self) -> tuple[str, Row, bool]:
        """Return where a row proves what happened: by being there, or by being gone."""
        if self._log:
            rev, token = self._log[-1][0], self._log[-1][6]
            return "log WHERE rev = ? AND token = ?", (rev, token), True
        for checksum, stored_at, *_ in self._data.values():
            return "data WHERE checksum = ? AND stored_at = ?", (checksum, stored_at), True
        return self._change


def _array(ids: Iterable[str]) -> str:
    return json.encode(list(ids)).decode()


def _stalls_at(state: State, start: int) -> int | None:
    after = stalling_micros(state)
    return None if after is None else min(start + after, LAST)


def _label_rows(latest: Iterable[Row]) -> list[Row]:
    return [
        (*pair, status, rev)
        for _, rev, labels, status, *_ in latest
        if labels is not None
        for pair in decode_annotations(labels).items()
    ]
