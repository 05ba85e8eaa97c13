"""What a store must do, in dicts and lists: the plainest reading of the driver's contract.

Nothing here is shared with the drivers. What only the store can know, its clock, is told to the
model after each operation; :mod:`flowstate.testing.programs.world` looks whether it can be true.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from msgspec import Struct
from msgspec.structs import replace

from flowstate.commands import GetStates
from flowstate.data import Data
from flowstate.driver import Claim, DelayedState, Drop, Liveness, NewTimer, Writes
from flowstate.errors import (
    ClaimLostError,
    CompactedError,
    DataNotFoundError,
    HistoryRewoundError,
    RevisionMismatchError,
    StateNotFoundError,
)
from flowstate.ground.frozen import EMPTY
from flowstate.state import State, Status

__all__ = ["Beat", "Model", "StoredData", "stalls_after"]

LONG_AGO = datetime.min.replace(tzinfo=UTC)


class StoredData(Struct):
    """A blob, and between which heads it was stored: compaction may keep it that long."""

    data: Data
    after: int
    before: int


class Beat(Struct, frozen=True):
    """The last heartbeat for the latest revision of a state."""

    at: datetime
    note: str


class Model:
    """A store.

    Attributes:
        log: what is stored, by revision.
        latest: the latest revision of each state, by id; of one that is forgotten none.
        head: the highest revision.
        floor: the log is complete from here on.
        last: the time of the head.
        data: by checksum.
        delays: those that have not fired, and timers, by id. Of the state of a timer only the id
            is right: it is due with the latest revision.
        holders: of the delays and timers that were claimed, by id.
        references: what data each delay keeps, by id.
        alone: the ids of delays that were stored by themselves, with a state of their own.
        stalls: when the latest revisions stall, by id of the state.
        beats: the last heartbeat for each latest revision, by id of the state.
    """

    def __init__(self) -> None:
        self.log: dict[int, State] = {}
        self.latest: dict[str, int] = {}
        self.head = 0
        self.floor = 1
        self.last = LONG_AGO
        self.data: dict[str, StoredData] = {}
        self.delays: dict[str, DelayedState] = {}
        self.holders: dict[str, str] = {}
        self.references: dict[str, tuple[str, ...]] = {}
        self.alone: set[str] = set()
        self.stalls: dict[str, datetime] = {}
        self.beats: dict[str, Beat] = {}

    # Writing

    def judge(
        self, writes: Writes, now: datetime, stamp: datetime, dues: Mapping[str, datetime]
    ) -> tuple[State, ...]:
        """Judge one commit, and apply it.

        Args:
            writes: the commit.
            now: the store's clock.
            stamp: when it was committed, as far as revisions say; it never goes back.
            dues: when each of its delays and timers is due, by id.

        Raises:
            RevisionMismatchError: states are not as expected.
            DataNotFoundError: data is not there.
            ClaimLostError: a delay is gone, or claimed by another holder.
        """
        self.check(writes, now)
        head = self.head
        for claim in writes.claims:
            due = now + timedelta(seconds=claim.seconds)
            self.delays[claim.id] = replace(self.delays[claim.id], due=due)
            self.holders[claim.id] = claim.holder
        for drop in writes.drops:
            self._drop(drop)
        committed = self._put_all(writes, now, stamp, dues)
        for data in writes.data:
            self.data[data.checksum] = StoredData(replace(data, rev=0), head, self.head)
        self._store_delays(writes, committed, dues)
        for timer in writes.timers:
            self._set_timer(timer, committed[timer.put].id, dues[timer.id])
        for place in writes.forgets:
            self._leave(committed[place].id)
            del self.latest[committed[place].id]
        return tuple(committed)

    def _put_all(
        self, writes: Writes, now: datetime, stamp: datetime, dues: Mapping[str, datetime]
    ) -> list[State]:
        committed = []
        for place, state in enumerate(writes.puts):
            keeps, before = place in writes.keeps, self.stalls.get(state.id)
            kept = self._kept(state.id) if keeps else {}
            self._leave(state.id)
            own = [
                dues[writes.delay_id(index)]
                for index, new in enumerate(writes.delays)
                if new.put == place
            ]
            self.head += 1
            until = state.delayed_until if keeps else min(own, default=None)
            put = replace(state, rev=self.head, committed_at=stamp, delayed_until=until)
            self.log[put.rev], self.latest[put.id], self.last = put, put.rev, stamp
            self._set_stall(put, put.delayed_until or now)
            if keeps and before is not None and put.id in self.stalls:
                self.stalls[put.id] = min(before, self.stalls[put.id])
            self.delays |= {key: replace(delay, state=put) for key, (delay, _) in kept.items()}
            self.holders |= {key: holder for key, (_, holder) in kept.items() if holder}
            committed.append(put)
        return committed

    def check(self, writes: Writes, now: datetime) -> None:
        """Raise what refuses a commit, if anything does."""
        expected = [(state.id, state.rev) for state in writes.puts] + list(writes.checks)
        differ = {id for id, rev in expected if self.latest.get(id, 0) != rev}
        if differ:
            raise RevisionMismatchError(differ)
        there = self.data.keys() | {data.checksum for data in writes.data}
        if not there.issuperset(writes.needs):
            raise DataNotFoundError("data is no longer stored")
        lost = [claim.id for claim in writes.claims if not self._is_granted(claim, now)]
        if lost:
            raise ClaimLostError(lost)

    def _is_granted(self, claim: Claim, now: datetime) -> bool:
        delay = self.delays.get(claim.id)
        if delay is None:
            return False
        return delay.due <= now or self.holders.get(claim.id) == claim.holder

    def _drop(self, drop: Drop) -> None:
        if self.holders.get(drop.id, "") == drop.holder:
            self.delays.pop(drop.id, None)
            self.holders.pop(drop.id, None)

    def _leave(self, id: str) -> None:
        """Remove what belonged to the revision before; timers belong to the state."""
        self.delays = {
            key: each for key, each in self.delays.items() if each.timer or each.state.id != id
        }
        self.holders = {key: each for key, each in self.holders.items() if key in self.delays}
        self.stalls.pop(id, None)
        self.beats.pop(id, None)

    def _kept(self, id: str) -> dict[str, tuple[DelayedState, str]]:
        """Return the delays that were committed with a state, each with its holder."""
        return {
            key: (each, self.holders.get(key, ""))
            for key, each in self.delays.items()
            if each.state.id == id and not each.timer and key not in self.alone
        }

    def _set_timer(self, timer: NewTimer, state_id: str, due: datetime) -> None:
        state = State(state_id)
        self.delays[timer.id] = DelayedState(
            timer.id, state, timer.to, EMPTY, due, commit=True, timer=timer.name
        )
        self.references[timer.id] = ()
        self.holders.pop(timer.id, None)

    def _set_stall(self, state: State, start: datetime) -> None:
        after = stalls_after(state)
        if after is not None:
            self.stalls[state.id] = start + after

    def _store_delays(
        self, writes: Writes, committed: Sequence[State], dues: Mapping[str, datetime]
    ) -> None:
        for index, new in enumerate(writes.delays):
            id = writes.delay_id(index)
            due = dues[id]
            self.references[id] = new.references
            state = new.state if new.put is None else committed[new.put]
            self.delays[id] = DelayedState(id, state, new.to, new.annotations, due, new.commit)
            if new.put is None:
                self.alone.add(id)
            is_latest = self.latest.get(state.id) == state.rev
            if new.put is None and state.id in self.stalls and is_latest:
                after = stalls_after(self.log[state.rev])
                self.stalls[state.id] = max(self.stalls[state.id], due + (after or timedelta(0)))

    def compact(self, before_rev: int) -> int:
        """Remove old revisions, and data that is not referred to; return how many revisions."""
        target = min(before_rev, self.head)
        kept = {
            rev: state
            for rev, state in self.log.items()
            if rev >= target or self.latest.get(state.id) == rev
        }
        removed = len(self.log) - len(kept)
        self.log = kept
        self.floor = max(self.floor, target)
        referred = self._referred()
        for checksum, stored in list(self.data.items()):
            if checksum not in referred and stored.before < target:
                del self.data[checksum]
        return removed

    def in_doubt(self, before_rev: int) -> list[str]:
        """Return the checksums of data that a compaction may have left to the next one."""
        target = min(before_rev, self.head)
        referred = self._referred()
        return [
            checksum
            for checksum, stored in self.data.items()
            if checksum not in referred and stored.after < target <= stored.before
        ]

    def _referred(self) -> set[str]:
        """Return the checksums that revisions and delays refer to."""
        referred = {ref.checksum for state in self.log.values() for ref in state.data.values()}
        return referred.union(*(self.references[id] for id in self.delays))

    # Reading

    def get(self, id: str, rev: int | None = None) -> State:
        """Return a revision, or the latest one.

        Raises:
            StateNotFoundError: it is not there.
        """
        state = self.log.get(self.latest.get(id, 0) if rev is None else rev)
        if state is None or state.id != id:
            raise StateNotFoundError(id)
        return state

    def find(self, query: GetStates) -> list[State]:
        """Return every match of a query, its limit left aside.

        Raises:
            CompactedError: revisions above the cursor may have been removed.
            HistoryRewoundError: the cursor is above the head.
        """
        since = query.since_rev
        if since is not None and since > self.head:
            raise HistoryRewoundError(since, self.head)
        is_whole = since is None or query.latest_only
        if since is not None and not is_whole and self.floor > max(since + 1, query.gaps_below):
            raise CompactedError(self.floor)
        found = [self.log[rev] for rev in sorted(self.log) if rev > (since or 0)]
        found = [state for state in found if self._answers(query, state)]
        return found[-1:] if query.since_latest else found

    def _answers(self, query: GetStates, state: State) -> bool:
        wanted = [query.labels] if isinstance(query.labels, Mapping) else query.labels
        at = state.committed_at or LONG_AGO
        return (
            (query.id is None or state.id == query.id)
            and (not wanted or any(_has(state, labels) for labels in wanted))
            and (query.since_time is None or at >= query.since_time)
            and (query.committed_before is None or at < query.committed_before)
            and (query.status is None or state.status == query.status)
            and (not query.latest_only or self.latest.get(state.id) == state.rev)
        )

    def count(self, query: GetStates) -> int:
        """Return how many latest revisions have the labels and the status of a query."""
        return len(self.find(GetStates(query.labels, latest_only=True, status=query.status)))

    def delayed(self) -> list[DelayedState]:
        """Return all delays and timers, in the order of (due, id)."""
        found = [self._with_latest(each) if each.timer else each for each in self.delays.values()]
        return sorted(found, key=lambda delay: (delay.due, delay.id))

    def _with_latest(self, timer: DelayedState) -> DelayedState:
        latest = self.log.get(self.latest.get(timer.state.id, 0))
        return replace(timer, state=latest or State(timer.state.id))

    def idle(self) -> list[DelayedState]:
        """Return the latest revisions that never stall and have not ended, in the order of ids."""
        states = [self.get(id) for id in sorted(self.latest.keys() - self.stalls.keys())]
        return [
            DelayedState(state.id, state, state.transition.to, EMPTY, LONG_AGO, commit=False)
            for state in states
            if state.status is not Status.ENDED
        ]

    def stalled(self) -> list[DelayedState]:
        """Return what stalls or will, in the order of (when, id)."""
        found = [(at, self.get(id)) for id, at in self.stalls.items()]
        return [
            DelayedState(state.id, state, state.transition.to, EMPTY, at, commit=False)
            for at, state in sorted(found, key=lambda pair: (pair[0], pair[1].id))
        ]

    def liveness(self, id: str, now: datetime) -> Liveness | None:
        """Return what is known about the latest revision of a state."""
        rev = self.latest.get(id)
        if rev is None:
            return None
        own = [delay.due for delay in self.delays.values() if _is_of(delay, id, rev)]
        beat = self.beats.get(id)
        at, note = (beat.at, beat.note) if beat else (None, "")
        return Liveness(rev, self.stalls.get(id), at, note, now, min(own, default=None))

    def states(self) -> Iterator[State]:
        """Iterate over all states of the log, in its order."""
        return (self.log[rev] for rev in sorted(self.log))


def stalls_after(state: State) -> timedelta | None:
    """Return how long a revision may stand still, by its own rules; ``None``: without end."""
    rules = "flowstate.recovery."
    if state.status is not Status.ACTIVE or not state.transition.to:
        return None
    if rules + "disabled" in state.annotations:
        return None
    settings = (
        state.transition.annotations.get(rules + "wait"),
        state.annotations.get(rules + "retry_after"),
    )
    for text in settings:
        try:
            seconds = float(text or "")
        except ValueError:
            continue
        if 0.001 <= seconds <= 365_000 * 86_400:  # noqa: PLR2004 - a millisecond, 1,000 years
            return timedelta(seconds=seconds)
    return timedelta(minutes=2)


def _has(state: State, labels: Mapping[str, str]) -> bool:
    return all(state.labels.get(key) == value for key, value in labels.items())


def _is_of(delay: DelayedState, id: str, rev: int) -> bool:
    return not delay.timer and delay.state.id == id and delay.state.rev == rev
