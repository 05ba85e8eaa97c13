"""Since when a state has stood still, by the clock of the process that is to recover it."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import attrs

from flowstate.driver import Liveness
from flowstate.executions.tenure import STOP_AT
from flowstate.recovery_rules import retry_after, stalls_after
from flowstate.state import State

__all__ = ["Looks"]

FIRST = datetime.min.replace(tzinfo=UTC)
MOST_LOOKS = 1_000
PART_OF_AGE = 1 / 25  # So far apart are those that are kept.
MOST_DOUBTS = 10_000
TIDY_EVERY = 1.0  # Seconds: each of many that find no room must not look through all of them.


@attrs.define(eq=False)
class Look:
    """What a process saw of the store.

    Attributes:
        at: when it had seen that, by its monotonic clock.
        least: what the store's clock has shown at the least from then on to the next look.
        head: a revision that the store had by then.
    """

    at: float
    least: datetime
    head: int


@attrs.define(eq=False)
class Looks:
    """Remembers what a process saw of the store, to tell what has truly stalled.

    The store's clock alone cannot tell. It may jump ahead, or have been behind when a deadline was
    set: both let what is alive look stalled until its next heartbeat.
    """

    _looks: list[Look] = attrs.field(init=False, factory=list)
    _began: datetime = attrs.field(init=False, default=FIRST)  # What the first look has shown.
    _doubts: dict[str, tuple[object, float]] = attrs.field(init=False, factory=dict)
    _tidy_at: float = attrs.field(init=False, default=-math.inf)

    def add(self, at: float, store_now: datetime, head: int) -> None:
        """Remember a look; the older they are, the fewer are kept, and always the first."""
        if self._looks:
            last = self._looks[-1]
            last.least = min(last.least, store_now - timedelta(seconds=at - last.at))
        else:
            self._began = store_now
        self._looks.append(Look(at, store_now, head))
        if len(self._looks) > MOST_LOOKS:
            self._looks = _thinned_out(self._looks)

    def recoverable_at(self, state: State, found: Liveness, seen_at: float) -> float:
        """Return when nothing can execute a state any more, unless it moves until then.

        An engine stops what it could not keep alive for nine tenths of the time. It measures them
        from before the store heard of the state, and this process from after that.

        Args:
            state: that has stalled by the store's clock.
            found: what is known about it.
            seen_at: when that was seen, by the monotonic clock.
        """
        if found.stalls_at == found.beat_at:
            return -math.inf  # A heartbeat of no seconds hands it over.
        after = stalls_after(state) or retry_after(state)
        stalls_at = found.stalls_at or found.now
        began = stalls_at - min(after, stalls_at - FIRST)
        tenure = after.total_seconds() * STOP_AT
        if _was_behind(state, found, began):
            return self._doubted(state.id, (stalls_at, found.beat_at), seen_at, tenure)
        rev = state.transition.since or state.rev  # A change from outside is no sign of life.
        return min(self._standing_since(rev, began, seen_at - tenure), seen_at) + tenure

    def _standing_since(self, rev: int, began: datetime, enough: float) -> float:
        """Return since when a state has been seen to stand still; ``math.inf`` if never.

        The first look is believed, as there is none before it that could show it wrong.
        """
        since = math.inf
        for look in reversed(self._looks):
            if look.head < rev or look.least < began or since <= enough:
                return since
            since = look.at
        return since - max(0.0, (self._began - began).total_seconds())

    def _doubted(self, id: str, sign: object, seen_at: float, tenure: float) -> float:
        """Count from when this very sign of life was seen first: its time says nothing."""
        noted, at = self._doubts.get(id, (None, math.inf))
        if noted == sign:
            return at
        if len(self._doubts) >= MOST_DOUBTS and seen_at >= self._tidy_at:
            self._tidy_at = seen_at + TIDY_EVERY
            # Those whose time is over have moved on.
            self._doubts = {id: doubt for id, doubt in self._doubts.items() if doubt[1] > seen_at}
        if len(self._doubts) < MOST_DOUBTS:  # The others have their turn after these.
            self._doubts[id] = sign, seen_at + tenure
        return seen_at + tenure


def _was_behind(state: State, found: Liveness, began: datetime) -> bool:
    """Return whether the clock was behind at the last sign of life, and may be right again.

    The other times of a state never go back, so that they show the first. A time that has not
    come yet, of a clock that was ahead once, shows that it is still as it was.
    """
    times = [found.beat_at, None if state.transition.since else state.committed_at]
    return any(time is not None and began < time <= found.now for time in times)


def _thinned_out(looks: Sequence[Look]) -> list[Look]:
    kept = [looks[-1]]
    now, age, least = kept[0].at, 0.0, kept[0].least
    for place, look in zip(range(len(looks) - 2, -1, -1), reversed(looks[:-1]), strict=True):
        least = look.least = min(look.least, least)
        if not place or now - look.at > age * (1 + PART_OF_AGE):
            kept.append(look)
            age, least = now - look.at, look.least
    return kept[::-1]
