"""Histories of a store that keeps every guarantee: each operation has one moment of its own.

Operations are drawn one after the other and happen in that order, each at some moment between an
invocation and a completion that reach far into those of its neighbours.
"""

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count

from flowstate.state import Status
from flowstate.testing.histories.history import (
    Committed,
    Delivered,
    Failed,
    Filter,
    Invoked,
    LogRow,
    Outcome,
    PageRead,
    Record,
    Refused,
    StateRead,
    Stored,
    Unknown,
    WatchBegun,
    WatchEnded,
)

__all__ = ["FILTERS", "Simulation", "simulate"]

STEP = 10
REACH = 40
BEGINNING = datetime(2030, 1, 1, tzinfo=UTC)
FILTERS = [
    Filter(),
    Filter(labels=({"kind": "a"},)),
    Filter(labels=({"kind": "a"}, {"kind": "b", "even": "yes"})),
    Filter(status=Status.PAUSED),
    Filter(since_time=BEGINNING + timedelta(seconds=20)),
    Filter(id="state-3"),
]
FORGOTTEN = 0.05  # Of the revisions.


class Watcher:
    """One that goes on now and then with a new session."""

    def __init__(self, name: str, wanted: Filter) -> None:
        self.name = name
        self.wanted = wanted
        self.session: int | None = None
        self.cursor = 0


