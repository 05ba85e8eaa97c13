"""Signs of life for the latest revisions, and when those stall."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime

from msgspec import json

from flowstate.codec import decode_state
from flowstate.driver import Heartbeat, Liveness
from flowstate.drivers.kit.records import delay_of, readable_time, text_of
from flowstate.drivers.kit.times import FIRST, LAST, later_micros, stalling_micros, to_micros
from flowstate.drivers.sqlite.rows import IS_THERE, REVISION, Row, insert, snapshot
from flowstate.errors import CodecError

__all__ = ["beat", "get_liveness", "postpone"]

# Every row is there already: this is how a few statements update many rows, see insert().
BEATEN = "latest (id, rev, status, flow, due, beat_at, note)"
NOTE_BEAT = (
    # The time always rises, so that a heartbeat can be told from those before it.
    "ON CONFLICT (id) DO UPDATE SET note = excluded.note, beat_at ="
    f" CASE WHEN latest.beat_at BETWEEN excluded.beat_at AND {LAST - 1}"
    " THEN latest.beat_at + 1 ELSE excluded.beat_at END"
)
# What never stalls is due at the first moment, and stays so.
AND_POSTPONE = f", due = CASE WHEN latest.due <> {FIRST} THEN excluded.due ELSE latest.due END"
LIVENESS = (
    f"SELECT rev, nullif(due, {FIRST}), beat_at, note FROM latest WHERE id = ? AND {IS_THERE}"
)
DELAYS = (
    f"SELECT delay.id, due, state_id, delay.rev, delay.body, {REVISION}"
    " FROM delay LEFT JOIN log ON log.rev = delay.rev"
    " WHERE state_id = ? AND delay.rev = ? ORDER BY due"
)


def postpone(connection: sqlite3.Connection, id: str, rev: int, due: int) -> None:
    """Let a latest revision stall no earlier than a new delay of it allows.

    The state of the delay may be a changed copy; the rules are those that were committed.
    """
    for (body,) in connection.execute(
        "SELECT log.body FROM latest JOIN log ON log.rev = latest.rev"
        f" WHERE latest.id = ? AND latest.rev = ? AND due <> {FIRST}",
        (id, rev),
    ).fetchall():
        with suppress(CodecError):
            after = stalling_micros(decode_state(body)) or 0
            connection.execute(
                "UPDATE latest SET due = max(due, ?) WHERE id = ?",
                (min(due + after, LAST), id),
            )


def beat(
    connection: sqlite3.Connection, heartbeats: Sequence[Heartbeat], now: datetime
) -> list[bool]:
    """Note heartbeats; return for each whether its revision is the latest."""
    revs = json.encode({heartbeat.id: heartbeat.rev for heartbeat in heartbeats}).decode()
    rows = connection.execute(
        "SELECT latest.id FROM json_each(?) AS beat"
        f" CROSS JOIN latest ON latest.id = beat.key AND latest.rev = beat.value AND {IS_THERE}",
        (revs,),
    )
    alive = {id for (id,) in rows}
    notes: list[Row] = []
    postponed: list[Row] = []
    for heartbeat in heartbeats:
        if heartbeat.id in alive:
            row = _row(heartbeat, to_micros(now))
            (notes if heartbeat.seconds is None else postponed).append(row)
    insert(connection, BEATEN, notes, NOTE_BEAT)
    insert(connection, BEATEN, postponed, NOTE_BEAT + AND_POSTPONE)
    return [heartbeat.id in alive for heartbeat in heartbeats]


def _row(heartbeat: Heartbeat, now: int) -> Row:
    seconds = heartbeat.seconds
    until = None if seconds is None else later_micros(now, seconds)
    return (heartbeat.id, heartbeat.rev, "", "", until, now, heartbeat.note)


def get_liveness(
    connection: sqlite3.Connection, ids: Sequence[str], now: datetime
) -> list[Liveness | None]:
    """Return what is known about the latest revision of each state."""
    with snapshot(connection):
        return [_liveness(connection, id, now) for id in ids]


def _liveness(connection: sqlite3.Connection, id: str, now: datetime) -> Liveness | None:
    row = connection.execute(LIVENESS, (id,)).fetchone()
    if row is None or type(row[0]) is not int:
        return None
    rev, stalls_at, beat_at, note = row
    due = next(_dues(connection, id, rev), None)
    return Liveness(rev, readable_time(stalls_at), readable_time(beat_at), text_of(note), now, due)


def _dues(connection: sqlite3.Connection, id: str, rev: int) -> Iterator[datetime]:
    """Return the times of the delays of a revision that can be read, the earliest first."""
    for row in connection.execute(DELAYS, (id, rev)):
        with suppress(CodecError):
            yield delay_of(row).due
