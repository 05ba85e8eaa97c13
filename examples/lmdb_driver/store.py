"""What is in the file: records by key, and an index of sorted keys that follow from them."""

import uuid
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from typing import Any, TypeVar

from msgspec import Struct, msgpack
from msgspec.structs import replace

from flowstate import State, Status, errors
from flowstate.codec import ABSENT, decode_delay
from flowstate.driver import Heartbeat, Verdict, Writes
from flowstate.drivers.kit import times
from flowstate.drivers.kit.records import TIMER_REV

OFFSET = 2**63
CHUNK = 500
LONGEST_ID = 400  # Of an id in a key, which has at most 511 bytes.


def digest(*texts: str) -> bytes:
    return blake2b(msgpack.encode(texts), digest_size=16).digest()


def rev_key(rev: int) -> bytes:
    return min(max(rev, 0), OFFSET - 1).to_bytes(8, "big")


def place_of(due: int, id: str) -> bytes:
    """Return a place in the order of (due, id)."""
    return (due + OFFSET).to_bytes(8, "big") + id.encode()[:LONGEST_ID] + digest(id)


class Revision(Struct):
    """A revision without its body, and what is known about the latest; times are microseconds."""

    key: bytes
    rev: int
    id: str
    committed_at: int
    delayed_until: int | None
    flow: str
    status: str
    labels: dict[str, str]
    checksums: list[str]
    stalls_after: int | None
    due: int
    is_latest: bool
    beat_at: int | None = None
    note: str = ""

    def places(self) -> Iterator[bytes]:
        """Return what a record is found by: the name of a list, and the place in it."""
        pairs: list[tuple[str, ...]] = [(), *self.labels.items()]
        lists = [digest(*pair, status) for pair in pairs for status in ("", self.status)]
        for which in (b"every", b"latest")[: 1 + self.is_latest]:
            yield from (which + each + self.key for each in lists)
        yield from (b"data" + checksum.encode() + self.key for checksum in self.checksums)
        yield b"id" + digest(self.id) + self.key
        if self.is_latest and self.status != Status.ENDED:
            kind = b"idle" if self.stalls_after is None else b"stall"
            yield b"due " + kind + digest(self.flow) + place_of(self.due, self.id)


class Delay(Struct):
    """A delay that has not fired, or a timer, whose revision is TIMER_REV."""

    key: bytes
    rev: int
    id: str
    state_id: str
    due: int
    flow: str
    holder: str
    references: list[str]
    body: str

    def places(self) -> Iterator[bytes]:
        yield b"due delay" + digest(self.flow) + place_of(self.due, self.id)
        if self.rev != TIMER_REV:
            yield b"of state" + digest(self.state_id) + self.key
        yield from (b"data" + checksum.encode() + self.key for checksum in self.references)


class Blob(Struct):
    """Data, and the head when it was stored."""

    key: bytes
    head: int
    annotations: dict[str, str]
    blob: bytes

    def places(self) -> Iterator[bytes]:
        yield b"stored" + rev_key(self.head) + self.key


R = TypeVar("R", Revision, Delay, Blob)


