"""Judges a batch of commits and stores what is not refused, within one transaction."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime

from msgspec import json
from msgspec.structs import replace

from flowstate.codec import decode_annotations, decode_state, encode_annotations
from flowstate.driver import Verdict, Writes
from flowstate.drivers.kit.times import FIRST, LAST, from_micros, stalling_micros, to_micros
from flowstate.drivers.sqlite.delays import Delays, Proof
from flowstate.drivers.sqlite.file import File, OutcomeUnknownError
from flowstate.drivers.sqlite.rows import FORGOTTEN, Row, insert
from flowstate.errors import (
    ClaimLostError,
    CodecError,
    CommitUnknownError,
    DataNotFoundError,
    FlowstateError,
    RevisionMismatchError,
    StoreBusyError,
    StoreReadOnlyError,
)
from flowstate.state import State, Status

__all__ = ["Batch", "commit"]

ENDED = Status.ENDED  # Enums look their members up slowly.
# The first row is of the store, the others are of states. One statement is faster than two.
STORED = (
    "SELECT max(rev), (SELECT committed_at FROM log ORDER BY rev DESC LIMIT 1),"
    " EXISTS (SELECT 1 FROM delay), NULL FROM log"
    " UNION ALL SELECT id, rev, labels, status FROM latest WHERE id "
)
ONE = STORED + "= ?"
SOME = STORED + "IN (SELECT value FROM json_each(?))"
LATEST = "latest (id, rev, labels, status, due, flow)"
UPDATE_LATEST = (
    "ON CONFLICT (id) DO UPDATE SET"
    " rev = excluded.rev, status = excluded.status, labels = excluded.labels,"
    " due = excluded.due, flow = excluded.flow, beat_at = NULL, note = NULL"
)
UPDATE_DATA = "ON CONFLICT (checksum) DO UPDATE SET stored_at = excluded.stored_at"


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
        # Nothing has to know of delays and timers where there are none.
        self._delays: Delays | None = None
        if has_delays:
            self._delays = Delays(connection, self._now, are_stored=True)
        self._stored: dict[str, Row] = {row[0]: row for row in latest}
        self._latest: dict[str, Row] = {}
        self._log: list[Row] = []
        self._labels: list[Row] = []
        self._data: dict[str, Row] = {}
        self._references: list[Row] = []

    def _read(self, batch: Sequence[Writes]) -> list[Row]:
        if len(batch) == 1 and len(batch[0].puts) == 1 and not batch[0].checks:
            return self._connection.execute(ONE, (batch[0].puts[0].id,)).fetchall()
        ids = {state.id for writes in batch for state in writes.puts}
        ids.update([id for writes in batch for id, _ in writes.checks])
        return self._connection.execute(SOME, (_array(ids),)).fetchall()

    def _rev(self, id: str) -> int:
        row = self._latest.get(id) or self._stored.get(id)
        rev: int = 0 if row is None or row[3] == FORGOTTEN else row[1]
        return rev

    # Judging

    def judge(self, writes: Writes) -> Verdict:
        """Return the verdict on one commit, and remember what it writes."""
        for state in writes.puts:
            if self._rev(state.id) != state.rev:
                return self._mismatch(writes)
        if writes.checks or writes.data or writes.needs or writes.delays or writes.timers:
            return self._judge_rest(writes)
        if writes.claims or writes.drops or writes.forgets or writes.keeps:
            return self._judge_rest(writes)
        put, token = self._put, writes.token
        if len(writes.puts) == 1:  # As most commits have: a twentieth of their time less.
            return (put(writes.puts[0], writes.bodies[0], token, None),)
        drafts = zip(writes.puts, writes.bodies, strict=True)
        return tuple([put(draft, body, token, None) for draft, body in drafts])

    def _mismatch(self, writes: Writes) -> FlowstateError:
        expected = [*((state.id, state.rev) for state in writes.puts), *writes.checks]
        return RevisionMismatchError([id for id, rev in expected if self._rev(id) != rev])

    def _judge_rest(self, writes: Writes) -> Verdict:
        """Judge writes that have more than puts."""
        refusal = self._refusal(writes)
        if refusal is not None:
            return refusal
        delays = self._with_delays()
        dues = delays.dues(writes)
        until: dict[int | None, int] = {}
        for delay, due in zip(writes.delays, dues, strict=True):
            until[delay.put] = min(due, until.get(delay.put, due))
        drafts = enumerate(zip(writes.puts, writes.bodies, strict=True))
        states = [
            self._keep(*draft, writes.token)
            if n in writes.keeps
            else self._put(*draft, writes.token, until.get(n))
            for n, draft in drafts
        ]
        for index in writes.forgets:
            self._forget(states[index])
        for data in writes.data:
            annotations = encode_annotations(data.annotations).decode()
            self._data[data.checksum] = (data.checksum, self._head, annotations, data.blob)
        for claim in writes.claims:
            delays.claim(claim)
        for drop in writes.drops:
            delays.drop(drop)
        delays.add(writes, states, dues)
        return tuple(states)

    def _with_delays(self) -> Delays:
        if self._delays is None:
            self._delays = Delays(self._connection, self._now, are_stored=False)
        return self._delays

    def _refusal(self, writes: Writes) -> FlowstateError | None:
        if any(self._rev(id) != rev for id, rev in writes.checks):
            return self._mismatch(writes)
        brought = {data.checksum for data in writes.data}
        missing = [c for c in writes.needs if c not in brought and not self._has_data(c)]
        if missing:
            return DataNotFoundError(f"data {', '.join(missing)} is no longer stored")
        if not writes.claims and not writes.drops:
            return None
        delays = self._with_delays()
        delays.flush()  # They may be of delays of the same batch.
        lost = [claim.id for claim in writes.claims if not delays.may_claim(claim)]
        return ClaimLostError(lost) if lost else None

    def _has_data(self, checksum: str) -> bool:
        if checksum in self._data:
            return True
        found = self._connection.execute("SELECT 1 FROM data WHERE checksum = ?", (checksum,))
        return found.fetchone() is not None

    def _keep(self, draft: State, body: str, token: str) -> State:
        """Put a state that keeps its delays, and stalls no later than before."""
        until, before = draft.delayed_until, self._due(draft.id, draft.rev)
        micros = None if until is None else to_micros(until)
        state = self._put(draft, body, token, micros, drops=False)
        *row, due, flow = self._latest[draft.id]
        self._latest[draft.id] = (*row, _earlier(before, due), flow)
        if self._delays is not None:
            self._delays.move(draft.id, state.rev)
        return state

    def _due(self, id: str, rev: int) -> object:
        """Return when the latest revision of a state is due, as the batch has made it so far."""
        if id in self._latest:
            due = self._latest[id][4]
        else:
            found = self._connection.execute("SELECT due FROM latest WHERE id = ?", (id,))
            (due,) = found.fetchone()
        last = None if self._delays is None else self._delays.last_by_itself(id, rev)
        if last is None or type(due) is not int or due == FIRST:
            return due
        return max(due, min(last + self._stalls_after(rev), LAST))

    def _stalls_after(self, rev: int) -> int:
        body = next((row[7] for row in reversed(self._log) if row[0] == rev), None)
        if body is None:
            found = self._connection.execute("SELECT body FROM log WHERE rev = ?", (rev,))
            (body,) = found.fetchone()
        with suppress(CodecError):
            return stalling_micros(decode_state(body)) or 0
        return 0

    def _put(
        self, draft: State, body: str, token: str, until: int | None, *, drops: bool = True
    ) -> State:
        rev = self._head = self._head + 1
        id = draft.id
        status = draft.status._value_
        labels = None
        if draft.labels:
            labels = json.encode(draft.labels).decode()
            self._labels += [(key, value, rev) for key, value in draft.labels.items()]
        if draft.data:
            self._references += {(rev, ref.checksum) for ref in draft.data.values()}
        previous = draft.rev or self._forgotten_rev(id)
        self._log.append((rev, id, previous, status, self._stamp, until, token, body))
        start = self._now if until is None else until
        self._latest[id] = (id, rev, labels, status, *_due_in(draft, start))
        if self._delays is not None and drops:
            self._delays.drop_of(id)
        delayed_until = None if until is None else from_micros(until)
        return replace(draft, rev=rev, committed_at=self._committed_at, delayed_until=delayed_until)

    def _forgotten_rev(self, id: str) -> int:
        """Return the last revision of a state that has no latest one; 0 if it never had any."""
        row = self._latest.get(id) or self._stored.get(id)
        rev: int = 0 if row is None else row[1]
        return rev

    def _forget(self, state: State) -> None:
        """Let a revision be the last one of its state."""
        self._latest[state.id] = (state.id, state.rev, None, FORGOTTEN, None, "")

    # Storing

    def flush(self) -> None:
        """Write what was not refused."""
        connection = self._connection
        insert(connection, "log", self._log)
        insert(connection, LATEST, list(self._latest.values()), UPDATE_LATEST)
        if self._labels or any(row[2] for row in self._stored.values()):
            self._flush_labels()
        if self._data or self._references:
            insert(connection, "data", list(self._data.values()), UPDATE_DATA)
            insert(connection, "data_reference", self._references)
        if self._delays is not None:
            self._delays.finish()

    def _flush_labels(self) -> None:
        insert(self._connection, "label", self._labels)
        outdated = [self._stored[id] for id in self._latest if id in self._stored]
        self._connection.executemany(
            "DELETE FROM latest_label WHERE key = ? AND value = ? AND status = ? AND rev = ?",
            _label_rows(outdated),
        )
        insert(self._connection, "latest_label", _label_rows(self._latest.values()))

    def is_stored(self, connection: sqlite3.Connection) -> bool:
        """Return whether the transaction is in the store: all of it is, or nothing."""
        where, values, is_there = self._proof()
        found = connection.execute(f"SELECT 1 FROM {where}", values).fetchone()
        return (found is not None) == is_there

    def _proof(self) -> Proof:
        if self._log:
            rev, token = self._log[-1][0], self._log[-1][6]
            return "log WHERE rev = ? AND token = ?", (rev, token), True
        for checksum, stored_at, *_ in self._data.values():
            return "data WHERE checksum = ? AND stored_at = ?", (checksum, stored_at), True
        proof = None if self._delays is None else self._delays.proof
        return proof or ("meta", (), True)


def _array(ids: Iterable[str]) -> str:
    return json.encode(list(ids)).decode()


def _due_in(state: State, start: int) -> tuple[int | None, str]:
    """Return when a latest revision stalls that begins at ``start``, and in which flow."""
    if state.status is ENDED:
        return None, ""
    after = stalling_micros(state)
    return (FIRST if after is None else min(start + after, LAST)), state.transition.to


def _earlier(before: object, due: int | None) -> int | None:
    """Return the earlier one of two times; what never stalls or is damaged has none."""
    if due is None or due == FIRST or type(before) is not int or before <= FIRST:
        return due
    return min(before, due)


def _label_rows(latest: Iterable[Row]) -> list[Row]:
    return [
        (*pair, status, rev)
        for _, rev, labels, status, *_ in latest
        if labels is not None
        for pair in decode_annotations(labels).items()
    ]
