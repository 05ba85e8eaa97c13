"""From when revisions stand still that no table of deadlines has looked at yet."""

from collections.abc import Iterable
from datetime import datetime

from flowstate.drivers.memory.due import LAST, stalls_at
from flowstate.drivers.memory.log import LONG_AGO
from flowstate.state import State

__all__ = ["Standing"]


class Standing:
    """What a deadline has to know of a revision, apart from the revision itself."""

    def __init__(self) -> None:
        self._set_back: dict[int, datetime] = {}  # When they came while the clock was behind.
        self._no_later: dict[int, datetime] = {}  # When they stall that keep that time.

    def came(self, revs: Iterable[int], now: datetime) -> None:
        """Note revisions that came while the clock was behind the time that is stamped on them."""
        self._set_back.update(dict.fromkeys(revs, now))

    def keep(self, rev: int, at: datetime | None) -> None:
        """Let a revision stall no later than the one before, which stalls then if at all."""
        if at is not None:
            self._no_later[rev] = at

    def since(self, state: State) -> datetime:
        """Return the time from which a revision stands still, if it is not delayed."""
        return self._set_back.get(state.rev) or state.committed_at or LONG_AGO

    def limit(self, rev: int) -> datetime:
        """Return the time after which a revision has stalled in any case, if it stalls at all."""
        return self._no_later.get(rev, LAST)

    def stalls_at(self, state: State) -> datetime | None:
        """Return when a revision stalls, or ``None``: never."""
        at = stalls_at(state, self.since(state))
        return None if at is None else min(at, self.limit(state.rev))

    def clear(self) -> None:
        """Forget all of them: they have been looked at."""
        self._set_back.clear()
        self._no_later.clear()
