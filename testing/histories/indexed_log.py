"""The final log of a history, indexed: the one order against which everything else is checked."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise, zip_longest

import msgspec

from flowstate.testing.histories.history import Filter, LogRow
from flowstate.testing.histories.violation import Violation

__all__ = ["IndexedLog", "Window", "check_dense", "passes"]

EVERYTHING = Filter()
Window = tuple[int, int]  # From the commit of one revision to that of another; 0: no such limit.


class IndexedLog:
    """A log without holes.

    Attributes:
        rows: revision n at place n - 1.
        head: the last revision.
        commits: (token, first revision, last revision) of each run of revisions with one token.
        commit_of: by revision, the place of its commit in ``commits``; -1 at place 0.
        by_token: the place of the first run of each token.
        successor: by revision, the next revision of the same state; 0: there is none.
        first: the first revision of each id.
        ends: the revisions by which an id was forgotten, for those that were.
    """

    def __init__(self, rows: Sequence[LogRow]) -> None:
        self.rows = rows
        self.head = len(rows)
        self.commits: list[tuple[str, int, int]] = []
        self.commit_of = [-1] * (self.head + 1)
        self.by_token: dict[str, int] = {}
        self.successor = [0] * (self.head + 1)
        self.first: dict[str, int] = {}
        self.ends: dict[str, list[int]] = {}
        self._filtered: dict[bytes, Sequence[int]] = {}
        latest: dict[str, int] = {}
        token, start, place = "", 1, -1
        for rev, row in enumerate(rows, 1):
            if row.token != token or place < 0:
                if place >= 0:
                    self.commits.append((token, start, rev - 1))
                token, start, place = row.token, rev, place + 1
                self.by_token.setdefault(token, place)
            self.commit_of[rev] = place
            before = latest.get(row.id)
            if before is None:
                self.first[row.id] = rev
            else:
                self.successor[before] = rev
            latest[row.id] = rev
            if row.forgotten:
                self.ends.setdefault(row.id, []).append(rev)
        if rows:
            self.commits.append((token, start, self.head))

    def row(self, rev: int) -> LogRow | None:
        """Return the row of a revision, if there is one."""
        return self.rows[rev - 1] if 0 < rev <= self.head else None

    def has(self, id: str, rev: int) -> bool:
        """Return whether a state has had this revision; all begin with 0."""
        return rev == 0 or (0 < rev <= self.head and self.rows[rev - 1].id == id)

    def after(self, id: str, rev: int) -> int:
        """Return the revision of a state that follows one that it has had; 0: there is none."""
        return self.successor[rev] if rev else self.first.get(id, 0)

    def has_ended(self, rev: int) -> bool:
        """Return whether a revision is the last one of a state that was forgotten."""
        return self.rows[rev - 1].forgotten

    def while_latest(self, id: str, rev: int) -> list[Window]:
        """Return when a revision that a state has had was its latest one; 0: it had none."""
        if rev:
            return [] if self.has_ended(rev) else [(rev, self.successor[rev])]
        ends = self.ends.get(id, ())
        return [(0, self.first.get(id, 0)), *((end, self.successor[end]) for end in ends)]

    def while_not_latest(self, id: str, rev: int) -> list[Window]:
        """Return when a state had another latest revision than one that it has had, or none."""
        if rev:
            after = rev if self.has_ended(rev) else self.successor[rev]
            return [(after, 0)] if after else []
        ends = self.ends.get(id, ())
        begins = [self.first.get(id, 0), *(self.successor[end] for end in ends)]
        return [window for window in zip_longest(begins, ends, fillvalue=0) if window[0]]

    def matching(self, wanted: Filter) -> Sequence[int]:
        """Return all revisions that pass a filter, in order."""
        if wanted == EVERYTHING:
            return range(1, self.head + 1)
        key = msgspec.json.encode(wanted)
        if key not in self._filtered:
            self._filtered[key] = [row.rev for row in self.rows if passes(wanted, row)]
        return self._filtered[key]

    def matching_after(self, wanted: Filter, rev: int) -> int:
        """Return the first revision above ``rev`` that passes a filter; 0: there is none."""
        revs = self.matching(wanted)
        place = bisect_right(revs, rev)
        return revs[place] if place < len(revs) else 0


def check_dense(rows: Sequence[LogRow]) -> Iterator[Violation]:
    """G4: the revisions are 1, 2, 3 and so on, and time does not go back along them."""
    expected = 1
    for row in rows:
        if row.rev < expected:
            yield Violation("G4", f"revision {row.rev} is in the log twice", (row,))
            continue
        if row.rev > expected:
            last = row.rev - 1
            missing = f"{expected}" if expected == last else f"{expected} to {last}"
            yield Violation("G4", f"the log has a hole: {missing} missing before this one", (row,))
        expected = row.rev + 1
    for before, row in pairwise(rows):
        if before.committed_at and row.committed_at and row.committed_at < before.committed_at:
            yield Violation("G4", "committed_at goes back along the log", (before, row))


def passes(wanted: Filter, row: LogRow) -> bool:
    """Return whether a revision passes a filter."""
    if wanted.id is not None and row.id != wanted.id:
        return False
    if wanted.status is not None and row.status != wanted.status:
        return False
    at = row.committed_at
    if wanted.since_time is not None and (at is None or at < wanted.since_time):
        return False
    if wanted.committed_before is not None and (at is None or at >= wanted.committed_before):
        return False
    if not wanted.labels:
        return True
    own = row.labels.items()
    return any(labels.items() <= own for labels in wanted.labels)
