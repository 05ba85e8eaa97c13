"""Delays that have not fired, by id, by state and by time."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from msgspec.structs import replace

from flowstate.driver import DelayedState, DelayedStates, DelayQuery, NewDelay, Writes
from flowstate.drivers.memory.sorted_keys import SortedKeys
from flowstate.state import State

__all__ = ["Delays", "due_of"]


class Delays:
    """The delays of a store.

    Attributes:
        count: how many there are.
    """

    def __init__(self) -> None:
        self.count = 0
        self._by_id: dict[str, DelayedState] = {}
        self._by_state: dict[str, set[str]] = {}
        self._order = SortedKeys()

    def add(self, delay: DelayedState) -> None:
        """Add a delay."""
        self._by_id[delay.id] = delay
        self.count += 1
        self._by_state.setdefault(delay.state.id, set()).add(delay.id)
        self._order.add((delay.due, delay.id))

    def remove(self, id: str) -> None:
        """Remove a delay, if it is there."""
        delay = self._by_id.pop(id, None)
        if delay is None:
            return
        self.count -= 1
        self._order.remove((delay.due, id))
        ids = self._by_state[delay.state.id]
        ids.discard(id)
        if not ids:
            del self._by_state[delay.state.id]

    def due_of(self, state_id: str, rev: int) -> datetime | None:
        """Return when the earliest delay of a revision is due, if there is one."""
        delays = (self._by_id[id] for id in self._by_state.get(state_id, ()))
        return min((delay.due for delay in delays if delay.state.rev == rev), default=None)

    def remove_of(self, states: Iterable[State]) -> None:
        """Remove all delays of these states."""
        for state in states:
            for id in list(self._by_state.get(state.id, ())):
                self.remove(id)

    def claim(self, id: str, due: datetime, until: datetime) -> bool:
        """Move a delay from ``due`` to ``until``, unless it is gone or was moved."""
        delay = self._by_id.get(id)
        if delay is None or delay.due != due:
            return False
        self.remove(id)
        self.add(replace(delay, due=until))
        return True

    def page(self, query: DelayQuery, now: datetime) -> DelayedStates:
        """Return a page of delays."""
        until = now if query.until is None else query.until
        found: list[DelayedState] = []
        for due, id in self._order.above(query.after):
            if not query.everything and due > until:
                return DelayedStates(found, more=False, now=now, next_due=due)
            if len(found) == query.limit:
                return DelayedStates(found, more=True, now=now, next_due=due)
            found.append(self._by_id[id])
        return DelayedStates(found, more=False, now=now, next_due=None)


def due_of(delay: NewDelay, now: datetime) -> datetime:
    """Return when a delay is due, by the store's ``now``."""
    if delay.due is not None:
        return delay.due
    try:
        return now + (delay.after or timedelta(0))
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def delayed_puts(writes: Writes, dues: Sequence[datetime]) -> tuple[State, ...]:
    """Return the puts, each with the time of its earliest delay."""
    earliest: dict[int | None, datetime] = {}
    for delay, due in zip(writes.delays, dues, strict=True):
        earliest[delay.put] = min(due, earliest.get(delay.put, due))
    return tuple(
        replace(state, delayed_until=earliest.get(place)) for place, state in enumerate(writes.puts)
    )
