"""Reads, each within one transaction."""

import heapq
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from examples.lmdb_driver.store import Blob, Delay, Revision, Tables, digest, place_of, rev_key
from flowstate import driver as contract
from flowstate.data import Data
from flowstate.drivers.kit import records
from flowstate.drivers.kit.times import from_micros, to_micros
from flowstate.errors import CodecError
from flowstate.frozen import FrozenDict
from flowstate.reading import matches
from flowstate.state import State

SCANNED = 2_000  # Revisions that are looked at for one page.
OTHERS = 100


class Reader(Tables):
    """Reads from one snapshot."""

    def state(self, id: str, rev: int | None) -> State | None:
        found = self.latest(id) if rev is None else self.find(Revision, rev_key(rev))
        return records.state_or_raise(self._row(found.rev)) if found and found.id == id else None

    def _row(self, rev: int) -> tuple[Any, ...]:
        found, body = self.find(Revision, rev_key(rev)), self.txn.get(b"body" + rev_key(rev))
        return (
            (rev, found.id, found.committed_at, found.delayed_until, body) if found else (None,) * 5
        )

    def data(self, checksum: str) -> Data | None:
        found = self.find(Blob, checksum.encode())
        about = None if found is None else FrozenDict(found.annotations)
        return None if found is None else Data(found.blob, about, checksum=checksum)

    def page(self, query: contract.StateQuery) -> contract.States:
        head, after = self.number(b"head"), query.after
        if query.since_latest:
            newest = (rev for rev in self._some(query, head, -1) if self._match(query, rev))
            after = max(after, next(newest, head + 1) - 1)
        rows: list[records.Row] = []
        stop, left = None, query.max_bytes
        for scanned, rev in enumerate(self._some(query, after + 1, 1), 1):
            if row := self._match(query, rev):
                rows.append(row)
                if len(rows) > query.limit or left <= 0:
                    break  # That was one too many, so the page knows that there are more.
                left -= len(row[4])
            if scanned == SCANNED:
                stop = rev
                break
        return records.page_of(query, rows, head=head, floor=self.number(b"floor", 1), stop=stop)

    def _match(self, query: contract.StateQuery, rev: int) -> records.Row | None:
        row = self._row(rev)
        try:
            return row if matches(query, records.state_of(row)) else None
        except CodecError:
            return row  # It matches as far as the lists can tell.

    def _some(self, query: contract.StateQuery, rev: int, step: int) -> Iterator[int]:
        """Return revisions from one on, up or down; all that match are among them."""
        which = b"latest" if query.latest_only else b"every"
        status = "" if query.status is None else query.status.value
        every = [[(), *labels.items()] for labels in query.labels or ({},)]
        lists = [[which + digest(*pair, status) for pair in pairs] for pairs in every]
        found = heapq.merge(*(self._leap(each, rev, step) for each in lists), reverse=step < 0)
        return (rev for rev, _ in groupby(found))

    def _leap(self, lists: Sequence[bytes], rev: int, step: int) -> Iterator[int]:
        """Return some revisions of lists; what is in all of them is among these."""
        while rev > 0:
            nearest = [next(self.scan(name, rev_key(rev), step), None) for name in lists]
            revs = [int.from_bytes(entry[0], "big") for entry in nearest if entry]
            if len(revs) < len(lists):
                return
            rev = max(revs) if step > 0 else min(revs)
            yield rev
            rev += step

    def due(self, query: contract.DueQuery) -> contract.DuePage:
        kind, name = (Delay if query.kind == "delay" else Revision), b"due " + query.kind.encode()
        until = self.now if query.until is None else to_micros(query.until)
        start = b"" if query.after is None else place_of(to_micros(query.after[0]), query.after[1])
        known = dict(self._flows(kind, name)) if query.flows is None or query.others else {}
        flows = known if query.flows is None else dict.fromkeys(query.flows)
        entries = heapq.merge(*(self.scan(name + digest(flow), start) for flow in flows))
        rows: list[records.Row] = []
        next_at, more = None, False
        for _, key in (entry for entry in entries if entry[0] != start):
            found: Any = self.find(kind, key)
            next_at, more = found.due, query.everything or found.due <= until
            if len(rows) == query.limit or not more:
                break
            rows.append(self._due_row(found))
            next_at, more = None, False
        is_due = {flow for flow, due in known.items() if query.everything or due <= until}
        others = sorted(is_due.difference(flows))[:OTHERS]
        now = from_micros(self.now)
        return records.due_page(query, rows, more=more, now=now, next_at=next_at, others=others)

    def _flows(self, kind: type[Any], name: bytes) -> Iterator[tuple[str, int]]:
        """Return the flows with something due, and when the first of it is."""
        start = b""
        while entry := next(self.scan(name, start), None):
            first: Any = self.find(kind, entry[1])
            yield first.flow, first.due
            start = entry[0][:16] + b"\xff" * 9

    def _due_row(self, found: Any) -> records.Row:
        state_id, body = getattr(found, "state_id", found.id), getattr(found, "body", "")
        return (found.id, found.due, state_id, found.rev, body, *self._row(found.rev))

    def liveness(self, id: str) -> contract.Liveness | None:
        latest = self.latest(id)
        if latest is None:
            return None
        now, own = from_micros(self.now), self.delays_of(id)
        rows = [self._due_row(delay) for delay in own if delay.rev == latest.rev]
        page = records.due_page(contract.DueQuery("delay"), rows, more=False, now=now, next_at=None)
        first = min((delay.due for delay in page.due), default=None)
        stalls_at, beat_at = (
            at and records.readable_time(at) for at in (latest.due, latest.beat_at)
        )
        return contract.Liveness(latest.rev, stalls_at, beat_at, latest.note, now, first)
