"""What a driver is given to store: commits, checked and encoded, and signs of life."""

from datetime import datetime, timedelta

from msgspec import Struct

from flowstate.data import Data
from flowstate.errors import FlowstateError
from flowstate.ground.frozen import FrozenDict, Value
from flowstate.state import State

__all__ = ["Claim", "Drop", "Heartbeat", "NewDelay", "NewTimer", "Verdict", "Writes"]


class NewDelay(Value, frozen=True, gc=False):
    """A delay to be stored: a :class:`DelayedState` with its stored form.

    Attributes:
        state: the state as it is to go on; at revision ``state.rev`` unless ``put`` is given.
        due: when it fires, UTC; or
        after: how long from the store's now.
        body: the stored form, JSON text: see :class:`flowstate.codec.DelayBody`.
        put: the index in ``Writes.puts`` of the state whose new revision the delay belongs to.
        references: checksums of data that must be kept for as long as the delay is there.
    """

    state: State
    to: str
    annotations: FrozenDict[str, str]
    due: datetime | None
    after: timedelta | None
    commit: bool
    body: str
    put: int | None = None
    references: tuple[str, ...] = ()


class NewTimer(Value, frozen=True, gc=False):
    """A timer of a state that is put, to be stored in the place of one with the same id.

    It is found among the delays that are due, and claimed and dropped as they are. It belongs to
    the state, not to a revision: no put removes it, and it postpones no recovery.

    Attributes:
        id: as of a delay; the same for the same name and state.
        name: of the timer.
        put: the index in ``Writes.puts`` of the state.
        to: the flow that it goes to.
        due: when it fires, UTC; or
        after: how long from the store's now.
        body: the stored form, JSON text: see :class:`flowstate.codec.DelayBody`.
    """

    id: str
    name: str
    put: int
    to: str
    due: datetime | None
    after: timedelta | None
    body: str


class Claim(Struct, frozen=True, gc=False):
    """Reserves a delay for one holder while the flow that it started runs.

    The claim is granted when the delay is there and is due by the store's now, or when ``holder``
    has claimed it already. The delay is then due ``seconds`` from the store's now. A claim that is
    refused refuses its whole commit with :class:`flowstate.ClaimLostError`.
    """

    id: str
    holder: str
    seconds: float


class Drop(Struct, frozen=True, gc=False):
    """Removes a delay or a timer that is there and that ``holder`` claimed last.

    The holder is empty for one that was never claimed. Otherwise nothing happens.
    """

    id: str
    holder: str


class Writes(Value, frozen=True, gc=False):
    """One commit, as the driver sees it: all of it is stored, or nothing.

    Nothing in it can be refused for its form: the core has checked and encoded all of it.

    Attributes:
        token: unique to this commit. Stored with its revisions; the ids of its delays are the
            token, a dot, and their index. The same token is never applied twice.
        puts: new revisions. ``rev`` of each is the stored latest revision that it expects (0:
            there must be none). The ids differ from each other.
        bodies: the stored form of each put, JSON text. Empty for a driver whose
            ``stores_objects`` is true.
        checks: (id, rev) that must be the stored latest, without being written.
        data: to be stored under ``data.checksum``, unless that is stored already.
        delays: to be stored. A put drops all older delays of its state, apart from ``keeps``.
        needs: checksums that must be stored already, because a put or a delay newly refers to
            them.
        claims: delays to be claimed.
        drops: delays to be removed.
        size: bytes of all this, as far as it counts for ``Driver.max_batch_bytes``.
        timers: to be stored; each belongs to a state that is put.
        forgets: indexes in ``puts`` of states to be forgotten: that revision is their last one.
            It stays in the log until it is compacted, but the state has no latest revision any
            more, so the id may begin again at revision 0.
        keeps: indexes in ``puts`` of states that only change, and move nowhere. The new revision
            takes over the delays that were committed with the one before, and stalls no later than
            that one. ``delayed_until`` of these puts is what the revision has, as it was before.
            They are not new, are not forgotten, and get no delays with this commit.
    """

    token: str
    puts: tuple[State, ...] = ()
    bodies: tuple[str, ...] = ()
    checks: tuple[tuple[str, int], ...] = ()
    data: tuple[Data, ...] = ()
    delays: tuple[NewDelay, ...] = ()
    needs: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    drops: tuple[Drop, ...] = ()
    size: int = 0
    timers: tuple[NewTimer, ...] = ()
    forgets: tuple[int, ...] = ()
    keeps: tuple[int, ...] = ()

    def delay_id(self, index: int) -> str:
        """Return the id of the delay with this index in ``delays``."""
        return f"{self.token}.{index}"


Verdict = tuple[State, ...] | FlowstateError
"""The committed revisions, one for each put, in order; or why nothing was written."""


class Heartbeat(Value, frozen=True, gc=False):
    """A sign of life for one revision of a state, from the engine that executes or holds it.

    Attributes:
        id: of the state.
        rev: only while this is the state's latest revision.
        seconds: how long from the store's now the state may stand still; 0 hands it over, so that
            it is due at once; ``None`` changes nothing about that, nor does a number for a state
            that never stalls.
        note: for others to read, at most ``MAX_NOTE_BYTES`` of UTF-8; replaces the last one.
    """

    id: str
    rev: int
    seconds: float | None
    note: str
