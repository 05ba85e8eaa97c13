"""What the processes of one world asked of the store and were told, for the checker of histories.

Everything happens on one event loop, so each record has a time that no other step of the loop has:
a reply that came before another request did so for certain, and the checker need not guess.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import count

from flowstate.driver import StateQuery, States, Verdict, Writes
from flowstate.errors import CommitUnknownError, FlowstateError, RevisionMismatchError
from flowstate.state import State
from flowstate.testing.histories.history import (
    Committed,
    Compacted,
    Delivered,
    Dropped,
    Failed,
    Filter,
    History,
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
from flowstate.testing.simulation.loop import SimulationLoop

__all__ = ["Recording", "operations_of"]

NANOSECONDS = 1_000_000_000


class Recording:
    """The records of all processes.

    Args:
        loop: that all of them run on.
    """

    def __init__(self, loop: SimulationLoop) -> None:
        self._loop = loop
        self._ops = count(1)
        self._records: list[Record] = []

    def now(self) -> int:
        """Return virtual nanoseconds, which grow by one more with every step of the loop."""
        return int(self._loop.time() * NANOSECONDS) + self._loop.steps

    # Commits

    def invoked(self, batch: Sequence[Writes]) -> list[int]:
        """Note that commits are about to be sent; return the number of each."""
        at = self.now()
        ops = [next(self._ops) for _ in batch]
        for op, writes in zip(ops, batch, strict=True):
            self._records.append(_invoked(op, at, writes))
            self._records += [Dropped(drop.id) for drop in writes.drops]
        return ops

    def judged(self, ops: Sequence[int], verdicts: Sequence[Verdict]) -> None:
        """Note how commits ended."""
        at = self.now()
        self._records += [_outcome(op, at, each) for op, each in zip(ops, verdicts, strict=True)]

    def raised(self, ops: Sequence[int], error: BaseException) -> None:
        """Note that commits ended with an error, which may say that nothing was written."""
        at = self.now()
        is_known = isinstance(error, FlowstateError) and not isinstance(error, CommitUnknownError)
        self._records += [Failed(op, at) if is_known else Unknown(op, at) for op in ops]

    def compacted(self, before_rev: int) -> None:
        """Note that revisions are about to be removed."""
        self._records.append(Compacted(self.now(), before_rev))

    # Reads

    def read(self, invoked: int, id: str, rev: int | None, found: int) -> None:
        """Note which revision was found of a state; 0 for none."""
        record = StateRead(next(self._ops), invoked, self.now(), id, found, rev or 0)
        self._records.append(record)

    def read_page(self, invoked: int, query: StateQuery, page: States) -> None:
        """Note what was read of the log."""
        record = PageRead(
            op=next(self._ops),
            invoked=invoked,
            at=self.now(),
            filter=_filter(query),
            after=query.after,
            since_latest=query.since_latest,
            latest_only=query.latest_only,
            revs=tuple([state.rev for state in page.states]),
            scanned_to=page.scanned_to,
            more=page.more,
            head=page.head,
            floor=page.floor,
        )
        self._records.append(record)

    # Watches

    def begun(self, name: str, labels: dict[str, str], after: int) -> int:
        """Note that a watch begins, or goes on; return the number of its session."""
        op = next(self._ops)
        wanted = Filter((labels,)) if labels else Filter()
        self._records.append(WatchBegun(op, self.now(), name, wanted, after))
        return op

    def delivered(self, session: int, rev: int, id: str) -> None:
        """Note what a watch delivered, or has named as damaged."""
        self._records.append(Delivered(session, self.now(), rev, id))

    def ended(self, session: int, cursor: int) -> None:
        """Note that a session ended."""
        self._records.append(WatchEnded(session, self.now(), cursor))

    # The end

    def history(
        self,
        log: Iterable[State],
        applied: Mapping[str, Sequence[State]],
        delays: Iterable[str],
        timers: Iterable[str] = (),
    ) -> History:
        """Return the history.

        Args:
            log: every revision.
            applied: by token, the revisions of each commit.
            delays: the ids of those that are left.
            timers: as well.
        """
        tokens = {state.rev: token for token, states in applied.items() for state in states}
        rows = [_row(state, tokens.get(state.rev, "")) for state in log]
        return History([*self._records, *rows, Stored((), tuple(delays), tuple(timers))])


def operations_of(history: History) -> int:
    """Return how many operations a history has: commits, reads and what watches delivered."""
    delivered = sum(len(session.delivered) for session in history.sessions)
    return len(history.attempts) + len(history.reads) + len(history.pages) + delivered


def _invoked(op: int, at: int, writes: Writes) -> Invoked:
    return Invoked(
        op,
        at,
        writes.token,
        tuple([(state.id, state.rev) for state in writes.puts]),
        tuple(writes.checks),
        tuple([data.checksum for data in writes.data]),
        tuple([(each.state.id, _delayed_rev(each.state, each.put)) for each in writes.delays]),
        tuple([timer.id for timer in writes.timers]),
        tuple([drop.id for drop in writes.drops if not drop.holder]),
    )


def _delayed_rev(state: State, put: int | None) -> int:
    """Return the revision that a delay belongs to; -1 for the one that its commit will make."""
    return state.rev if put is None else -1


def _outcome(op: int, at: int, verdict: Verdict) -> Outcome:
    match verdict:
        case tuple():
            return Committed(op, at, tuple([state.rev for state in verdict]))
        case RevisionMismatchError():
            return Refused(op, at, verdict.ids)
        case CommitUnknownError():
            return Unknown(op, at)
        case _:
            return Failed(op, at)


def _filter(query: StateQuery) -> Filter:
    times = query.since_time, query.committed_before
    return Filter(tuple(query.labels), query.status, *times, query.id)


def _row(state: State, token: str) -> LogRow:
    return LogRow(
        state.rev,
        state.id,
        token,
        state.committed_at,
        state.status,
        dict(state.labels),
        forgotten=state.transition.cause == "forget",
    )
