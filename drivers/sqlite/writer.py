"""Judges a batch of commits, within the transaction that stores what is not refused."""

import sqlite3
from collections.abc import Sequence
from datetime import datetime

from msgspec import json
from msgspec.structs import replace

from flowstate.codec import encode_annotations
from flowstate.driver import Claim, Drop, NewDelay, Verdict, Writes
from flowstate.drivers.kit.times import (
    LAST,
    from_micros,
    micros_of,
    stalling_micros,
    to_micros,
)
from flowstate.drivers.sqlite.liveness import postpone
from flowstate.drivers.sqlite.pending import Pending, array
from flowstate.errors import (
    ClaimLostError,
    DataNotFoundError,
    FlowstateError,
    RevisionMismatchError,
)
from flowstate.state import State

__all__ = ["Batch"]

MICROS = 1_000_000
CLAIM = "UPDATE delay SET due = ?, holder = ? WHERE id = ?"
DROP = "DELETE FROM delay WHERE id = ? AND holder = ?"


class Batch:
    """The commits of one transaction, judged one after the other.

    Attributes:
        rows: what they write.
    """

    def __init__(
        self, connection: sqlite3.Connection, batch: Sequence[Writes], now: datetime
    ) -> None:
        self._connection = connection
        head, last, has_delays = connection.execute(
            "SELECT max(rev), (SELECT committed_at FROM log ORDER BY rev DESC LIMIT 1),"
            " EXISTS (SELECT 1 FROM delay) FROM log"
        ).fetchone()
        self._head: int = head or 0
        self._now = self._stamp = to_micros(now)
        if isinstance(last, int) and last <= LAST:  # Unless it is damaged.
            self._stamp = max(self._now, last)
        self._committed_at = from_micros(self._stamp)
        self.rows = Pending(self._read_latest(batch), bool(has_delays))

    def _read_latest(self, batch: Sequence[Writes]) -> dict[str, tuple[int, str | None, str]]:
        """Return revision, labels and status of each state that the batch names."""
        ids = {state.id for writes in batch for state in writes.puts}
        ids.update([id for writes in batch for id, _ in writes.checks])
        if len(ids) == 1:
            which, parameter = "= ?", ids.pop()
        else:
            which, parameter = "IN (SELECT value FROM json_each(?))", array(ids)
        rows = self._connection.execute(
            f"SELECT id, rev, labels, status FROM latest WHERE id {which}", (parameter,)
        )
        return {row[0]: row[1:] for row in rows}

    def judge(self, writes: Writes) -> Verdict:
        """Return the verdict on one commit, and remember what it writes."""
        for state in writes.puts:
            if self.rows.rev(state.id) != state.rev:
                return self._mismatch(writes)
        if _has_more(writes):
            return self._judge_rest(writes)
        return self._put_all(writes, {})

    def _mismatch(self, writes: Writes) -> FlowstateError:
        expected = [*((state.id, state.rev) for state in writes.puts), *writes.checks]
        return RevisionMismatchError([id for id, rev in expected if self.rows.rev(id) != rev])

    def _judge_rest(self, writes: Writes) -> Verdict:
        """Judge writes whose puts are right, and that have more than these."""
        refusal = self._refusal(writes)
        if refusal is not None:
            return refusal
        dues = [self._due(delay) for delay in writes.delays]
        until: dict[int | None, int] = {}
        for delay, due in zip(writes.delays, dues, strict=True):
            until[delay.put] = min(due, until.get(delay.put, due))
        states = self._put_all(writes, until)
        self._store_data(writes)
        for claim in writes.claims:
            self._claim(claim)
        for drop in writes.drops:
            self._drop(drop)
        self._delay(writes, states, dues)
        return states

    def _refusal(self, writes: Writes) -> FlowstateError | None:
        if any(self.rows.rev(id) != rev for id, rev in writes.checks):
            return self._mismatch(writes)
        brought = {data.checksum for data in writes.data}
        missing = [c for c in writes.needs if c not in brought and not self._has_data(c)]
        if missing:
            return DataNotFoundError(f"data {', '.join(missing)} is no longer stored")
        lost = [claim.id for claim in writes.claims if not self._may_claim(claim)]
        return ClaimLostError(lost) if lost else None

    def _has_data(self, checksum: str) -> bool:
        if checksum in self.rows.data:
            return True
        found = self._connection.execute("SELECT 1 FROM data WHERE checksum = ?", (checksum,))
        return found.fetchone() is not None

    def _may_claim(self, claim: Claim) -> bool:
        row = self._connection.execute(
            "SELECT state_id FROM delay WHERE id = ? AND (due <= ? OR holder = ?)",
            (claim.id, self._now, claim.holder),
        ).fetchone()
        # A put of the batch drops the delays of its state, though only when rows are written.
        return row is not None and row[0] not in self.rows.latest

    def _put_all(self, writes: Writes, until: dict[int | None, int]) -> tuple[State, ...]:
        token, bodies = writes.token, writes.bodies
        return tuple(
            [
                self._put(state, bodies[place], token, until.get(place))
                for place, state in enumerate(writes.puts)
            ]
        )

    def _put(self, draft: State, body: str, token: str, until: int | None) -> State:
        rows = self.rows
        rev = self._head = self._head + 1
        id = draft.id
        status = draft.status._value_
        labels = None
        if draft.labels:
            labels = json.encode(draft.labels).decode()
            rows.labels += [(key, value, rev) for key, value in draft.labels.items()]
        if draft.data:
            rows.references += {(rev, ref.checksum) for ref in draft.data.values()}
        rows.log.append((rev, id, draft.rev, status, self._stamp, until, token, body))
        stalls = _stalls_at(draft, self._now if until is None else until)
        flow = "" if stalls is None else draft.transition.to
        rows.latest[id] = (id, rev, status, labels, stalls, flow)
        if rows.has_delays or rows.delays:
            rows.delays[id] = []
        delayed_until = None if until is None else from_micros(until)
        return replace(draft, rev=rev, committed_at=self._committed_at, delayed_until=delayed_until)

    def _store_data(self, writes: Writes) -> None:
        for data in writes.data:
            annotations = encode_annotations(data.annotations).decode()
            row = (data.checksum, self._head, annotations, data.blob)
            self.rows.data[data.checksum] = row

    def _claim(self, claim: Claim) -> None:
        until = min(self._now + round(claim.seconds * MICROS), LAST)
        self._connection.execute(CLAIM, (until, claim.holder, claim.id))
        where = "delay WHERE id = ? AND holder = ? AND due = ?"
        self.rows.change = where, (claim.id, claim.holder, until), True

    def _drop(self, drop: Drop) -> None:
        if self._connection.execute(DROP, (drop.id, drop.holder)).rowcount:
            self.rows.change = "delay WHERE id = ?", (drop.id,), False

    def _due(self, delay: NewDelay) -> int:
        if delay.due is not None:
            return to_micros(delay.due)
        return min(self._now + micros_of(delay.after), LAST)

    def _delay(self, writes: Writes, states: Sequence[State], dues: Sequence[int]) -> None:
        later: dict[str, tuple[State, int]] = {}
        for index, (delay, due) in enumerate(zip(writes.delays, dues, strict=True)):
            state = delay.state if delay.put is None else states[delay.put]
            row = (f"{writes.token}.{index}", state.id, state.rev, due, delay.body, delay.to)
            self.rows.delays.setdefault(state.id, []).append((row, delay.references))
            if delay.put is None:
                _, latest = later.get(state.id, (state, due))
                later[state.id] = state, max(due, latest)
        for state, due in later.values():
            self._postpone(state, due)

    def _postpone(self, delayed: State, due: int) -> None:
        """Let a revision that gets a delay by itself stall after that delay."""
        row = self.rows.latest.get(delayed.id)
        if row is None:
            postpone(self._connection, delayed, due)
        elif row[1] == delayed.rev and row[4] is not None:
            until = _stalls_at(delayed, due) or 0
            self.rows.latest[delayed.id] = (*row[:4], max(row[4], until), row[5])


def _stalls_at(state: State, start: int) -> int | None:
    after = stalling_micros(state)
    return None if after is None else min(start + after, LAST)


def _has_more(writes: Writes) -> bool:
    return bool(
        writes.checks
        or writes.data
        or writes.delays
        or writes.needs
        or writes.claims
        or writes.drops
    )
