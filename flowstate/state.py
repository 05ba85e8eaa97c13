"""States and transitions: frozen values, shared without copying."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from flowstate.data import DataRef
from flowstate.errors import InvalidInputError
from flowstate.frozen import EMPTY, FrozenDict, freeze

__all__ = ["Cause", "State", "Status", "Transition", "frozen"]

Cause = Literal["transit", "pause", "resume", "end", "delay"]


class Status(StrEnum):
    """Whether a state wants to be executed."""

    ACTIVE = "active"
    PAUSED = "paused"
    ENDED = "ended"


class Transition(
    Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    forbid_unknown_fields=True,
    repr_omit_defaults=True,
):
    """How a state got where it is.

    Attributes:
        to: the flow id that the state went to; empty for a state that never moved.
        annotations: whatever the caller wished to note about this step.
        cause: what made the step; ``"delay"`` when a delay fired.
        unknown: fields written by a newer library, kept as they came.
    """

    to: str = ""
    annotations: Mapping[str, str] = EMPTY
    cause: Cause = "transit"
    unknown: Mapping[str, bytes] = EMPTY


NEVER_MOVED = Transition()


class State(
    Struct,
    frozen=True,
    gc=False,
    omit_defaults=True,
    forbid_unknown_fields=True,
    repr_omit_defaults=True,
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
        labels: indexed; states are found by them.
        annotations: not indexed.
        transition: the last step that was taken.
        status: active, paused or ended.
        committed_at: when the revision was committed, UTC, by the store's clock.
        delayed_until: when the earliest delay that was committed with this revision is due.
        data: alias to what it refers to.
        unknown: fields written by a newer library, kept as they came.
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


def frozen(state: State) -> State:
    """Return ``state`` with frozen copies of the mappings that are not frozen yet.

    Raises:
        InvalidInputError: one of them is not a mapping.
    """
    thawed: dict[str, Any] = {}
    if type(state.labels) is not FrozenDict:
        thawed["labels"] = freeze("state.labels", state.labels)
    if type(state.annotations) is not FrozenDict:
        thawed["annotations"] = freeze("state.annotations", state.annotations)
    if type(state.data) is not FrozenDict:
        thawed["data"] = freeze("state.data", state.data)
    transition = state.transition
    if not isinstance(transition, Transition):
        kind = type(transition).__name__
        raise InvalidInputError("state.transition", f"must be a Transition, not {kind}")
    if type(transition.annotations) is not FrozenDict:
        annotations = freeze("state.transition.annotations", transition.annotations)
        thawed["transition"] = replace(transition, annotations=annotations)
    return replace(state, **thawed) if thawed else state
