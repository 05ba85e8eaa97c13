"""The one lease rule: how long something stays ours after the store has heard of it.

The holder of something measures its seconds with its own monotonic clock, from before the request
was sent. The store counts from when it got the request, so the holder's time always ends first,
and no clocks of two machines are compared.
"""

import math

import attrs
import msgspec
from msgspec import Struct

from flowstate.context import StateContext
from flowstate.driver import Heartbeat
from flowstate.recovery_rules import STOP_AT
from flowstate.retrying import text_of

__all__ = ["Held", "NEVER", "Note", "RENEW_AT", "RETRY_AFTER", "STOP_AT", "Tenure", "read_note"]

NEVER = -math.inf
"""When the store last heard of something, if that is not known."""

# Parts of the time.
RENEW_AT = 1 / 3
RETRY_AFTER = 1 / 12


class Tenure(Struct, frozen=True, gc=False):
    """Something that is held for a time, and renewed: an execution, a lease, a claimed delay.

    Attributes:
        seconds: how long the store keeps it for its holder, who renews it.
        sent_at: when the request was sent that the store has surely got, by the holder's
            monotonic clock; ``NEVER`` when that is not known.
        part: of the seconds, for which the holder may rely on it.
    """

    seconds: float
    sent_at: float
    part: float = STOP_AT

    @property
    def valid_until(self) -> float:
        """When the holder has to stop, because others may take it over soon."""
        return self.sent_at + self.seconds * self.part

    @property
    def renew_at(self) -> float:
        """When the holder has to send the next request."""
        return self.sent_at + self.seconds * RENEW_AT

    def retry_at(self, failed_at: float) -> float:
        """Return when to send a request again whose outcome is not known."""
        return failed_at + self.seconds * RETRY_AFTER

    def renewed(self, sent_at: float) -> "Tenure":
        """Return what holds after a request got through; a late reply shortens nothing."""
        return Tenure(self.seconds, max(sent_at, self.sent_at), self.part)


class Note(Struct, frozen=True, omit_defaults=True):
    """What a heartbeat says.

    Attributes:
        engine: the name of the engine that sent it.
        seconds: for how long it had executed the state by then; ``None`` when it no longer does.
        error: what the flow raised, with its message.
        handed_over: the engine stopped, and interrupted the flow or never began it. Another
            engine may go on at once, and counts no attempt for it.
    """

    engine: str = ""
    seconds: float | None = None
    error: str = ""
    handed_over: bool = False

    def encode(self) -> str:
        """Return the text for a heartbeat."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def of_failure(cls, engine: str, error: BaseException) -> "Note":
        """Return what is noted when a flow has raised."""
        return cls(engine, None, text_of(error))


def read_note(text: str) -> Note:
    """Return what a heartbeat said; an empty note if that was something else."""
    try:
        return msgspec.json.decode(text, type=Note)
    except (ValueError, RecursionError):
        return Note()


@attrs.define(eq=False, repr=False)
class Held:
    """What heartbeats are sent for: an execution, or the term of a lease.

    Attributes:
        ctx: its state is held, at the revision that is committed.
        seconds: how long the store keeps it; ``None``: there is nothing to keep.
        sent_at: when the store surely heard of the state last; ``NEVER`` if that is not known.
        fresh_until: when the store has to hear of it again.
    """

    ctx: StateContext
    seconds: float | None = attrs.field(init=False, default=None)
    sent_at: float = attrs.field(init=False, default=NEVER)
    fresh_until: float = attrs.field(init=False, default=math.inf)
    _retry_at: float = attrs.field(init=False, default=0.0)

    def catch_up(self) -> None:
        """Take note of what has changed; called before it is asked for its times."""

    @property
    def part(self) -> float:
        """Of the seconds, for which the holder may rely on it."""
        return STOP_AT

    def renewable_at(self, sent_at: float) -> float:
        """Return when to send the next heartbeat, if one that is sent now gets through."""
        return math.inf if self.seconds is None else sent_at + self.seconds * RENEW_AT

    @property
    def tenure(self) -> Tenure | None:
        """How long it is held; ``None``: there is nothing to keep."""
        return None if self.seconds is None else Tenure(self.seconds, self.sent_at, self.part)

    @property
    def beat_at(self) -> float:
        """When to send a heartbeat, or to try again."""
        return math.inf if self.seconds is None else max(self.fresh_until, self._retry_at)

    @property
    def stop_at(self) -> float:
        """When it has to stop, because others may take it over soon."""
        tenure = self.tenure
        return math.inf if tenure is None else tenure.valid_until

    def may_beat(self, now: float) -> bool:
        """Return whether a heartbeat does no harm."""
        return now < self.stop_at

    def heartbeat(self, engine: str, now: float) -> Heartbeat:
        """Return a heartbeat that is about to be sent."""
        if self.tenure is not None:
            self._retry_at = self.tenure.retry_at(now)
        return Heartbeat(self.ctx.committed.id, self.ctx.committed.rev, None, Note(engine).encode())

    def answered(self, beat: Heartbeat, is_latest: bool, sent_at: float, now: float) -> None:
        """Note what the store has said to a heartbeat."""
        if self.ctx.committed.rev != beat.rev:
            return  # It has moved on by itself meanwhile.
        if not is_latest:
            self.supersede()
        elif self.may_beat(now):
            self.renewed(sent_at)

    def renewed(self, sent_at: float) -> None:
        """Note that the store has heard of the state after this time."""
        if self.tenure is not None:
            self.sent_at = self.tenure.renewed(sent_at).sent_at
            self.fresh_until = self.renewable_at(self.sent_at)

    def release(self) -> None:
        """Keep it no longer: it is not ours any more."""
        self.seconds, self.fresh_until = None, math.inf

    def supersede(self) -> None:
        """Note that others have moved it on."""
        self.release()

    def lose(self) -> None:
        """Stop it, because others may have taken it over."""
        self.release()
