"""The delays and timers that one transaction stores, claims and drops."""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain

from msgspec import json

from flowstate.driver import Claim, Drop, Writes
from flowstate.drivers.kit.records import TIMER_REV
from flowstate.drivers.kit.times import due_micros, later_micros
from flowstate.drivers.sqlite.liveness import postpone
from flowstate.drivers.sqlite.rows import Row, insert
from flowstate.state import State

__all__ = ["Delays", "Proof"]

Proof = tuple[str, Row, bool]
"""Where there is a row, or there is none, once a transaction is stored."""

DELAY = "delay (id, state_id, rev, due, body, flow)"
AS_BEFORE = "ON CONFLICT DO NOTHING"
INSTEAD = (
    "ON CONFLICT (id) DO UPDATE SET state_id = excluded.state_id, rev = excluded.rev,"
    " due = excluded.due, body = excluded.body, flow = excluded.flow, holder = ''"
)
CLAIM = "UPDATE delay SET due = ?, holder = ? WHERE id = ?"
DROP = "DELETE FROM delay WHERE id = ? AND holder = ?"
DROP_ALL = (
    f"DELETE FROM delay WHERE state_id IN (SELECT value FROM json_each(?)) AND rev <> {TIMER_REV}"
)
# Those that were stored by themselves have a state of their own.
DROP_OWN = (
    f"DELETE FROM delay WHERE state_id = ? AND rev <> {TIMER_REV} AND CASE"
    " WHEN typeof(body) = 'text' AND json_valid(body) THEN json_type(body, '$.state') END NOTNULL"
)
MOVE = f"UPDATE delay SET rev = ? WHERE state_id = ? AND rev <> {TIMER_REV}"


class Delays:
    """Claims and drops are written at once; what else there is, by :meth:`flush`.

    Attributes:
        proof: of the last change.
    """

    def __init__(self, connection: sqlite3.Connection, now: int, *, are_stored: bool) -> None:
        self.proof: Proof | None = None
        self._connection = connection
        self._now = now
        self._are_stored = are_stored
        # By state: each with what it refers to, and whether it has a state of its own.
        self._new: dict[str, list[tuple[Row, Iterable[str], bool]]] = {}
        self._timers: dict[str, Row] = {}
        self._moved: set[str] = set()  # States whose stored delays a put drops.
        self._kept: dict[str, int] = {}  # States whose stored delays have another revision now.
        # Of revisions that get delays by themselves: when the last of those is due.
        self._later: dict[tuple[str, int], int] = {}

    def dues(self, writes: Writes) -> list[int]:
        """Return when each delay of a commit is due."""
        return [due_micros(delay, self._now) for delay in writes.delays]

    def drop_of(self, id: str) -> None:
        """Drop the delays of a state that is put, and leave its timers."""
        self._new.pop(id, None)
        self._kept.pop(id, None)
        if self._are_stored:
            self._moved.add(id)

    def move(self, id: str, rev: int) -> None:
        """Let the delays that were committed with a state belong to another revision."""
        new = [each for each in self._new.pop(id, ()) if not each[2]]
        if new:
            rows = [((*row[:2], rev, *row[3:]), sums, False) for row, sums, _ in new]
            self._new[id] = rows
        if self._are_stored and id not in self._moved:
            self._kept[id] = rev

    def add(self, writes: Writes, states: Sequence[State], dues: Sequence[int]) -> None:
        """Remember the delays and timers of a commit whose puts became ``states``."""
        for index, (delay, due) in enumerate(zip(writes.delays, dues, strict=True)):
            state = delay.state if delay.put is None else states[delay.put]
            row = (writes.delay_id(index), state.id, state.rev, due, delay.body, delay.to)
            is_own = delay.put is None
            self._new.setdefault(state.id, []).append((row, set(delay.references), is_own))
            if is_own:
                place = state.id, state.rev
                self._later[place] = max(due, self._later.get(place, due))
        for timer in writes.timers:
            due, id = due_micros(timer, self._now), states[timer.put].id
            self._timers[timer.id] = (timer.id, id, TIMER_REV, due, timer.body, timer.to)

    def last_by_itself(self, id: str, rev: int) -> int | None:
        """Return when the last delay of the batch is due that a revision got by itself."""
        return self._later.get((id, rev))

    def may_claim(self, claim: Claim) -> bool:
        """Return whether a claim is granted; what was to be stored before it must be flushed."""
        found = self._connection.execute(
            "SELECT 1 FROM delay WHERE id = ? AND (due <= ? OR holder = ?)",
            (claim.id, self._now, claim.holder),
        )
        return found.fetchone() is not None

    def claim(self, claim: Claim) -> None:
        """Reserve a delay or a timer for its holder."""
        until = later_micros(self._now, claim.seconds)
        self._connection.execute(CLAIM, (until, claim.holder, claim.id))
        where = "delay WHERE id = ? AND holder = ? AND due = ?"
        self.proof = where, (claim.id, claim.holder, until), True

    def drop(self, drop: Drop) -> None:
        """Remove a delay or a timer, if it belongs to the holder."""
        if self._connection.execute(DROP, (drop.id, drop.holder)).rowcount:
            self.proof = "delay WHERE id = ?", (drop.id,), False

    def flush(self) -> None:
        """Write what was remembered, also before a commit that claims or drops some of it."""
        if self._moved:
            self._connection.execute(DROP_ALL, (json.encode(list(self._moved)).decode(),))
            self._moved.clear()
        for id, rev in self._kept.items():
            self._connection.execute(DROP_OWN, (id,))
            self._connection.execute(MOVE, (rev, id))
        self._kept.clear()
        new = [*chain.from_iterable(self._new.values())]
        rows, timers = [row for row, _, _ in new], list(self._timers.values())
        if not rows and not timers:
            return
        insert(self._connection, DELAY, rows, AS_BEFORE)
        references = [(row[0], checksum) for row, sums, _ in new for checksum in sums]
        insert(self._connection, "delay_reference", references, AS_BEFORE)
        insert(self._connection, DELAY, timers, INSTEAD)
        self._connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'delays'")
        self.proof = "delay WHERE id = ?", (rows or timers)[0][:1], True
        self._new.clear()
        self._timers.clear()
        self._are_stored = True

    def finish(self) -> None:
        """Write all that is left, once the latest revisions are written."""
        self.flush()
        for place, due in self._later.items():
            postpone(self._connection, *place, due)
