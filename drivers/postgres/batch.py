"""Turns a batch of commits into what the server's function takes, and its answer into verdicts."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from msgspec import Raw, json
from msgspec.structs import replace
from psycopg.types.json import Jsonb

from flowstate.codec import (
    ABSENT,
    DelayBody,
    encode_annotations,
    encode_body,
    encode_delay,
    encode_state,
)
from flowstate.driver import NewDelay, Verdict, Writes
from flowstate.drivers.postgres.arrays import BigintArray, TextArray
from flowstate.drivers.postgres.times import from_micros, to_micros
from flowstate.errors import DataNotFoundError, RevisionMismatchError
from flowstate.stalling import DEFAULT_RETRY_AFTER, stalls_after
from flowstate.state import State

__all__ = ["Batch"]

MICROSECOND = timedelta(microseconds=1)
NEVER = -1
DEFAULT = DEFAULT_RETRY_AFTER // MICROSECOND


class Batch:
    """The commits of one call of the server's function ``commit``.

    Attributes:
        parameters: of that call; only the first two if the others are null.
        commits: as they were given.
    """

    def __init__(self, commits: Sequence[Writes]) -> None:
        self.commits = commits
        self._places: dict[str, int] = {}  # Of ids.
        self._rest: dict[str, list[list[Any]]] = {}
        self._blobs: list[bytes] = []
        self._put = 0
        counts: list[int] = []
        words: list[str] = []
        for place, writes in enumerate(commits, 1):
            first_put = self._put + 1
            for state in writes.puts:
                self._put += 1
                counts += (place, self._place(state.id), state.rev, _stalls_after(state))
                words += (state.status._value_, encode_body(state))
                if state.labels or state.data:
                    self._add_labels_and_references(state)
            if writes.checks or writes.data or writes.delays or writes.needs:
                self._add_rest(place, writes, first_put)
        tokens = [writes.token for writes in commits]
        self.parameters: tuple[Any, ...] = (
            BigintArray.of([len(commits), len(self._places), *counts]),
            TextArray.of([*tokens, *self._places, *words]),
        )
        if self._rest:
            self.parameters += (Jsonb(self._rest, dumps=json.encode), self._blobs)

    def _place(self, id: str) -> int:
        return self._places.setdefault(id, len(self._places) + 1)

    def _add(self, kind: str, row: list[Any]) -> None:
        self._rest.setdefault(kind, []).append(row)

    def _add_labels_and_references(self, state: State) -> None:
        for key, value in state.labels.items():
            self._add("labels", [self._put, key, value])
        for ref in state.data.values():
            self._add("references", [self._put, ref.checksum])

    def _add_rest(self, place: int, writes: Writes, first_put: int) -> None:
        for id, rev in writes.checks:
            self._add("checks", [place, self._place(id), rev])
        for checksum in writes.needs:
            self._add("needs", [place, checksum])
        for data in writes.data:
            annotations = encode_annotations(data.annotations).decode()
            self._add("data", [place, data.checksum, annotations])
            self._blobs.append(data.blob)
        for index, delay in enumerate(writes.delays):
            put = None if delay.put is None else first_put + delay.put
            id = f"{writes.token}.{index}"
            self._add("delays", [place, id, put, self._place(delay.state.id), *_delay(delay)])

    def verdicts(self, answer: Sequence[Any]) -> list[Verdict]:
        """Return one verdict for each commit."""
        revs, stamp, untils, mismatched, missing, _ = answer
        refusals = self._mismatches(mismatched) if mismatched else {}
        for place, checksum in missing or ():
            refusals.setdefault(place, DataNotFoundError(f"data {checksum} is no longer stored"))
        committed_at = from_micros(stamp)
        verdicts: list[Verdict] = []
        put = 0
        for place, writes in enumerate(self.commits, 1):
            end = put + len(writes.puts)
            verdict: Verdict | None = refusals.get(place)
            if verdict is None:
                until = untils[put:end] if untils else ()
                verdict = _committed(writes.puts, revs[put:end], committed_at, until)
            verdicts.append(verdict)
            put = end
        return verdicts

    def is_heard(self, answer: Sequence[Any]) -> bool:
        """Return whether some session listens for commits."""
        return bool(answer[-1])

    def _mismatches(self, pairs: Sequence[int]) -> dict[int, Verdict]:
        ids = list(self._places)
        found: dict[int, list[str]] = {}
        for place, id in zip(pairs[::2], pairs[1::2], strict=True):
            found.setdefault(place, []).append(ids[id - 1])
        return {place: RevisionMismatchError(wrong) for place, wrong in found.items()}


def _committed(
    puts: Sequence[State], revs: Sequence[int], committed_at: Any, untils: Sequence[int | None]
) -> tuple[State, ...]:
    states = []
    for index, (state, rev) in enumerate(zip(puts, revs, strict=True)):
        until = untils[index] if untils else None
        delayed_until = None if until is None else from_micros(until)
        states.append(
            replace(state, rev=rev, committed_at=committed_at, delayed_until=delayed_until)
        )
    return tuple(states)


def _stalls_after(state: State) -> int:
    """Return after how many microseconds a put stalls, -1 for never."""
    after = stalls_after(state)
    if after is DEFAULT_RETRY_AFTER:
        return DEFAULT
    return NEVER if after is None else after // MICROSECOND


def _delay(delay: NewDelay) -> list[Any]:
    """Return revision, time and body of a delay."""
    own = ABSENT if delay.put is not None else Raw(encode_state(delay.state))
    body = encode_delay(DelayBody(delay.to, delay.annotations, delay.commit, own)).decode()
    due = None if delay.due is None else to_micros(delay.due)
    after = 0 if delay.after is None else delay.after // MICROSECOND
    return [delay.state.rev, due, after, body]
