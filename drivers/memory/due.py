"""What is due: delays and stalled states, each by flow and in the order of time."""

import heapq
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from operator import itemgetter

from msgspec.structs import replace

from flowstate.driver import (
    Claim,
    DelayedState,
    Drop,
    DuePage,
    DueQuery,
    Heartbeat,
    NewDelay,
    NewTimer,
)
from flowstate.ground.frozen import EMPTY
from flowstate.recovery_rules import stalls_after
from flowstate.state import State, Status

__all__ = ["Deadlines", "Delays", "Idle", "LAST", "due_of", "stalls_at"]

FIRST = datetime.min.replace(tzinfo=UTC)
LAST = datetime.max.replace(tzinfo=UTC)
MAX_OTHERS = 100
CHUNK = 1_000
Key = tuple[datetime, str]
StateOf = Callable[[str], State]


def _later(time: datetime, by: timedelta) -> datetime:
    return time + by if by < LAST - time else LAST


def due_of(delay: NewDelay | NewTimer, now: datetime) -> datetime:
    """Return when a delay or a timer is due, by the store's ``now``."""
    return delay.due if delay.due is not None else _later(now, delay.after or timedelta(0))


def stalls_at(state: State, began: datetime) -> datetime | None:
    """Return when a revision stalls that began at a time, or ``None``: never."""
    after = stalls_after(state)
    return None if after is None else _later(state.delayed_until or began, after)


class _SortedKeys:
    """Keys in rising order, in chunks that are short enough to insert into.

    One long list would move a million entries for one insertion; a heap cannot be paged
    through. The idea is that of the ``sortedcontainers`` package.
    """

    def __init__(self) -> None:
        self._chunks: list[list[Key]] = []

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def add(self, key: Key) -> None:
        place = self._place(key)
        if place == len(self._chunks):
            self._chunks.append([])
        chunk = self._chunks[place]
        insort(chunk, key)
        if len(chunk) > 2 * CHUNK:
            self._chunks[place : place + 1] = [chunk[:CHUNK], chunk[CHUNK:]]

    def remove(self, key: Key) -> None:
        place = self._place(key)
        chunk = self._chunks[place]
        del chunk[bisect_left(chunk, key)]
        if not chunk:
            del self._chunks[place]

    def above(self, key: Key | None) -> Iterator[Key]:
        place = 0 if key is None else self._place(key)
        for chunk in islice(self._chunks, place, None):
            yield from chunk if key is None else islice(chunk, bisect_right(chunk, key), None)

    def _place(self, key: Key) -> int:
        return max(0, bisect_right(self._chunks, key, key=itemgetter(0)) - 1)


