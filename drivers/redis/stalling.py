"""Heartbeats, and what stalls: what the scripts take, and what their answers mean.

Whatever stands in the store comes as bytes, so that what is damaged spoils nothing else.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from msgspec import msgpack

from flowstate.codec import decode_state
from flowstate.driver import DamagedState, Heartbeat, Liveness, StalledQuery, StalledStates
from flowstate.drivers.redis.errors import making_sense
from flowstate.drivers.redis.times import (
    MICROSECOND,
    from_digits,
    from_micros,
    from_score,
    to_micros,
)
from flowstate.errors import CodecError
from flowstate.state import State

__all__ = ["ask_beat", "ask_stalled", "liveness_of", "stalled_of"]

UNREADABLE = (CodecError, ValueError, OverflowError)


def ask_beat(heartbeats: Sequence[Heartbeat]) -> bytes:
    """Return what the script ``beat`` takes."""
    return msgpack.encode([(b.id, b.rev, _micros(b.seconds), b.note) for b in heartbeats])


def _micros(seconds: float | None) -> int | bool:
    return False if seconds is None else timedelta(seconds=seconds) // MICROSECOND


@making_sense()
def liveness_of(answer: Sequence[bytes] | None) -> Liveness | None:
    """Return what is known about a state."""
    if answer is None:
        return None
    rev, score, beat_at, note, now, due = answer
    return Liveness(
        int(rev),
        from_score(score) if score else None,
        from_micros(int(beat_at)) if beat_at else None,
        note.decode(errors="replace"),
        from_micros(int(now)),
        from_digits(due) if due else None,
    )


def ask_stalled(query: StalledQuery) -> tuple[Any, bytes, int]:
    """Return what the script ``stalled`` takes."""
    if query.after is None:
        return "", b"", query.limit
    time, id = query.after
    return to_micros(time), id.encode(errors="surrogateescape"), query.limit


@making_sense()
def stalled_of(answer: Sequence[Any]) -> StalledStates:
    """Return a page of stalled states."""
    now, following, more, found = answer
    states: list[State] = []
    damaged: list[DamagedState] = []
    for id, _, rev, entry in found:
        try:
            states.append(_state(id, int(rev), entry))
        except UNREADABLE as error:
            damaged.append(DamagedState(id.decode(errors="replace"), int(rev), str(error)))
    next_at = from_score(following) if following else None
    end = None
    if found:
        id, score, *_ = found[-1]
        end = from_score(score), id.decode(errors="surrogateescape")  # So that it can go on there.
    return StalledStates(states, bool(more), from_micros(int(now)), next_at, end, tuple(damaged))


def _state(id: bytes, rev: int, entry: Sequence[bytes]) -> State:
    if not entry:
        raise CodecError(f"state: revision {rev} is not stored")
    of, committed_at, delayed_until, body = entry
    until = from_digits(delayed_until) if delayed_until else None
    state = decode_state(body, rev, from_micros(int(committed_at)), until)
    if not of == id == state.id.encode():
        raise CodecError(f"state: revision {rev} is of {state.id!r}")
    return state