class Simulation:
    """A store, and some who use it.

    Attributes:
        records: what they have recorded so far.
    """

    def __init__(self, rng: random.Random, *, ids: int = 12, times: bool = True) -> None:
        self.records: list[Record] = []
        self._rng = rng
        self._ids = [f"state-{number}" for number in range(ids)]
        self._times = times
        self._ops = count(1)
        self._now = 1_000
        self._log: list[LogRow] = []
        self._revs: dict[str, list[int]] = {id: [0] for id in self._ids}
        self._data: set[str] = set()
        self._delays: dict[str, tuple[str, int]] = {}
        self._timers: set[str] = set()
        self._watchers = [Watcher(f"watch-{i}", wanted) for i, wanted in enumerate(FILTERS)]

    def run(self, operations: int) -> list[Record]:
        """Draw so many operations, and return all records with the log at the end."""
        kinds: dict[Callable[[], None], int] = {
            self.commit: 8,
            self.lose_a_commit: 1,
            self.retry: 1,
            self.refuse: 2,
            self.read: 5,
            self.page: 1,
            self.watch: 6,
        }
        for act in self._rng.choices(list(kinds), list(kinds.values()), k=operations):
            self._now += STEP
            act()
        return self.finish()

    def finish(self) -> list[Record]:
        """Return all records with what is stored at the end."""
        live = [name for name, (id, rev) in self._delays.items() if self._revs[id][-1] == rev]
        stored = Stored(tuple(sorted(self._data)), tuple(live), tuple(self._timers))
        return [*self.records, *self._log, stored]

    def _span(self) -> tuple[int, int]:
        rng = self._rng
        return self._now - rng.randrange(REACH), self._now + rng.randrange(REACH)

    def _invoked(self, token: str | None = None) -> Invoked:
        rng, op = self._rng, next(self._ops)
        chosen = rng.sample(self._ids, rng.choice([1, 1, 1, 2, 3]))
        split = 1 if len(chosen) == 1 else rng.choice([len(chosen), len(chosen) - 1])
        expected = [(id, self._revs[id][-1]) for id in chosen]
        return Invoked(
            op=op,
            at=self._span()[0],
            token=token or f"token-{op}",
            puts=tuple(expected[:split]),
            checks=tuple(expected[split:]),
            data=(f"data-{op}",) if rng.random() < 0.1 else (),
            delays=((chosen[0], -1),) if rng.random() < 0.1 else (),
            timers=(f"timer of {chosen[0]}",) if rng.random() < 0.1 else (),
            cancels=(f"timer of {rng.choice(chosen)}",) if rng.random() < 0.1 else (),
        )

    def _apply(self, invoked: Invoked) -> tuple[int, ...]:
        revs = []
        for id, _ in invoked.puts:
            rev = len(self._log) + 1
            kind = "abc"[rev % 3]
            self._revs[id].append(rev)
            self._log.append(
                LogRow(
                    rev=rev,
                    id=id,
                    token=invoked.token,
                    committed_at=BEGINNING + timedelta(seconds=rev) if self._times else None,
                    status=Status.PAUSED if rev % 5 == 0 else Status.ACTIVE,
                    labels={"kind": kind, "even": "no" if rev % 2 else "yes"},
                    data=invoked.data,
                    forgotten=not invoked.delays and self._rng.random() < FORGOTTEN,
                )
            )
            revs.append(rev)
            if self._log[-1].forgotten:
                self._revs[id].append(0)
        self._timers.difference_update(invoked.cancels)
        self._timers.update(invoked.timers)
        self._data.update(invoked.data)
        for index, (id, _) in enumerate(invoked.delays):
            self._delays[f"{invoked.token}.{index}"] = (id, self._revs[id][-1])
        return tuple(revs)

    def commit(self) -> None:
        invoked = self._invoked()
        revs = self._apply(invoked)
        self.records += invoked, Committed(invoked.op, self._span()[1], revs)

    def lose_a_commit(self) -> None:
        """Nobody learns of it, unless it failed."""
        invoked = self._invoked()
        outcomes: list[Outcome | None] = [None, Unknown(invoked.op, self._span()[1])]
        outcome = self._rng.choice([*outcomes, Failed(invoked.op, self._span()[1])])
        if not isinstance(outcome, Failed) and self._rng.random() < 0.5:
            self._apply(invoked)
        self.records += [invoked, outcome] if outcome else [invoked]

    def retry(self) -> None:
        """Whatever became of it, the same commit is sent again."""
        first = self._invoked()
        end = self._span()[1]
        if self._rng.random() < 0.5:
            revs = self._apply(first)
            self.records += first, Unknown(first.op, end)
        else:
            self.records += first, Failed(first.op, end)
            revs = ()
        self._now += STEP
        second = Invoked(
            next(self._ops),
            max(end, self._span()[0]),
            first.token,
            first.puts,
            first.checks,
            first.data,
            first.delays,
            first.timers,
            first.cancels,
        )
        self._now = max(self._now, second.at)
        revs = revs or self._apply(second)
        self.records += second, Committed(second.op, self._span()[1], revs)

    def refuse(self) -> None:
        invoked = self._invoked()
        stale = {
            id: self._rng.choice(others)
            for id, rev in (*invoked.puts, *invoked.checks)
            if (others := [old for old in self._revs[id] if old != rev])
            and self._rng.random() < 0.7
        }
        if stale:
            op, at = invoked.op, invoked.at
            puts = tuple((id, stale.get(id, rev)) for id, rev in invoked.puts)
            checks = tuple((id, stale.get(id, rev)) for id, rev in invoked.checks)
            self.records += (
                Invoked(op, at, invoked.token, puts, checks, invoked.data, invoked.delays),
                Refused(op, self._span()[1], tuple(sorted(stale))),
            )

    def read(self) -> None:
        id = self._rng.choice(self._ids)
        invoked, at = self._span()
        rev, wanted = self._revs[id][-1], 0
        if any(self._revs[id]) and self._rng.random() < 0.2:
            rev = wanted = self._rng.choice([old for old in self._revs[id] if old])
        self.records.append(StateRead(next(self._ops), invoked, at, id, rev, wanted))

    def page(self) -> None:
        rng, head = self._rng, len(self._log)
        wanted, after = rng.choice(FILTERS), rng.randrange(max(0, head - 20), head + 1)
        latest_only, limit = rng.random() < 0.3, rng.randrange(1, 10)
        revs = [
            row.rev
            for row in self._log[after:]
            if passes(wanted, row) and (not latest_only or self._revs[row.id][-1] == row.rev)
        ]
        more = len(revs) > limit
        self._page(wanted, after, revs[:limit], more=more, latest_only=latest_only)

    def _page(
        self, wanted: Filter, after: int, revs: list[int], *, more: bool, latest_only: bool
    ) -> None:
        invoked, at = self._span()
        head = len(self._log)
        self.records.append(
            PageRead(
                op=next(self._ops),
                invoked=invoked,
                at=at,
                filter=wanted,
                after=after,
                since_latest=False,
                latest_only=latest_only,
                revs=tuple(revs),
                scanned_to=revs[-1] if more else head,
                more=more,
                head=head,
                floor=1,
            )
        )

    def watch(self) -> None:
        """One watcher begins, takes some revisions, ends, or dies."""
        rng, watcher = self._rng, self._rng.choice(self._watchers)
        at = self._now
        if watcher.session is None:
            watcher.session = next(self._ops)
            self.records.append(
                WatchBegun(watcher.session, at, watcher.name, watcher.wanted, watcher.cursor)
            )
        for row in self._log[watcher.cursor : watcher.cursor + rng.randrange(20)]:
            watcher.cursor = row.rev
            if passes(watcher.wanted, row):
                self.records.append(Delivered(watcher.session, at, row.rev, row.id))
        if rng.random() < 0.1:
            if rng.random() < 0.5:
                self.records.append(WatchEnded(watcher.session, at, watcher.cursor))
            elif rng.random() < 0.5:
                watcher.cursor = max(0, watcher.cursor - rng.randrange(5))
            watcher.session = None


def passes(wanted: Filter, row: LogRow) -> bool:
    """Return whether a revision passes one of ``FILTERS``, put differently from the checker."""
    kind, even = row.labels["kind"], row.labels["even"]
    number = FILTERS.index(wanted)
    late = row.committed_at is not None and row.rev >= 20
    return [
        True,
        kind == "a",
        kind == "a" or (kind == "b" and even == "yes"),
        row.status is Status.PAUSED,
        late,
        row.id == "state-3",
    ][number]


def simulate(seed: int, operations: int) -> list[Record]:
    """Return the records of a good history."""
    return Simulation(random.Random(seed)).run(operations)