class _DueIndex:
    """Ids by flow, in the order of (time, id)."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[str, Key]] = {}
        self._flows: dict[str, _SortedKeys] = {}

    def set(self, id: str, flow: str, time: datetime) -> None:
        self.remove(id)
        self._places[id] = flow, (time, id)
        if flow not in self._flows:
            self._flows[flow] = _SortedKeys()
        self._flows[flow].add((time, id))

    def remove(self, id: str) -> None:
        if id in self._places:
            flow, key = self._places.pop(id)
            self._flows[flow].remove(key)
            if not self._flows[flow]:
                del self._flows[flow]

    def time_of(self, id: str) -> datetime | None:
        return self._places[id][1][0] if id in self._places else None

    def page(self, query: DueQuery, now: datetime, get: Callable[[Key], DelayedState]) -> DuePage:
        until = LAST if query.everything else now if query.until is None else query.until
        flows = self._flows.keys() if query.flows is None else set(query.flows)
        runs = [self._flows[flow].above(query.after) for flow in flows & self._flows.keys()]
        keys = list(islice(heapq.merge(*runs), query.limit + 1))
        due = [get(key) for key in keys[: query.limit] if key[0] <= until]
        next_at = keys[len(due)][0] if len(due) < len(keys) else None
        more = next_at is not None and next_at <= until
        others = sorted(self._flows.keys() - flows) if query.others else ()
        due_others = (flow for flow in others if next(self._flows[flow].above(None))[0] <= until)
        return DuePage(due, more, now, next_at, others=list(islice(due_others, MAX_OTHERS)))


class Delays:
    """The delays and timers of a store.

    Attributes:
        count: how many delays there are; a put drops those of its state, and leaves its timers.
        references: how many of them refer to each checksum.
    """

    def __init__(self) -> None:
        self.count = 0
        self.references: Counter[str] = Counter()
        self._stored: dict[str, tuple[DelayedState, tuple[str, ...]]] = {}
        self._holders: dict[str, str] = {}
        self._by_state: dict[str, set[str]] = {}
        self._alone: set[str] = set()  # Those that were stored by themselves.
        self._order = _DueIndex()

    def add(self, id: str, delay: NewDelay, state: State, due: datetime) -> None:
        """Add a delay; one that is there already stays as it is."""
        if id not in self._stored:
            delayed = DelayedState(id, state, delay.to, delay.annotations, due, delay.commit)
            self._stored[id] = delayed, delay.references
            self.count += 1
            self.references.update(delay.references)
            self._by_state.setdefault(state.id, set()).add(id)
            self._order.set(id, delay.to, due)
            if delay.put is None:
                self._alone.add(id)

    def set_timer(self, timer: NewTimer, state_id: str, due: datetime) -> None:
        """Put a timer in the place of the one that has its id, and of the claim of that one."""
        self._holders.pop(timer.id, None)
        args = (State(state_id), timer.to, EMPTY, due, True, timer.name)
        self._stored[timer.id] = DelayedState(timer.id, *args), ()
        self._order.set(timer.id, timer.to, due)

    def remove_of(self, states: Iterable[State]) -> None:
        """Remove all delays of these states."""
        for state in states:
            for id in list(self._by_state.get(state.id, ())):
                self._remove(id)

    def move(self, state: State) -> None:
        """Let the delays that were committed with a state belong to its next revision."""
        for id in list(self._by_state.get(state.id, ())):
            if id in self._alone:
                self._remove(id)
            else:
                delayed, references = self._stored[id]
                self._stored[id] = replace(delayed, state=state), references

    def _remove(self, id: str) -> None:
        delayed, references = self._stored.pop(id)
        self._alone.discard(id)
        self._holders.pop(id, None)
        self._order.remove(id)
        if delayed.timer:
            return
        self.count -= 1
        self.references.subtract(references)
        ids = self._by_state[delayed.state.id]
        ids.discard(id)
        if not ids:
            del self._by_state[delayed.state.id]

    def drop(self, drop: Drop) -> None:
        """Remove a delay or a timer, if its holder asks for that; an empty one is no holder."""
        if drop.id in self._stored and self._holders.get(drop.id, "") == drop.holder:
            self._remove(drop.id)

    def can_claim(self, claim: Claim, now: datetime) -> bool:
        """Return whether a claim is granted."""
        due = self._order.time_of(claim.id)
        return due is not None and (due <= now or self._holders.get(claim.id) == claim.holder)

    def claim(self, claim: Claim, now: datetime) -> bool:
        """Reserve a delay for a holder; return whether it is due earlier than before."""
        before, references = self._stored[claim.id]
        delayed = replace(before, due=_later(now, timedelta(seconds=claim.seconds)))
        self._stored[claim.id], self._holders[claim.id] = (delayed, references), claim.holder
        self._order.set(claim.id, delayed.to, delayed.due)
        return delayed.due < before.due

    def earliest(self, state_id: str, rev: int) -> datetime | None:
        """Return when the earliest delay of a revision is due, if there is one."""
        delays = (self._stored[id][0] for id in self._by_state.get(state_id, ()))
        return min((delay.due for delay in delays if delay.state.rev == rev), default=None)

    def page(self, query: DueQuery, now: datetime, state_of: StateOf) -> DuePage:
        """Return a page of delays and timers."""

        def delayed(key: Key) -> DelayedState:
            found, _ = self._stored[key[1]]
            return replace(found, state=state_of(found.state.id)) if found.timer else found

        return self._order.page(query, now, delayed)


class Deadlines:
    """When latest revisions stall, and the heartbeats that came for them.

    Nothing is done for it when states are committed. The caller brings it up to date before each
    question, with the states that are still the latest by then.

    Attributes:
        beats: time and note of the last heartbeat, by id of the state.
        seen: up to which revision it is up to date.
    """

    def __init__(self) -> None:
        self.beats: dict[str, tuple[datetime, str]] = {}
        self.seen = 0
        self._order = _DueIndex()
        self.at = self._order.time_of

    def add(self, state: State, now: datetime, no_later: datetime) -> None:
        """Take a latest revision that was committed at ``now``, and stalls no later than that."""
        at = stalls_at(state, now)
        self._order.remove(state.id)
        if at is not None:
            self._set(state, min(at, no_later))

    def _set(self, state: State, time: datetime) -> None:
        self._order.set(state.id, state.transition.to, time)

    def beat(self, state: State, heartbeat: Heartbeat, now: datetime) -> None:
        """Note a heartbeat for a latest revision."""
        last, _ = self.beats.get(state.id, (None, ""))
        # The time always rises, so that a heartbeat can be told from those before it.
        at = now if last is None or last < now else last + timedelta(microseconds=1)
        self.beats[state.id] = at, heartbeat.note
        if heartbeat.seconds is not None and self.at(state.id) is not None:
            self._set(state, _later(now, timedelta(seconds=heartbeat.seconds)))

    def postpone(self, state: State, until: datetime) -> None:
        """Let a latest revision stall no earlier than a delay of it allows."""
        after, time = stalls_after(state), self.at(state.id)
        if after is not None and time is not None:
            self._set(state, max(time, _later(until, after)))

    def forget(self, id: str) -> None:
        """Take a state that has no latest revision any more."""
        self._order.remove(id)

    def page(self, query: DueQuery, now: datetime, state_of: StateOf) -> DuePage:
        """Return a page of stalled states."""
        return _page_of_states(self._order, query, now, state_of)


class Idle:
    """Latest revisions that never stall and have not ended; brought up to date as deadlines are.

    Attributes:
        seen: up to which revision it is up to date.
    """

    def __init__(self) -> None:
        self.seen = 0
        self._order = _DueIndex()
        self.forget = self._order.remove

    def add(self, state: State, *_: datetime) -> None:
        """Take a latest revision."""
        self._order.remove(state.id)
        if state.status is not Status.ENDED and stalls_after(state) is None:
            self._order.set(state.id, state.transition.to, FIRST)

    def page(self, query: DueQuery, now: datetime, state_of: StateOf) -> DuePage:
        """Return a page of these states."""
        return _page_of_states(self._order, query, now, state_of)


def _page_of_states(order: _DueIndex, query: DueQuery, now: datetime, state_of: StateOf) -> DuePage:
    def found(key: Key) -> DelayedState:
        state = state_of(key[1])
        return DelayedState(state.id, state, state.transition.to, EMPTY, key[0], commit=False)

    return order.page(query, now, found)
