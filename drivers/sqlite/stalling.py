"""When the latest revisions stall, and the heartbeats that came for them."""

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from math import ceil
from typing import Any

from msgspec import json

from flowstate.codec import decode_state
from flowstate.driver import DamagedState, Heartbeat, Liveness, StalledQuery, StalledStates
from flowstate.drivers.sqlite.rows import insert, state_of
from flowstate.drivers.sqlite.times import FIRST, LAST, MICROSECOND, from_micros, to_micros
from flowstate.errors import CodecError
from flowstate.stalling import DEFAULT_RETRY_AFTER, stalls_after
from flowstate.state import State

__all__ = ["beat", "get_liveness", "get_stalled", "postpone", "stalls_at"]

Row = tuple[Any, ...]
DEFAULT = DEFAULT_RETRY_AFTER // MICROSECOND
# Every row is there already: this is how a few statements update many rows, see insert().
BEATEN = "latest (id, rev, status, stalls_at, beat_at, note)"
NOTE_BEAT = (
    # The time always rises, so that a heartbeat can be told from those before it.
    "ON CONFLICT (id) DO UPDATE SET note = excluded.note, beat_at ="
    f" CASE WHEN latest.beat_at BETWEEN excluded.beat_at AND {LAST - 1}"
    " THEN latest.beat_at + 1 ELSE excluded.beat_at END"
)
AND_POSTPONE = ", stalls_at = CASE WHEN latest.stalls_at NOTNULL THEN excluded.stalls_at END"
# As bytes, because text that is no UTF-8 would fail the whole page.
ID = "CAST(latest.id AS BLOB), CAST(latest.rev AS INTEGER)"
STALLED = (
    f"stalls_at, {ID}, CAST(log.id AS BLOB), log.rev,"
    " CAST(log.committed_at AS BLOB), CAST(log.delayed_until AS BLOB), CAST(log.body AS BLOB)"
)
# The plus takes away the affinity of the cast, with which the index would not be searched for ids.
BEHIND = "(stalls_at, latest.id) > (?, +CAST(? AS TEXT)) AND stalls_at <= ?"


def stalls_at(state: State, start: int) -> int | None:
    """Return when a revision stalls that was committed, or is delayed until, ``start``."""
    after = stalls_after(state)
    if after is None:
        return None
    # Called for every commit, and a division costs more than all the rest of this.
    micros = DEFAULT if after is DEFAULT_RETRY_AFTER else after // MICROSECOND
    return start + micros if start < LAST - micros else LAST


def postpone(connection: sqlite3.Connection, delayed: State, due: int) -> None:
    """Let a stored latest revision stall no earlier than a new delay of it allows.

    The state of the delay may be a changed copy; the rules are those that were committed.
    """
    stored = connection.execute(
        "SELECT log.body FROM latest JOIN log ON log.rev = latest.rev"
        " WHERE latest.id = ? AND latest.rev = ? AND stalls_at NOTNULL",
        (delayed.id, delayed.rev),
    ).fetchone()
    until = None if stored is None else stalls_at(decode_state(stored[0]), due)
    if until is not None:
        connection.execute(
            "UPDATE latest SET stalls_at = max(stalls_at, ?) WHERE id = ?", (until, delayed.id)
        )


