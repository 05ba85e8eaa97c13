"""Turns a batch of commits into what the server's function takes, and its answer into verdicts."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from msgspec import json
from msgspec.structs import replace
from psycopg.types.json import Jsonb

from flowstate.codec import encode_annotations
from flowstate.driver import NewDelay, Verdict, Writes
from flowstate.drivers.kit.times import EPOCH, from_micros, micros_of, stalling_micros, to_micros
from flowstate.drivers.postgres.arrays import arrays
from flowstate.errors import ClaimLostError, DataNotFoundError, RevisionMismatchError
from flowstate.state import State

__all__ = ["encoded", "verdicts_of"]

NEVER = -1
LONGEST = 9_000_000_000_000_000_000  # Microseconds; the server ends it with the year 9999.
Places = dict[str, int]


def encoded(commits: Sequence[Writes], lock_wait: float) -> tuple[Any, ...]:
    """Return the parameters of one call; only the first two if the others are null.

    Args:
        commits: the batch.
        lock_wait: how many seconds it may wait for a lock.
    """
    places: Places = {}  # Of ids.
    rest: dict[str, list[Any]] = {}
    blobs: list[bytes] = []
    counts: list[int] = [len(commits), 0]
    words: list[str] = []
    tokens: list[str] = []
    put = 0
    for place, writes in enumerate(commits, 1):
        tokens.append(writes.token)
        first_put = put + 1
        for state, body in zip(writes.puts, writes.bodies, strict=True):
            put += 1
            after = stalling_micros(state)
            id_place = places.setdefault(state.id, len(places) + 1)
            counts += (place, id_place, state.rev, NEVER if after is None else after)
            words += (state.status._value_, state.transition.to, body)
            if state.labels or state.data:
                _add_labels_and_references(rest, put, state)
        if (
            writes.checks
            or writes.data
            or writes.delays
            or writes.needs
            or writes.claims
            or writes.drops
        ):
            for kind, rows in _rest_of(places, first_put, writes).items():
                if rows:
                    rest.setdefault(kind, []).extend((place, *row) for row in rows)
            blobs += [each.blob for each in writes.data]
    counts[1] = len(places)
    counts.append(round(lock_wait * 1_000) + 1)
    parameters = arrays(counts, [*tokens, *places, *words])
    return (*parameters, Jsonb(rest, dumps=json.encode), blobs) if rest else parameters


def _add_labels_and_references(rest: dict[str, list[Any]], put: int, state: State) -> None:
    for key, value in state.labels.items():
        rest.setdefault("labels", []).append((put, key, value))
    for ref in state.data.values():
        rest.setdefault("references", []).append((put, ref.checksum))


def _rest_of(places: Places, first_put: int, writes: Writes) -> dict[str, list[tuple[Any, ...]]]:
    """Return lists of all but the puts of a commit."""
    return {
        "checks": [(places.setdefault(id, len(places) + 1), rev) for id, rev in writes.checks],
        "needs": [(checksum,) for checksum in writes.needs],
        "data": [(each.checksum, _annotations(each.annotations)) for each in writes.data],
        "delays": [
            (
                f"{writes.token}.{index}",
                None if delay.put is None else first_put + delay.put,
                places.setdefault(delay.state.id, len(places) + 1),
                *_delay(delay),
            )
            for index, delay in enumerate(writes.delays)
        ],
        "claims": [(each.id, each.holder, _micros(each.seconds)) for each in writes.claims],
        "drops": [(each.id, each.holder) for each in writes.drops],
    }


def _annotations(annotations: Any) -> str:
    return encode_annotations(annotations).decode()


def _micros(seconds: float) -> int:
    return round(min(seconds * 1_000_000, LONGEST))


def _delay(delay: NewDelay) -> tuple[Any, ...]:
    """Return revision, time, body, flow and references of a delay."""
    due = None if delay.due is None else to_micros(delay.due)
    after = micros_of(delay.after)
    return delay.state.rev, due, after, delay.body, delay.to, delay.references


def verdicts_of(commits: Sequence[Writes], answer: Sequence[Any]) -> list[Verdict]:
    """Return one verdict for each commit."""
    revs, stamp, untils, mismatched, missing, lost, _ = answer
    committed_at = EPOCH + timedelta(microseconds=stamp)
    if mismatched or missing or lost or untils:
        refused = _refused(commits, mismatched or (), missing or (), lost or ())
        return _verdicts(commits, revs, committed_at, untils, refused)
    verdicts: list[Verdict] = []
    left = iter(revs)
    # Loops, because a comprehension is a call, and this is for each commit of a lone task.
    for writes in commits:
        states: list[State] = []
        for put in writes.puts:
            states.append(replace(put, rev=next(left), committed_at=committed_at))  # noqa: PERF401
        verdicts.append(tuple(states))
    return verdicts


def _verdicts(
    commits: Sequence[Writes],
    revs: Sequence[int],
    committed_at: datetime,
    untils: Sequence[int | None],
    refused: dict[int, Verdict],
) -> list[Verdict]:
    stamps = [None if until is None else from_micros(until) for until in untils or ()]
    verdicts: list[Verdict] = []
    first = 0
    for place, writes in enumerate(commits, 1):
        states = [
            replace(
                state,
                rev=revs[put],
                committed_at=committed_at,
                delayed_until=stamps[put] if stamps else None,
            )
            for put, state in enumerate(writes.puts, first)
        ]
        verdicts.append(refused.get(place) or tuple(states))
        first += len(writes.puts)
    return verdicts


def _refused(
    commits: Sequence[Writes],
    mismatched: Sequence[int],
    missing: Sequence[tuple[int, str]],
    lost: Sequence[tuple[int, str]],
) -> dict[int, Verdict]:
    refused: dict[int, Verdict] = {}
    for place, checksum in missing:
        refused.setdefault(place, DataNotFoundError(f"data {checksum} is no longer stored"))
    for place in {place for place, _ in lost}:
        refused[place] = ClaimLostError([id for each, id in lost if each == place])
    ids = _ids(commits) if mismatched else []
    pairs = list(zip(mismatched[::2], mismatched[1::2], strict=True))
    for place in {place for place, _ in pairs}:
        refused[place] = RevisionMismatchError([ids[id - 1] for each, id in pairs if each == place])
    return refused


def _ids(commits: Sequence[Writes]) -> list[str]:
    """Return the ids of a batch, as they are numbered for the server."""
    places: Places = {}
    for writes in commits:
        named = [put.id for put in writes.puts] + [id for id, _ in writes.checks]
        for id in named + [delay.state.id for delay in writes.delays]:
            places.setdefault(id, len(places) + 1)
    return list(places)
