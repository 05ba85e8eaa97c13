"""Turns a batch of commits into what the script takes, and its answer into verdicts."""

from collections.abc import Sequence
from typing import Any

from msgspec import Raw, msgpack
from msgspec.structs import replace

from flowstate.codec import (
    ABSENT,
    DelayBody,
    encode_annotations,
    encode_body,
    encode_delay,
    encode_state,
)
from flowstate.driver import NewDelay, Verdict, Writes
from flowstate.drivers.redis.times import MICROSECOND, from_digits, from_micros, split, to_digits
from flowstate.errors import DataNotFoundError, RevisionMismatchError
from flowstate.stalling import stalls_after
from flowstate.state import State

__all__ = ["encode", "verdicts"]

COMMITTED, MISMATCHED = 0, 1
_encoder = msgpack.Encoder()


def encode(commits: Sequence[Writes]) -> list[bytes]:
    """Return what the script ``commit`` takes: the batch, and then the blobs."""
    blobs: list[bytes] = []
    batch = _encoder.encode([_commit(writes, blobs) for writes in commits])
    return [batch, *blobs]


def _commit(writes: Writes, blobs: list[bytes]) -> tuple[Any, ...]:
    puts = [_put(state) for state in writes.puts]
    if not (writes.checks or writes.data or writes.delays or writes.needs):
        return writes.token, puts, (), (), (), ()
    data = []
    for each in writes.data:
        blobs.append(each.blob)
        annotations = encode_annotations(each.annotations).decode()
        data.append((each.checksum, annotations, len(blobs)))
    delays = [_delay(f"{writes.token}.{n}", delay) for n, delay in enumerate(writes.delays)]
    return writes.token, puts, writes.checks, writes.needs, data, delays


def _put(state: State) -> tuple[Any, ...]:
    labels = [text for pair in state.labels.items() for text in pair] if state.labels else ()
    sums = list({ref.checksum for ref in state.data.values()}) if state.data else ()
    after = stalls_after(state)
    micros = str(after // MICROSECOND) if after is not None else False
    return state.id, state.rev, state.status._value_, encode_body(state), labels, sums, micros


def _delay(id: str, delay: NewDelay) -> tuple[Any, ...]:
    own = ABSENT if delay.put is not None else Raw(encode_state(delay.state))
    body = encode_delay(DelayBody(delay.to, delay.annotations, delay.commit, own)).decode()
    put = False if delay.put is None else delay.put + 1
    due = False if delay.due is None else to_digits(delay.due)
    after = (0, 0) if delay.after is None else split(delay.after)
    return id, put, delay.state.id, delay.state.rev, due, *after, body


def verdicts(commits: Sequence[Writes], answer: bytes) -> list[Verdict]:
    """Return one verdict for each commit."""
    stamp, told = msgpack.decode(answer)
    committed_at = from_micros(stamp)
    found: list[Verdict] = []
    for writes, (kind, *rest) in zip(commits, told, strict=True):
        if kind == COMMITTED:
            found.append(_committed(writes.puts, rest[0], committed_at, rest[1]))
        elif kind == MISMATCHED:
            found.append(RevisionMismatchError(rest[0]))
        else:
            found.append(DataNotFoundError(f"data {', '.join(rest[0])} is no longer stored"))
    return found


def _committed(
    puts: Sequence[State], first: int, committed_at: Any, untils: Sequence[str | bool] | None
) -> tuple[State, ...]:
    states = []
    for index, state in enumerate(puts):
        until = untils[index] if untils else False
        delayed_until = from_digits(until) if isinstance(until, str) else None
        states.append(
            replace(
                state, rev=first + index, committed_at=committed_at, delayed_until=delayed_until
            )
        )
    return tuple(states)
