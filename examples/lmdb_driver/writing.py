"""Judges and applies commits, within one transaction."""

from msgspec import msgpack
from msgspec.structs import replace

from examples.lmdb_driver.store import Delay, Latest, Revision, Tables, digest, rev_key
from flowstate import errors
from flowstate.driver import Heartbeat, NewDelay, Verdict, Writes
from flowstate.drivers.kit.times import LAST, from_micros, micros_of, stalling_micros, to_micros
from flowstate.state import State

SECOND = 1_000_000


def judge(tables: Tables, writes: Writes, now: int) -> Verdict:
    """Judge one commit, and apply it unless it is refused."""
    if refusal := _refusal(tables, writes, now):
        return refusal
    for data in writes.data:
        value = (tables.number("head"), dict(data.annotations), data.blob)
        tables.put("data", data.checksum.encode(), msgpack.encode(value))
    for drop in writes.drops:
        held = tables.find(Delay, digest(drop.id))
        tables.remove(held if held is not None and held.holder == drop.holder else None)
    for claim in writes.claims:
        due = min(now + round(claim.seconds * SECOND), LAST)
        if delay := tables.find(Delay, digest(claim.id)):
            tables.store(replace(delay, due=due, holder=claim.holder))
    dues = [_due(delay, now) for delay in writes.delays]
    states = _put_all(tables, writes, dues, now)
    for index, (new, due) in enumerate(zip(writes.delays, dues, strict=True)):
        state = new.state if new.put is None else states[new.put]
        sums, id = sorted(set(new.references)), f"{writes.token}.{index}"
        tables.store(Delay(state.rev, id, state.id, due, new.to, "", sums, new.body))
        latest = tables.find(Latest, digest(state.id))
        if new.put is None and latest and latest.rev == state.rev and latest.stalls_at is not None:
            later = min(max(latest.stalls_at, due + (latest.stalls_after or 0)), LAST)
            tables.store(replace(latest, stalls_at=later))
    return states


def _refusal(tables: Tables, writes: Writes, now: int) -> errors.FlowstateError | None:
    expected = [*((state.id, state.rev) for state in writes.puts), *writes.checks]
    if differ := [id for id, rev in expected if _rev(tables, id) != rev]:
        return errors.RevisionMismatchError(differ)
    for checksum in set(writes.needs) - {data.checksum for data in writes.data}:
        if tables.get("data", checksum.encode()) is None:
            return errors.DataNotFoundError(f"data {checksum} is no longer stored")
    claimed = [(claim, tables.find(Delay, digest(claim.id))) for claim in writes.claims]
    lost = [c.id for c, d in claimed if d is None or (d.due > now and d.holder != c.holder)]
    return errors.ClaimLostError(lost) if lost else None


def _rev(tables: Tables, id: str) -> int:
    latest = tables.find(Latest, digest(id))
    return latest.rev if latest else 0


def _due(delay: NewDelay, now: int) -> int:
    return to_micros(delay.due) if delay.due else min(now + micros_of(delay.after), LAST)


def _put_all(tables: Tables, writes: Writes, dues: list[int], now: int) -> tuple[State, ...]:
    head, stamp = tables.number("head"), max(now, tables.number("last", now))
    committed = []
    for index, (state, body) in enumerate(zip(writes.puts, writes.bodies, strict=True)):
        for delay in tables.delays_of(state.id):
            tables.remove(delay)
        own = [due for new, due in zip(writes.delays, dues, strict=True) if new.put == index]
        until, head = min(own, default=None), head + 1
        status, labels = state.status.value, dict(state.labels)
        sums = sorted({ref.checksum for ref in state.data.values()})
        stored = (body, writes.token, status, labels, sums)
        tables.store(Revision(head, state.id, stamp, until, *stored))
        after = stalling_micros(state)
        stalls_at = None if after is None else min((until or now) + after, LAST)
        flow = state.transition.to
        tables.store(Latest(head, state.id, flow, status, labels, after, stalls_at))
        at, delayed = from_micros(stamp), None if until is None else from_micros(until)
        committed.append(replace(state, rev=head, committed_at=at, delayed_until=delayed))
    if committed:
        tables.set_number("head", head)
        tables.set_number("last", stamp)
    return tuple(committed)


def beat(tables: Tables, heartbeat: Heartbeat, now: int) -> bool:
    """Note a sign of life, which can be told from the one before."""
    latest = tables.find(Latest, digest(heartbeat.id))
    if latest is None or latest.rev != heartbeat.rev:
        return False
    beat_at = now if latest.beat_at is None else max(now, latest.beat_at + 1)
    changed = replace(latest, beat_at=beat_at, note=heartbeat.note)
    if latest.stalls_at is not None and heartbeat.seconds is not None:
        changed.stalls_at = min(now + round(heartbeat.seconds * SECOND), LAST)
    tables.store(changed)
    return True


def compact_some(tables: Tables, after: int, before_rev: int, count: int) -> tuple[int, int]:
    """Remove some old revisions; return how many, and how far that is, or -1 at the end."""
    target = min(before_rev, tables.number("head"))
    tables.set_number("floor", max(target, tables.number("floor", 1)))
    entries = tables.scan("index", b"every", rev_key(after + 1))
    keys = [key for (key, _), _ in zip(entries, range(count), strict=False)]
    found = [revision for key in keys if (revision := tables.find(Revision, key))]
    doomed = [r for r in found if r.rev < target and _rev(tables, r.id) != r.rev]
    for revision in doomed:
        tables.remove(revision)
    return len(doomed), found[-1].rev if found and found[-1].rev < target else -1


def drop_data(tables: Tables, before_rev: int) -> None:
    """Remove old data that no revision and no delay refers to."""
    target = min(before_rev, tables.number("head"))
    for key, value in list(tables.scan("data", b"")):
        if msgpack.decode(value)[0] < target and not any(tables.scan("index", b"data" + key)):
            tables.delete("data", key)