def beat(
    connection: sqlite3.Connection, heartbeats: Sequence[Heartbeat], now: datetime
) -> list[bool]:
    """Note heartbeats; return for each whether its revision is the latest."""
    revs = json.encode({heartbeat.id: heartbeat.rev for heartbeat in heartbeats}).decode()
    rows = connection.execute(
        "SELECT latest.id FROM json_each(?) AS beat"
        " CROSS JOIN latest ON latest.id = beat.key AND latest.rev = beat.value",
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
    until = None
    if heartbeat.seconds is not None:
        until = min(now + timedelta(seconds=heartbeat.seconds) // MICROSECOND, LAST)
    return (heartbeat.id, heartbeat.rev, "", until, now, heartbeat.note)


def get_liveness(
    connection: sqlite3.Connection, id: str, now: Callable[[], datetime]
) -> Liveness | None:
    """Return what is known about the latest revision of a state.

    Raises:
        CodecError: damaged.
    """
    row = connection.execute(
        "SELECT rev, stalls_at, beat_at, note, (SELECT min(due) FROM delay"
        " WHERE state_id = latest.id AND delay.rev = latest.rev) FROM latest WHERE id = ?",
        (id,),
    ).fetchone()
    if row is None:
        return None
    rev, stalls, beat_at, note, due = row
    if type(rev) is not int or not isinstance(note, str | None):
        raise CodecError(f"liveness of {id!r}: revision {rev!r}, note {note!r}")
    return Liveness(rev, _time(stalls), _time(beat_at), note or "", now(), _time(due))


def _time(micros: int | None) -> datetime | None:
    return None if micros is None else from_micros(micros)


def get_stalled(
    connection: sqlite3.Connection, query: StalledQuery, now: datetime
) -> StalledStates:
    """Return a page of stalled states."""
    place: tuple[float, bytes] = (FIRST, b"")
    if query.after is not None:
        place = to_micros(query.after[0]), query.after[1].encode(errors="surrogateescape")
    rows = connection.execute(
        f"SELECT {STALLED} FROM latest LEFT JOIN log ON log.rev = latest.rev"
        f" WHERE {BEHIND} ORDER BY stalls_at, latest.id LIMIT ?",
        (*place, to_micros(now), query.limit),
    ).fetchall()
    end = None
    if rows:
        place = rows[-1][:2]
        end = from_micros(ceil(place[0])), place[1].decode(errors="surrogateescape")
    following = connection.execute(
        f"SELECT stalls_at FROM latest WHERE {BEHIND} ORDER BY stalls_at, id LIMIT 1",
        (*place, LAST),
    ).fetchone()
    next_at = None if following is None else from_micros(ceil(following[0]))
    states, damaged = _sorted_out(rows)
    if query.after is None:
        damaged += _without_time(connection, query.limit)
    more = next_at is not None and next_at <= now
    return StalledStates(states, more, now, next_at, end, tuple(damaged))


def _sorted_out(rows: list[Row]) -> tuple[list[State], list[DamagedState]]:
    """Return the states that can be read, and those that cannot."""
    states: list[State] = []
    damaged: list[DamagedState] = []
    for _, id, rev, *in_log in rows:
        try:
            states.append(_state(id, rev, *in_log))
        except CodecError as error:
            damaged.append(_damaged(id, rev, str(error)))
    return states, damaged


def _state(id: bytes, rev: int, log_id: bytes, log_rev: int | None, *rest: bytes | None) -> State:
    if log_rev is None or log_id != id:
        raise CodecError(f"state: revision {rev} of it is not stored")
    committed_at, delayed_until, body = rest
    return state_of((log_rev, _number(committed_at), _number(delayed_until), body))


def _number(stored: bytes | None) -> int | None:
    try:
        return None if stored is None else int(stored)
    except ValueError as error:
        raise CodecError(f"time: {error}") from error


def _without_time(connection: sqlite3.Connection, limit: int) -> list[DamagedState]:
    """Return states of whose time it cannot be said whether it has come."""
    columns = f"{ID}, quote(CAST(stalls_at AS BLOB))"
    rows = connection.execute(  # Two searches of an index, where OR might read it all.
        f"SELECT {columns} FROM latest WHERE stalls_at < ?"
        f" UNION ALL SELECT {columns} FROM latest WHERE stalls_at > ? LIMIT ?",
        (FIRST, LAST, limit),
    )
    return [_damaged(id, rev, f"state: stalls at {time}") for id, rev, time in rows]


def _damaged(id: bytes, rev: int | None, error: str) -> DamagedState:
    return DamagedState(id.decode(errors="replace"), rev or 0, error)
