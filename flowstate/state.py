"""States and transitions: frozen values, shared without copying."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, TypeVar, overload

from msgspec import UNSET, Raw

from flowstate.data import DataRef
from flowstate.ground.frozen import EMPTY, Value
from flowstate.values import get_value

__all__ = [
    "Cause",
    "STACK_PREFIX",
    "State",
    "Status",
    "Timer",
    "Transition",
]

T = TypeVar("T")
D = TypeVar("D")
Cause = Literal["transit", "pause", "resume", "end", "delay", "timer", "signal", "forget"]
STACK_PREFIX = "flowstate.stack."  # Of the annotations that hold contexts, and of their data.
LAST_MOMENT = datetime.max.replace(tzinfo=UTC)


class Status(StrEnum):
    """Whether a state wants to be executed."""

    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"


class Transition(Value, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """How a state got where it is.

    Attributes:
        to: the flow id that the state went to; empty for a state that never moved.
        annotations: what the caller wished to note about this step.
        cause: what made the step, one of :data:`Cause`; ``"delay"`` when a delay fired. A state
            of a newer library may have another one.
        unknown: fields written by a newer library, as JSON, kept as they came.
        origin: names the step that the state has been in since, for ``ctx.effect_key``; empty
            when the revision with this transition began it.
        since: the revision since which the state was only changed from outside of its flow, as by
            ``engine.update``; 0 when this revision is no such change.
    """

    to: str = ""
    annotations: Mapping[str, str] = EMPTY
    cause: str = "transit"
    unknown: Mapping[str, bytes] = EMPTY
    origin: str = ""
    since: int = 0


NEVER_MOVED = Transition()


class Timer(Value, frozen=True, gc=False, omit_defaults=True):
    """An alarm of a state: see :class:`flowstate.SetTimer`.

    Attributes:
        to: the flow id that it sends the state to.
        due: when it fires, UTC; or
        after: how long after the commit that set it, in the revision of that commit.
    """

    to: str
    due: datetime | None = None
    after: timedelta | None = None

    def due_at(self, committed_at: datetime | None) -> datetime | None:
        """Return when it fires, if the commit that set it was at this time."""
        if self.after is None or committed_at is None:
            return self.due
        try:
            return committed_at + self.after
        except OverflowError:
            return LAST_MOMENT


class State(
    Value,
    frozen=True,
    gc=False,
    omit_defaults=True,
    forbid_unknown_fields=True,
    tag_field="v",
    tag=1,
):
    """One revision of a state, or the draft of the next one.

    Mappings given to it are frozen when a context takes it.
    The class is its own wire form (see :mod:`flowstate.codec`): a field that is renamed here is
    renamed in every store.

    Attributes:
        id: at most 512 bytes of UTF-8.
        rev: the store-wide revision; 0 for a state that was never committed.
        labels: indexed; states are found by them. At most 64.
        annotations: not indexed. At most 1 MiB in all.
        transition: the last step that was taken.
        status: active, paused or ended.
        committed_at: when the revision was committed, UTC, by the store's clock.
        delayed_until: when the earliest delay that was committed with this revision is due.
        data: alias to what it refers to; at most 256, and as many as 1,024 of stacked contexts.
        unknown: fields written by a newer library, as JSON, kept as they came.
        values: JSON by name; see ``ctx.get`` and ``ctx.put``. At most 1 MiB in all.
        timers: alarms by name, at most 64.
    """

    id: str
    rev: int = 0
    labels: Mapping[str, str] = EMPTY
    annotations: Mapping[str, str] = EMPTY
    transition: Transition = NEVER_MOVED
    status: Status = Status.ACTIVE
    committed_at: datetime | None = None
    delayed_until: datetime | None = None
    data: Mapping[str, DataRef] = EMPTY
    unknown: Mapping[str, bytes] = EMPTY
    values: Mapping[str, Raw] = EMPTY
    timers: Mapping[str, Timer] = EMPTY

    def __hash__(self) -> int:
        return hash((self.id, self.rev))

    @overload
    def get(self, kind: type[T], name: str = ...) -> T: ...
    @overload
    def get(self, kind: type[T], name: str = ..., default: D = ...) -> T | D: ...
    @overload
    def get(self, kind: Any, name: str = ..., default: Any = ...) -> Any: ...
    def get(self, kind: Any, name: str = "value", default: Any = UNSET) -> Any:
        """Return a value that ``ctx.put`` has stored.

        When the stored JSON is no such type, a classmethod ``__flowstate_upgrade__`` of the type is
        given it, as plain lists, dicts and so on, and returns that of today.

        Args:
            kind: a class of msgspec or attrs, a dataclass, or anything of Python that JSON has.
            name: of the value.
            default: what to return if there is no such value.

        Raises:
            ValueNotFoundError: there is none, and no default.
            ValueDecodeError: it cannot be decoded as the type; says where.
            InvalidInputError: nothing can be decoded as that type.
        """
        return get_value(self.values, (self.id, self.rev), kind, name, default)

    def timer_due(self, name: str) -> datetime | None:
        """Return when the timer ``name`` of a committed revision fires; ``None``: it has none.

        In a working copy it is also ``None`` for a timer that counts from a commit still to come,
        if the state was never committed; else that is as if it counted from the last commit.
        """
        timer = self.timers.get(name)
        return None if timer is None else timer.due_at(self.committed_at)
