"""Judges and applies commits, heartbeats and compactions, within one transaction."""

from collections.abc import Sequence
from itertools import islice

from msgspec.structs import replace

from examples.lmdb_driver.store import Blob, Delay, Revision, Tables, digest, rev_key
from flowstate import errors
from flowstate.driver import Heartbeat, NewDelay, Verdict, Writes
from flowstate.drivers.kit.times import LAST, from_micros, micros_of, stalling_micros, to_micros
from flowstate.state import State

SECOND = 1_000_000
CHUNK = 500


def judge(tables: Tables, batch: Sequence[Writes]) -> list[Verdict]:
    return [_refusal(tables, writes) or _apply(tables, writes) for writes in batch]


def _refusal(tables: Tables, writes: Writes) -> errors.FlowstateError | None:
    expected = [*((state.id, state.rev) for state in writes.puts), *writes.checks]
    found = [(id, rev, tables.latest(id)) for id, rev in expected]
    if differ := [id for id, rev, latest in found if rev != (latest.rev if latest else 0)]:
        return errors.RevisionMismatchError(differ)
    for checksum in set(writes.needs) - {data.checksum for data in writes.data}:
        if tables.find(Blob, checksum.encode()) is None:
            return errors.DataNotFoundError(f"data {checksum} is no longer stored")
    claimed = [(claim, tables.find(Delay, digest(claim.id))) for claim in writes.claims]
    lost = [c.id for c, d in claimed if not d or (d.due > tables.now and d.holder != c.holder)]
    return errors.ClaimLostError(lost) if lost else None


def _apply(tables: Tables, writes: Writes) -> tuple[State, ...]:
    for data in writes.data:
        head, annotations = tables.number(b"head"), dict(data.annotations)
        tables.store(Blob(data.checksum, head, annotations, data.blob))
    for drop in writes.drops:
        if (held := tables.find(Delay, digest(drop.id))) and held.holder == drop.holder:
            tables.remove(held)
    for claim in writes.claims:
        if delay := tables.find(Delay, digest(claim.id)):
            due = _later(tables, claim.seconds)
            tables.store(replace(delay, due=due, holder=claim.holder))
    dues = [_due(tables, delay) for delay in writes.delays]
    states = _put_all(tables, writes, dues)
    for index, (new, due) in enumerate(zip(writes.delays, dues, strict=True)):
        state = new.state if new.put is None else states[new.put]
        id, sums = f"{writes.token}.{index}", sorted(set(new.references))
        tables.store(Delay(state.rev, id, state.id, due, new.to, "", sums, new.body))
        latest = tables.latest(state.id)
        if new.put is None and latest and latest.rev == state.rev and latest.due is not None:
            later = min(max(latest.due, due + (latest.stalls_after or 0)), LAST)
            tables.store(replace(latest, due=later))
    return states


def _later(tables: Tables, seconds: float) -> int:
    return min(tables.now + round(seconds * SECOND), LAST)


def _due(tables: Tables, delay: NewDelay) -> int:
    return to_micros(delay.due) if delay.due else min(tables.now + micros_of(delay.after), LAST)


def _put_all(tables: Tables, writes: Writes, dues: Sequence[int]) -> tuple[State, ...]:
    now, head, committed = tables.now, tables.number(b"head"), []
    stamp = max(now, tables.number(b"last", now))
    for index, (state, body) in enumerate(zip(writes.puts, writes.bodies, strict=True)):
        own = [due for new, due in zip(writes.delays, dues, strict=True) if new.put == index]
        until, head = min(own, default=None), head + 1
        for delay in tables.delays_of(state.id):
            tables.remove(delay)
        if before := tables.latest(state.id):
            tables.store(replace(before, is_latest=False))
        after = stalling_micros(state)
        stalls_at = None if after is None else min((until or now) + after, LAST)
        about = (state.transition.to, state.status.value, dict(state.labels))
        sums = sorted({ref.checksum for ref in state.data.values()})
        tables.store(Revision(head, state.id, stamp, until, *about, sums, after, stalls_at))
        tables.txn.put(b"body" + rev_key(head), body.encode())
        at, delayed = from_micros(stamp), None if until is None else from_micros(until)
        committed.append(replace(state, rev=head, committed_at=at, delayed_until=delayed))
    if committed:
        tables.txn.put(b"head", b"%d" % head)
        tables.txn.put(b"last", b"%d" % stamp)
    return tuple(committed)


def beat(tables: Tables, heartbeat: Heartbeat) -> bool:
    latest = tables.latest(heartbeat.id)
    if latest is None or latest.rev != heartbeat.rev:
        return False
    latest.beat_at = max(tables.now, (latest.beat_at or 0) + 1)
    latest.note = heartbeat.note
    if latest.due is not None and heartbeat.seconds is not None:
        latest.due = _later(tables, heartbeat.seconds)
    tables.store(latest)
    return True


def compact_some(
    tables: Tables, kind: type[Revision | Blob], before_rev: int, after: bytes
) -> tuple[int, bytes | None]:
    """Remove some of the old; return how many, and where to go on, or ``None``: at the end."""
    target = min(before_rev, tables.number(b"head"))
    tables.txn.put(b"floor", b"%d" % max(target, tables.number(b"floor", 1)))
    name = b"every" + digest("") if kind is Revision else b"stored"
    entries = [*islice(tables.scan(name, after), CHUNK)]
    old = [(place, key) for place, key in entries if place < rev_key(target)]
    found = [record for _, key in old if (record := tables.find(kind, key))]
    doomed = [record for record in found if not _is_needed(tables, record)]
    for record in doomed:
        tables.remove(record)
    return len(doomed), old[-1][0] + b"\0" if old else None


def _is_needed(tables: Tables, record: Revision | Blob) -> bool:
    if isinstance(record, Revision):
        return record.is_latest
    return any(tables.scan(b"data" + record.key()))
