"""Turns a batch of commits into what the script takes, and its answer into verdicts."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec import msgpack
from msgspec.structs import replace

from flowstate.codec import encode_annotations
from flowstate.driver import Claim, NewDelay, Verdict, Writes
from flowstate.drivers.kit.records import state_of, text_of
from flowstate.drivers.kit.resolving import is_same
from flowstate.drivers.kit.times import from_micros, stalling_micros
from flowstate.drivers.redis.answers import decoding_errors, row
from flowstate.drivers.redis.times import digits_of, micros_of_digits, split
from flowstate.errors import (
    ClaimLostError,
    CodecError,
    CommitUnknownError,
    DataNotFoundError,
    FlowstateError,
    RevisionMismatchError,
)
from flowstate.state import State

__all__ = ["encode", "replay_of", "verdicts_of"]

_encoder = msgpack.Encoder()


def encode(commits: Sequence[Writes]) -> list[bytes]:
    """Return what the script ``commit`` takes: the batch, and then the blobs."""
    blobs: list[bytes] = []
    batch = _encoder.encode([_commit(writes, blobs) for writes in commits])
    return [batch, *blobs]


def _commit(writes: Writes, blobs: list[bytes]) -> tuple[Any, ...]:
    puts = list(map(_put, writes.puts, writes.bodies))
    data = []
    for each in writes.data:
        blobs.append(each.blob)
        annotations = encode_annotations(each.annotations).decode()
        data.append((each.checksum, annotations, len(blobs)))
    return (
        writes.token,
        puts,
        writes.checks,
        writes.needs,
        data,
        [_delay(f"{writes.token}.{n}", delay) for n, delay in enumerate(writes.delays)],
        list(map(_claim, writes.claims)),
        [(drop.id, drop.holder) for drop in writes.drops],
    )


def _put(state: State, body: str) -> tuple[Any, ...]:
    labels = [text for pair in state.labels.items() for text in pair] if state.labels else ()
    sums = list({ref.checksum for ref in state.data.values()}) if state.data else ()
    after = stalling_micros(state)
    micros, flow = (False, "") if after is None else (str(after), state.transition.to)
    return state.id, state.rev, state.status._value_, body, labels, sums, micros, flow


def _delay(id: str, delay: NewDelay) -> tuple[Any, ...]:
    put = False if delay.put is None else delay.put + 1
    due = False if delay.due is None else digits_of(delay.due)
    after = (0, 0) if delay.after is None else split(delay.after)
    state = delay.state
    return id, put, state.id, state.rev, due, *after, delay.to, delay.body, delay.references


def _claim(claim: Claim) -> tuple[Any, ...]:
    return claim.id, claim.holder, *split(timedelta(seconds=claim.seconds))


def verdicts_of(commits: Sequence[Writes], answer: bytes) -> list[Verdict]:
    """Return one verdict for each commit."""
    with decoding_errors():
        stamp, told = msgpack.decode(answer)
        committed_at = from_micros(stamp)
        return [
            _verdict(writes, committed_at, *each)
            for writes, each in zip(commits, told, strict=True)
        ]


def _verdict(writes: Writes, committed_at: datetime, kind: int, *rest: Any) -> Verdict:
    if kind:
        return _REFUSALS[kind](rest[0])
    first, untils = rest
    states = []
    for index, state in enumerate(writes.puts):
        until = untils[index] if untils else False
        delayed_until = from_micros(micros_of_digits(until)) if until else None
        rev = first + index
        states.append(
            replace(state, rev=rev, committed_at=committed_at, delayed_until=delayed_until)
        )
    return tuple(states)


def _missing(checksums: Sequence[str]) -> DataNotFoundError:
    return DataNotFoundError(f"data {', '.join(checksums)} is no longer stored")


_REFUSALS: dict[int, Callable[[Any], FlowstateError]] = {
    1: RevisionMismatchError,
    2: _missing,
    3: ClaimLostError,
}


def replay_of(writes: Writes, found: Sequence[Any]) -> Verdict | None:
    """Return the revisions of a commit that have been found under its token.

    ``None`` if they are of another commit, ``CommitUnknownError`` if some are gone or damaged.
    """
    rows = [row(each) for each in found]
    if len(rows) != len(writes.puts):
        return CommitUnknownError(writes.token)
    for index, (_, id, _, _, body) in enumerate(rows):
        if not is_same(writes, index, text_of(id), body or ""):
            return None
    try:
        return tuple(map(state_of, rows))
    except CodecError:
        return CommitUnknownError(writes.token)
