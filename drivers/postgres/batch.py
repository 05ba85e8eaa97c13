"""Turns a batch of commits into what the server's function takes, and its answer into verdicts.

Lists are made as Postgres reads them, which takes a tenth of psycopg's time. The binary form of an
array: number of dimensions, a flag for nulls, the type of the elements, for each dimension its
length and lower bound, and then each element after its length in bytes.
"""

import struct
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from msgspec import json
from msgspec.structs import replace
from psycopg import AsyncCursor
from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper
from psycopg.pq import Format
from psycopg.types.json import Jsonb

from flowstate.codec import encode_annotations
from flowstate.driver import NewDelay, NewTimer, Verdict, Writes
from flowstate.drivers.kit.records import TIMER_REV
from flowstate.drivers.kit.times import EPOCH, from_micros, micros_of, stalling_micros, to_micros
from flowstate.errors import ClaimLostError, DataNotFoundError, RevisionMismatchError
from flowstate.state import State

__all__ = ["encoded", "register", "verdicts_of"]

NEVER, FORGOTTEN = -1, -2  # Instead of the microseconds after which a state stalls.
LONGEST = 9_000_000_000_000_000_000  # Microseconds; the server ends it with the year 9999.
TEXT, TEXT_ARRAY = 25, 1009  # From the server's pg_type.
BIGINT, BIGINT_ARRAY = 20, 1016
HEADER = struct.Struct(">iiIii").pack
LENGTH = struct.Struct(">i").pack
Places = dict[str, int]


class _BigintArray(bytes):
    __slots__ = ()


class _TextArray(bytes):
    __slots__ = ()


class _BigintArrayDumper(Dumper):
    format = Format.BINARY
    oid = BIGINT_ARRAY
    dump: Any = staticmethod(bytes)  # Of C: it is called for each parameter of each commit.


class _TextArrayDumper(_BigintArrayDumper):
    oid = TEXT_ARRAY


def register(cursor: AsyncCursor[Any]) -> None:
    """Let a cursor send what ``encoded`` returns; its connection stays as it is."""
    context: AdaptContext = cursor
    context.adapters.register_dumper(_BigintArray, _BigintArrayDumper)
    context.adapters.register_dumper(_TextArray, _TextArrayDumper)


def _arrays(numbers: Sequence[int], texts: Sequence[str]) -> tuple[Any, ...]:
    count = len(numbers)
    flat = [8] * (2 * count)
    flat[1::2] = numbers
    packed = struct.pack(">iiIii" + "iq" * count, 1, 0, BIGINT, count, 1, *flat)
    encoded = list(map(str.encode, texts))
    parts = [b""] * (2 * len(encoded))
    parts[::2] = map(LENGTH, map(len, encoded))
    parts[1::2] = encoded
    header = HEADER(1, 0, TEXT, len(encoded), 1)
    return _BigintArray(packed), _TextArray(header + b"".join(parts))


def encoded(commits: Sequence[Writes], lock_wait: float) -> tuple[Any, ...]:
    """Return the parameters of one call; only the first two if the others are null.

    Args:
        commits: the batch.
        lock_wait: how many seconds it may wait for a lock.
    """
    places: Places = {}  # Of ids.
    rest: dict[str, Any] = {}
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
            if state.labels:
                rows = [(put, key, value) for key, value in state.labels.items()]
                rest.setdefault("labels", []).extend(rows)
            if state.data:
                references = [(put, ref.checksum) for ref in state.data.values()]
                rest.setdefault("references", []).extend(references)
        if writes.data or writes.delays:
            blobs += [each.blob for each in writes.data]
            _add_contents(rest, places, place, first_put, writes)
        if writes.checks or writes.needs or writes.claims or writes.drops:
            _add_conditions(rest, places, place, writes)
        if writes.timers:
            rest.setdefault("timers", []).extend(_timers(place, first_put, writes))
        if writes.keeps or writes.forgets:
            _mark(rest, counts, first_put, writes)
    counts[1] = len(places)
    counts.append(round(lock_wait * 1_000) + 1)
    parameters = _arrays(counts, [*tokens, *places, *words])
    return (*parameters, Jsonb(rest, dumps=json.encode), blobs) if rest else parameters


def _add_contents(
    rest: dict[str, Any], places: Places, place: int, first_put: int, writes: Writes
) -> None:
    data, delays = rest.setdefault("data", []), rest.setdefault("delays", [])
    for each in writes.data:
        data.append((place, each.checksum, encode_annotations(each.annotations).decode()))
    for index, delay in enumerate(writes.delays):
        put = None if delay.put is None else first_put + delay.put
        id_place = places.setdefault(delay.state.id, len(places) + 1)
        fields = delay.state.rev, *_due(delay), delay.references
        delays.append((place, writes.delay_id(index), put, id_place, *fields))


def _mark(rest: dict[str, Any], counts: list[int], first_put: int, writes: Writes) -> None:
    """Say which puts keep their delays, and which are forgotten."""
    for place in writes.keeps:
        until = writes.puts[place].delayed_until
        micros = None if until is None else to_micros(until)
        rest.setdefault("keeps", []).append((first_put + place, micros))
    if writes.forgets:
        rest["forgets"] = True
    for place in writes.forgets:
        counts[4 * (first_put + place) + 1] = FORGOTTEN


def _timers(place: int, first_put: int, writes: Writes) -> list[tuple[Any, ...]]:
    return [
        (place, timer.id, first_put + timer.put, None, TIMER_REV, *_due(timer))
        for timer in writes.timers
    ]


def _due(new: NewDelay | NewTimer) -> tuple[Any, ...]:
    due = None if new.due is None else to_micros(new.due)
    return due, micros_of(new.after), new.body, new.to


def _add_conditions(rest: dict[str, Any], places: Places, place: int, writes: Writes) -> None:
    conditions = {
        "checks": [(places.setdefault(id, len(places) + 1), rev) for id, rev in writes.checks],
        "needs": [(checksum,) for checksum in writes.needs],
        "claims": [(each.id, each.holder, _micros(each.seconds)) for each in writes.claims],
        "drops": [(each.id, each.holder) for each in writes.drops],
    }
    for kind, rows in conditions.items():
        if rows:
            rest.setdefault(kind, {})[place] = rows


def _micros(seconds: float) -> int:
    return round(min(seconds * 1_000_000, LONGEST))


def verdicts_of(commits: Sequence[Writes], answer: Sequence[Any]) -> list[Verdict]:
    """Return one verdict for each commit."""
    revs, stamp, untils, mismatched, missing, lost, _ = answer
    committed_at = EPOCH + timedelta(microseconds=stamp)
    refused: dict[int, Verdict] = {}
    if mismatched or missing or lost:
        refused = _refused(commits, mismatched or (), missing or (), lost or ())
    verdicts: list[Verdict] = []
    put = 0
    # Loops, because a comprehension is a call, and this is for each commit of a lone task.
    for place, writes in enumerate(commits, 1):
        states: list[State] = []
        for state in writes.puts:
            until = from_micros(untils[put]) if untils and untils[put] is not None else None
            states.append(
                replace(state, rev=revs[put], committed_at=committed_at, delayed_until=until)
            )
            put += 1
        verdicts.append(tuple(states))
        if place in refused:
            verdicts[-1] = refused[place]
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
        named = [put.id for put in writes.puts] + [delay.state.id for delay in writes.delays]
        for id in named + [id for id, _ in writes.checks]:
            places.setdefault(id, len(places) + 1)
    return list(places)
