"""What is checked of a state before it is stored, and made exact."""

from collections.abc import Mapping
from typing import Any, get_args

from msgspec import Struct
from msgspec.structs import replace

from flowstate.data import DataRef
from flowstate.errors import InvalidInputError
from flowstate.ground.frozen import EMPTY, FrozenDict, exact, freeze
from flowstate.ground.limits import (
    MAX_ALIASES,
    MAX_ANNOTATIONS_BYTES,
    MAX_ID_BYTES,
    MAX_STACKED_DATA,
    MAX_TIMERS,
    check_annotations,
    check_duration,
    check_id,
    check_labels,
    check_rev,
    check_text,
    to_utc,
)
from flowstate.state import NEVER_MOVED, STACK_PREFIX, Cause, State, Status, Timer, Transition
from flowstate.values import checked_values, is_json

__all__ = ["checked", "checked_ref", "checked_whole", "frozen"]

CAUSES = frozenset(get_args(Cause))
MAX_REF_BYTES = 1024  # Of the unknown fields of one reference.
MAX_ORIGIN = 64
NOTHING = State("")  # Nothing of a state that has any is the same as of this one.
KNOWN_FIELDS: dict[type[Struct], frozenset[str]] = {
    kind: frozenset({"v", *kind.__struct_fields__}) for kind in (State, Transition, DataRef)
}


def frozen(state: State) -> State:
    """Return ``state`` with frozen mappings and exact strings; itself if it has them."""
    if (
        type(state) is State
        and type(state.id) is str
        and type(state.labels) is FrozenDict
        and type(state.annotations) is FrozenDict
        and type(state.data) is FrozenDict
        and type(state.unknown) is FrozenDict
        and type(state.values) is FrozenDict
        and type(state.timers) is FrozenDict
        and (state.transition is NEVER_MOVED or _is_frozen(state.transition))
    ):
        return state
    _check_kind("state", state, State)
    transition, field = state.transition, "state.transition"
    _check_kind(field, transition, Transition)
    if not _is_frozen(transition):
        transition = Transition(
            _text(f"{field}.to", transition.to),
            freeze(f"{field}.annotations", transition.annotations),
            _text(f"{field}.cause", transition.cause),
            freeze(f"{field}.unknown", transition.unknown),
            _text(f"{field}.origin", transition.origin),
            transition.since,
        )
    return State(
        exact(state.id),
        state.rev,
        freeze("state.labels", state.labels),
        freeze("state.annotations", state.annotations),
        transition,
        state.status,
        state.committed_at,
        state.delayed_until,
        freeze("state.data", state.data),
        freeze("state.unknown", state.unknown),
        freeze("state.values", state.values),
        freeze("state.timers", state.timers),
    )


def _is_frozen(transition: Transition) -> bool:
    return (
        type(transition) is Transition
        and type(transition.to) is str
        and type(transition.annotations) is FrozenDict
        and type(transition.cause) is str
        and type(transition.unknown) is FrozenDict
        and type(transition.origin) is str
    )


def checked(
    state: State,
    known: State,
    own: Transition | None = None,
    *,
    is_frozen: bool = False,
    is_known: bool = False,
) -> State:
    """Return the state to put: valid, exact, and with the revision that it expects to replace.

    Args:
        state: what becomes of the state.
        known: the revision that the store is believed to have; ``rev`` 0 means none.
        own: a transition that needs no check, because the core has just made it.
        is_frozen: whether it is known to have frozen mappings and exact strings.
        is_known: whether the store gave ``known``: what the state has of it needs no check.
    """
    if not is_frozen:
        state = frozen(state)
    if is_known and state.id is known.id:
        id, right = state.id, known
    else:
        id, right = _checked_ids(state, known), NOTHING
    if type(state.status) is not Status:
        kind = type(state.status).__name__
        raise InvalidInputError("state.status", f"must be a Status, not {kind}")
    labels, annotations, data, unknown = state.labels, state.annotations, state.data, state.unknown
    transition = state.transition
    if (
        transition is own
        and not (labels or annotations or data or unknown or state.values or state.timers)
        and (type(state.rev) is int and state.rev == known.rev)
        and (state.committed_at is None and state.delayed_until is None)
    ):
        return state  # As it should be: a state that has nothing yet.
    if labels is not right.labels:
        labels = check_labels("state.labels", labels, right.labels) if labels else EMPTY
    if annotations is not right.annotations:
        annotations = check_annotations("state.annotations", annotations) if annotations else EMPTY
    return State(
        id,
        known.rev,
        labels,
        annotations,
        transition if transition is own else _checked_transition(transition, known),
        state.status,
        None,
        None,
        _checked_data(data) if data else EMPTY,
        _checked_unknown("state", unknown, State) if unknown else EMPTY,
        checked_values(state.values, right.values) if state.values else EMPTY,
        _checked_timers(state.timers) if state.timers else EMPTY,
    )


