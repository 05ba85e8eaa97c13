"""What a driver is asked, and what it answers: pages of revisions, what is due, signs of life."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from msgspec import Struct

from flowstate.errors import DamagedRevisionError
from flowstate.ground.frozen import FrozenDict, Value
from flowstate.state import State, Status

__all__ = [
    "DamagedDelay",
    "DamagedRevision",
    "DelayedState",
    "DueKind",
    "DuePage",
    "DueQuery",
    "Liveness",
    "Seen",
    "StateQuery",
    "States",
]

DueKind = Literal["delay", "stall", "idle"]
"""What is due: a delay or a timer that has to fire; an active state that stands still.

Or, ``idle``, a state that never stalls and has not ended, such as a paused one: it has no time, and
is always due at the first moment that there is.
"""


class StateQuery(Value, frozen=True, gc=False):
    """A page of revisions above ``after``, in the order of the log.

    The fields say what :class:`flowstate.GetStates` says, apart from these.

    Attributes:
        labels: OR of ANDs; empty means every state.
        id: only this state; ``None`` means every state.
        after: the cursor.
        since_latest: start at the newest matching revision instead.
        max_bytes: the page ends with the state whose stored form brings it to this many bytes.
        gaps_below: raise ``CompactedError`` when the log is incomplete between the cursor and
            the floor, unless the floor is at most this; ``None`` accepts any hole.
    """

    labels: tuple[FrozenDict[str, str], ...] = ()
    after: int = 0
    since_latest: bool = False
    since_time: datetime | None = None
    committed_before: datetime | None = None
    latest_only: bool = False
    status: Status | None = None
    limit: int = 100
    max_bytes: int = 16 * 1024 * 1024
    gaps_below: int | None = None
    id: str | None = None


class DamagedRevision(Struct, frozen=True, gc=False):
    """A stored revision that cannot be read: damaged, or written by a newer library.

    ``id`` is that of the state, as far as that can be read, and ``error`` what is wrong with it.
    """

    rev: int
    id: str
    error: str

    def as_error(self) -> DamagedRevisionError:
        """Return what is raised where it is met."""
        return DamagedRevisionError(self.rev, self.id, self.error)


class States(Value, frozen=True, gc=False):
    """A page, read from one snapshot of the store.

    Attributes:
        states: the matches, in the order of the log.
        scanned_to: every match up to this revision is in this page or below the cursor. The
            head, once nothing more is to be had.
        more: whether a further page may have something.
        head: the highest revision in the store.
        floor: the lowest revision from which the log is complete.
        damaged: matches, as far as the store's indexes can tell, that cannot be read, in the
            order of the log. They count for the limit.
    """

    states: Sequence[State]
    scanned_to: int
    more: bool
    head: int
    floor: int
    damaged: Sequence[DamagedRevision] = ()


class DueQuery(Struct, frozen=True, gc=False):
    """A page of what is due, in the order of (due, id).

    Attributes:
        kind: delays and timers, states that stand still, or states that never stall.
        flows: only what goes to one of these flows, or stands still in one; ``None`` means any.
            The cost follows the number of flows and the page, not what is due for other flows.
        until: due at or before; ``None`` means before the store's now.
        everything: also what is due later, whatever ``until`` says.
        after: (due, id) of the last one already seen.
        limit: at most so many. A page also ends with the one whose stored form brings it to
            ``MAX_PAGE_BYTES``; drivers that keep objects need not count them.
        others: also name flows outside ``flows`` for which something is due.
    """

    kind: DueKind
    flows: tuple[str, ...] | None = None
    until: datetime | None = None
    everything: bool = False
    after: tuple[datetime, str] | None = None
    limit: int = 100
    others: bool = False


class DelayedState(Value, frozen=True):
    """A delay or timer that has not fired; or, on a page of states, one of those.

    Attributes:
        id: names the delay; of a state, its id.
        state: as it was delayed; ``state.rev`` is the revision that the delay belongs to.
        to: the flow that it goes to; of a state, the flow that it is in.
        annotations: of the transition.
        due: when it fires, UTC; of a stalled state, since when it stands still for too long.
        commit: whether firing commits the transition first.
        timer: the name, if it is a timer: ``state`` is then the latest revision.
    """

    id: str
    state: State
    to: str
    annotations: FrozenDict[str, str]
    due: datetime
    commit: bool
    timer: str = ""


class DamagedDelay(Struct, frozen=True, gc=False):
    """Something due that cannot be read: damaged, or written by a newer library.

    Attributes:
        id: names the delay; of a stalled state, its id.
        state_id: the state, as far as that can be read.
        due: when it was to fire, UTC; ``None`` when that is what is damaged.
        error: what is wrong with it.
    """

    id: str
    state_id: str
    due: datetime | None
    error: str


class DuePage(Value, frozen=True, gc=False):
    """A page of what is due.

    Attributes:
        due: in the order of (due, id). Stalled states are latest revisions.
        more: whether there are further ones that answer the query.
        now: the store's clock when the page was read.
        next_at: when the earliest one after this page is due, or ``None``. It is of the flows of
            the query.
        damaged: those of the page that cannot be read. They count for the limit, apart from
            those without a time, which have no place in the order and come with the first page.
            One whose flow cannot be read is on the pages of all flows.
        others: flows outside the query for which something is due, at most 100, in order; empty
            unless the query asked for them.
    """

    due: Sequence[DelayedState]
    more: bool
    now: datetime
    next_at: datetime | None
    damaged: Sequence[DamagedDelay] = ()
    others: Sequence[str] = ()

    @property
    def end(self) -> tuple[datetime, str] | None:
        """(due, id) of the last one of the page, for ``DueQuery.after``."""
        places = [(each.due, each.id) for each in self.due[-1:]]
        places += [(bad.due, bad.id) for bad in self.damaged if bad.due is not None]
        return max(places, default=None)


class Liveness(Value, frozen=True, gc=False):
    """What is known about the latest revision of a state.

    Attributes:
        rev: that revision.
        stalls_at: when it counts as stalled; ``None``: never.
        beat_at: when the last heartbeat came for it, by the store's clock; ``None``: none came.
        note: of that heartbeat.
        now: the store's clock.
        delay_due: when the earliest delay of that revision that can be read is due; ``None`` when
            there is none, or all of them are damaged.
    """

    rev: int
    stalls_at: datetime | None
    beat_at: datetime | None
    note: str
    now: datetime
    delay_due: datetime | None


class Seen(Struct, frozen=True, gc=False):
    """What a caller of :meth:`Driver.changed` has seen."""

    head: int = -1
    """The highest revision in the store."""
    due: int = -1
    """A number that changes when delays may have been written, by any process."""
