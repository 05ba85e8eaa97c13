"""When the latest revisions stall, and the heartbeats that came for them."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from msgspec import Struct

from flowstate.driver import Heartbeat
from flowstate.drivers.memory.sorted_keys import Key, SortedKeys
from flowstate.stalling import stalls_after
from flowstate.state import State

__all__ = ["Beat", "Stalling"]

LAST = datetime.max.replace(tzinfo=UTC)


class Beat(Struct, frozen=True, gc=False):
    """The last heartbeat for a revision."""

    rev: int
    at: datetime
    note: str


class Stalling:
    """The times at which states stall, in their order.

    Nothing is done for it when states are committed. Whoever asks has it catch up with the states
    that are still the latest by then. What is outdated is forgotten when its time comes.

    Attributes:
        beats: by id of the state.
        seen: up to which revision it has caught up.
    """

    def __init__(self) -> None:
        self.beats: dict[str, Beat] = {}
        self.seen = 0
        self._times: dict[str, tuple[datetime, int]] = {}  # With the revision, by id.
        self._order = SortedKeys()

    def add(self, state: State) -> None:
        """Add a latest revision, if it can stall."""
        after = stalls_after(state)
        start = state.delayed_until or state.committed_at
        if after is not None and start is not None:
            self._set(state.id, state.rev, _later(start, after))

    def at(self, id: str, rev: int) -> datetime | None:
        """Return when a revision stalls."""
        time, of = self._times.get(id, (None, 0))
        return time if of == rev else None

    def beat(self, heartbeat: Heartbeat, now: datetime) -> None:
        """Note a heartbeat for a latest revision."""
        id, rev, last = heartbeat.id, heartbeat.rev, self.beats.get(heartbeat.id)
        # The time always rises, so that a heartbeat can be told from those before it.
        at = now if last is None or last.at < now else last.at + timedelta(microseconds=1)
        self.beats[id] = Beat(rev, at, heartbeat.note)
        if heartbeat.seconds is not None and self.at(id, rev) is not None:
            self._set(id, rev, _later(now, timedelta(seconds=heartbeat.seconds)))

    def delay(self, state: State, until: datetime) -> None:
        """Let a latest revision stall no earlier than a delay of it allows."""
        after, time = stalls_after(state), self.at(state.id, state.rev)
        if after is not None and time is not None:
            self._set(state.id, state.rev, max(time, _later(until, after)))

    def forget(self, states: Iterable[State]) -> None:
        """Forget the heartbeats for what is replaced."""
        for state in states:
            self.beats.pop(state.id, None)

    def page(
        self, after: Key | None, now: datetime, limit: int, is_latest: Callable[[str, int], bool]
    ) -> tuple[list[tuple[Key, int]], Key | None]:
        """Return at most ``limit`` of what stalls by now, with the revisions, and what is next."""
        found: list[tuple[Key, int]] = []
        outdated: list[Key] = []
        following: Key | None = None
        for key in self._order.above(after):
            rev = self._times[key[1]][1]
            if not is_latest(key[1], rev):
                outdated.append(key)
            elif key[0] <= now and len(found) < limit:
                found.append((key, rev))
            else:
                following = key
                break
        for key in outdated:
            self._order.remove(key)
            del self._times[key[1]]
        return found, following

    def _set(self, id: str, rev: int, time: datetime) -> None:
        old = self._times.get(id)
        if old is not None:
            self._order.remove((old[0], id))
        self._times[id] = (time, rev)
        self._order.add((time, id))


def _later(time: datetime, by: timedelta) -> datetime:
    return time + by if by < LAST - time else LAST