def _checked_ids(state: State, known: State) -> str:
    id = check_id("state.id", state.id)
    if type(known) is not State or type(known.rev) is not int or known.rev:
        _check_kind("committed", known, State)
        check_rev("committed.rev", known.rev)
        if id != check_id("committed.id", frozen(known).id):
            raise InvalidInputError("state.id", "cannot change; use ctx.fork")
    return id


def checked_whole(state: State, known: State) -> State:
    """Return a state as :func:`checked` does, but with its times."""
    times = {
        name: to_utc(f"state.{name}", at)
        for name in ("committed_at", "delayed_until")
        if (at := getattr(state, name)) is not None
    }
    return replace(checked(state, known), **times)


def _checked_transition(transition: Transition, known: State) -> Transition:
    check_text("state.transition.to", transition.to, MAX_ID_BYTES)
    cause = transition.cause
    if type(cause) is not str or cause not in CAUSES:
        cause = check_text("state.transition.cause", cause, MAX_ID_BYTES)
        # A newer library's cause is left alone: only recovery of such a state writes it again.
        if not known.rev or known.transition.cause != cause:
            reason = f"must be one of {', '.join(sorted(CAUSES))}"
            raise InvalidInputError("state.transition.cause", reason)
    annotations, unknown = transition.annotations, transition.unknown
    if annotations:
        annotations = check_annotations("state.transition.annotations", annotations)
    if unknown:
        unknown = _checked_unknown("state.transition", unknown, Transition)
    check_text("state.transition.origin", transition.origin, MAX_ORIGIN)
    if type(transition.since) is not int or transition.since:  # As nearly never.
        check_rev("state.transition.since", transition.since)
    if annotations is transition.annotations and unknown is transition.unknown:
        return transition
    return replace(transition, annotations=annotations, unknown=unknown)


def _checked_data(data: Mapping[str, DataRef]) -> FrozenDict[str, DataRef]:
    refs = {check_id("state.data key", alias): ref for alias, ref in data.items()}
    stacked = sum(alias.startswith(STACK_PREFIX) for alias in refs)
    if len(refs) - stacked > MAX_ALIASES:
        raise InvalidInputError("state.data", f"must be at most {MAX_ALIASES} aliases")
    if stacked > MAX_STACKED_DATA:
        reason = f"must be at most {MAX_STACKED_DATA} data of stacked contexts"
        raise InvalidInputError("state.data", reason)
    return FrozenDict({alias: checked_ref(alias, ref) for alias, ref in refs.items()})


def _checked_timers(timers: Mapping[str, Timer]) -> FrozenDict[str, Timer]:
    if len(timers) > MAX_TIMERS:
        raise InvalidInputError("state.timers", f"must be at most {MAX_TIMERS}, not {len(timers)}")
    return FrozenDict(
        {check_id("state.timers key", name): _checked_timer(name, t) for name, t in timers.items()}
    )


def _checked_timer(name: str, timer: Timer) -> Timer:
    field = f"state.timers[{name!r}]"
    _check_kind(field, timer, Timer)
    if (timer.due is None) == (timer.after is None):
        raise InvalidInputError(field, "needs either a time or a duration")
    due = None if timer.due is None else to_utc(f"{field}.due", timer.due)
    after = None if timer.after is None else check_duration(f"{field}.after", timer.after)
    return Timer(check_id(f"{field}.to", timer.to), due, after)


def checked_ref(alias: str, ref: DataRef) -> DataRef:
    """Return a reference with an exact checksum."""
    field = f"state.data[{alias!r}]"
    _check_kind(field, ref, DataRef)
    check_rev(f"{field}.rev", ref.rev)
    checksum = check_id(f"{field}.checksum", ref.checksum)
    unknown = freeze(f"{field}.unknown", ref.unknown)
    if unknown:
        unknown = _checked_unknown(field, unknown, DataRef, MAX_REF_BYTES)
    return DataRef(ref.rev, checksum, unknown)


def _checked_unknown(
    owner: str,
    unknown: Mapping[str, bytes],
    kind: type[Struct],
    limit: int = MAX_ANNOTATIONS_BYTES,
) -> FrozenDict[str, bytes]:
    field = f"{owner}.unknown"
    size = 0
    made: dict[str, bytes] = {}
    for key, raw in unknown.items():
        name = check_id(f"{field} key", key)
        if name in KNOWN_FIELDS[kind]:
            raise InvalidInputError(f"{field} key", f"must not be {name!r}, which is known")
        if type(raw) is not bytes or not is_json(raw):
            raise InvalidInputError(f"{field}[{name!r}]", "must be JSON, as bytes")
        size += len(name) + len(raw)
        made[name] = raw
    if size > limit:
        raise InvalidInputError(field, f"must be at most {limit} bytes in all")
    return FrozenDict(made)


def _text(field: str, value: object) -> str:
    text: Any = exact(value)
    _check_kind(field, text, str)
    return text  # type: ignore[no-any-return]


def _check_kind(field: str, value: object, kind: type) -> None:
    """Refuse subclasses too: they could not be read back as what they were."""
    if type(value) is not kind:
        raise InvalidInputError(field, f"must be a {kind.__name__}, not {type(value).__name__}")