class Tables:
    """One transaction: the snapshot that is read, or what is written at once."""

    def __init__(self, txn: Any, now: int) -> None:
        self.txn, self.now = txn, now

    def number(self, name: bytes, default: int = 0) -> int:
        return int(self.txn.get(name) or default)

    def find(self, kind: type[R], key: bytes | None) -> R | None:
        value = None if key is None else self.txn.get(kind.__name__.encode() + key)
        return None if value is None else msgpack.decode(value, type=kind)

    def store(self, record: R) -> None:
        before = self.find(type(record), record.key)
        for place in before.places() if before else ():
            self.txn.delete(place)
        self.txn.put(type(record).__name__.encode() + record.key, msgpack.encode(record))
        for place in record.places():
            self.txn.put(place, record.key)

    def remove(self, record: R) -> None:
        name = type(record).__name__.encode()
        for place in (name + record.key, b"body" + record.key, *record.places()):
            self.txn.delete(place)

    def scan(self, name: bytes, start: bytes = b"", step: int = 1) -> Iterator[tuple[bytes, bytes]]:
        """Iterate over a list from a place on, up or down: the places, and keys of records."""
        cursor = self.txn.cursor()
        found = cursor.set_range(name + start)
        if step < 0 and not (found and cursor.key() == name + start):
            found = cursor.prev() if found else cursor.last()
        while found and cursor.key().startswith(name):
            yield cursor.key()[len(name) :], cursor.value()
            found = cursor.next() if step > 0 else cursor.prev()

    def latest(self, id: str) -> Revision | None:
        last = next(self.scan(b"id" + digest(id), b"\xff", -1), None)
        found = self.find(Revision, last and last[1])
        return found if found and found.is_latest else None

    def delays_of(self, id: str) -> list[Delay]:
        keys = [key for _, key in self.scan(b"of state" + digest(id))]
        return [found for key in keys if (found := self.find(Delay, key))]

    def identify(self) -> str:
        found: bytes = self.txn.get(b"store_id") or f"lmdb-{uuid.uuid4().hex}".encode()
        self.txn.put(b"store_id", found)
        return found.decode()

    def judge(self, batch: Sequence[Writes]) -> list[Verdict]:
        return [self._refusal(writes) or self._apply(writes) for writes in batch]

    def _refusal(self, writes: Writes) -> errors.FlowstateError | None:
        expected = [*((state.id, state.rev) for state in writes.puts), *writes.checks]
        if differ := [id for id, rev in expected if rev != getattr(self.latest(id), "rev", 0)]:
            return errors.RevisionMismatchError(differ)
        for checksum in set(writes.needs) - {data.checksum for data in writes.data}:
            if self.find(Blob, checksum.encode()) is None:
                return errors.DataNotFoundError(f"data {checksum} is no longer stored")
        claimed = [(claim, self.find(Delay, digest(claim.id))) for claim in writes.claims]
        lost = [c.id for c, d in claimed if not d or (d.due > self.now and d.holder != c.holder)]
        return errors.ClaimLostError(lost) if lost else None

    def _apply(self, writes: Writes) -> tuple[State, ...]:
        for data in writes.data:
            head, annotations = self.number(b"head"), dict(data.annotations)
            self.store(Blob(data.checksum.encode(), head, annotations, data.blob))
        for claim in writes.claims:
            if delay := self.find(Delay, digest(claim.id)):
                due = times.later_micros(self.now, claim.seconds)
                self.store(replace(delay, due=due, holder=claim.holder))
        for drop in writes.drops:
            if (held := self.find(Delay, digest(drop.id))) and held.holder == drop.holder:
                self.remove(held)
        states = self._put_all(writes)
        for index, new in enumerate(writes.delays):
            state = new.state if new.put is None else states[new.put]
            id, due, sums = writes.delay_id(index), times.due_micros(new, self.now), new.references
            row = (digest(id), state.rev, id, state.id, due, new.to, "", sorted(set(sums)))
            self.store(Delay(*row, new.body))
            latest = None if new.put is not None else self.latest(state.id)
            if latest and latest.rev == state.rev and latest.stalls_after is not None:
                later = min(max(latest.due, due + latest.stalls_after), times.LAST)
                self.store(replace(latest, due=later))
        for timer in writes.timers:
            state, due = states[timer.put], times.due_micros(timer, self.now)
            row = (digest(timer.id), TIMER_REV, timer.id, state.id, due, timer.to, "", [])
            self.store(Delay(*row, timer.body))
        return states

    def _put_all(self, writes: Writes) -> tuple[State, ...]:
        now, head, committed = self.now, self.number(b"head"), []
        stamp = max(now, self.number(b"last", now))
        for index, (state, body) in enumerate(zip(writes.puts, writes.bodies, strict=True)):
            own = [times.due_micros(new, now) for new in writes.delays if new.put == index]
            until, head = min(own, default=None), head + 1
            if (keeps := index in writes.keeps) and state.delayed_until is not None:
                until = times.to_micros(state.delayed_until)
            for delay in self.delays_of(state.id):
                is_kept = keeps and decode_delay(delay.body).state == ABSENT
                self.store(replace(delay, rev=head)) if is_kept else self.remove(delay)
            if before := self.find(Revision, rev_key(state.rev)):
                self.store(replace(before, is_latest=False))
            after = times.stalling_micros(state)
            due = times.FIRST if after is None else min((until or now) + after, times.LAST)
            if keeps and before and None not in (after, before.stalls_after):
                due = min(due, before.due)
            about = (state.transition.to, state.status.value, dict(state.labels))
            sums = sorted({ref.checksum for ref in state.data.values()})
            row = (rev_key(head), head, state.id, stamp, until, *about, sums, after, due)
            self.store(Revision(*row, is_latest=index not in writes.forgets))
            self.txn.put(b"body" + rev_key(head), body.encode())
            at, delayed = times.from_micros(stamp), until and times.from_micros(until)
            committed.append(replace(state, rev=head, committed_at=at, delayed_until=delayed))
        if committed:
            self.txn.put(b"head", b"%d" % head)
            self.txn.put(b"last", b"%d" % stamp)
        return tuple(committed)

    def beat(self, heartbeat: Heartbeat) -> bool:
        latest = self.latest(heartbeat.id)
        if latest is None or latest.rev != heartbeat.rev:
            return False
        latest.beat_at, latest.note = max(self.now, (latest.beat_at or 0) + 1), heartbeat.note
        if latest.stalls_after is not None and heartbeat.seconds is not None:
            latest.due = times.later_micros(self.now, heartbeat.seconds)
        self.store(latest)
        return True

    def compact_some(self, kind: type[Any], before_rev: int, after: bytes) -> tuple[int, bytes]:
        """Remove some of the old; return how many revisions, and where to go on: empty, no more."""
        target = min(before_rev, self.number(b"head"))
        self.txn.put(b"floor", b"%d" % max(target, self.number(b"floor", 1)))
        name = b"every" + digest("") if kind is Revision else b"stored"
        entries = [*islice(self.scan(name, after), CHUNK)]
        old = [entry for entry in entries if entry[0] < rev_key(target)]
        found = [record for _, key in old if (record := self.find(kind, key))]
        doomed = [r for r in found if not getattr(r, "is_latest", any(self.scan(b"data" + r.key)))]
        for record in doomed:
            self.remove(record)
        return len(doomed) * (kind is Revision), old[-1][0] + b"\0" if old else b""
