"""The one stored form of states, shared by all drivers: JSON with a version.

What a reader of stored bytes may rely on:

- ``"v": 1`` says how to read it. A higher version is refused with :class:`CodecError`.
- A field that this library does not know is kept, and written again with the next revision.
- Fields with default values are left out.
- No class names, no code: only JSON values, so data outlives refactoring and languages.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from flowstate.data import Data, DataRef
from flowstate.driver import NewDelay, NewTimer
from flowstate.errors import CodecError, InvalidCommandError
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.ground.limits import MAX_COMMIT_BYTES, text_bytes
from flowstate.state import STACK_PREFIX, State, Transition

__all__ = [
    "ABSENT",
    "DelayBody",
    "commit_size",
    "data_size",
    "decode_annotations",
    "decode_context",
    "decode_delay",
    "decode_state",
    "encode_annotations",
    "encode_body",
    "encode_context",
    "encode_delay",
    "encode_state",
]

T = TypeVar("T", bound=Struct)
ABSENT = Raw(b"null")
LARGE_STATE = 24 * 1024 * 1024  # More bytes than any encoded state has.
FEW_STATES = MAX_COMMIT_BYTES // LARGE_STATE
LARGE_LABELS = 512 * 1024  # More bytes than a state without annotations and data has.
BYTES_PER_CHARACTER = 6  # At most, in JSON.
MAX_NESTED = 128  # Contexts within each other that are kept as JSON; further ones are text.


class DelayBody(Struct, frozen=True, omit_defaults=True, tag_field="v", tag=1):
    """What a stored delay holds apart from its keys.

    Attributes:
        to: the flow that it goes to.
        annotations: of the transition.
        commit: whether firing commits the transition first.
        state: the encoded state; ``ABSENT`` when it is the one in the log at the delay's revision,
            or, of a timer, the latest one.
        timer: the name of a timer; empty for a delay.
    """

    to: str
    annotations: Mapping[str, str] = EMPTY
    commit: bool = True
    state: Raw = ABSENT
    timer: str = ""


class ContextBody(Struct, frozen=True, omit_defaults=True, tag_field="v", tag=1):
    """A whole context, as it is stacked into an annotation.

    Attributes:
        current: the working copy, without the annotations in ``stacks``.
        committed: what the store has, without those in ``kept``; ``ABSENT``: the same.
        with_commit: the commit that stored this gave the context its revision.
        transitions: taken since the last commit.
        stacks: contexts that are stacked in this one, by name. Kept as text, as annotations are,
            each level would double the size.
        kept: the names of those that ``committed`` has as well.
        taken: how many transitions were taken, if some are not among them any more.
    """

    current: Raw
    committed: Raw = ABSENT
    with_commit: bool = False
    transitions: tuple[Raw, ...] = ()
    stacks: dict[str, Raw] = {}
    kept: tuple[str, ...] = ()
    taken: int = 0


class NestedBody(ContextBody, frozen=True, omit_defaults=True, tag_field="v", tag=2):
    """One with ``stacks``, which the first version of this library would overlook."""


_encoder = msgspec.json.Encoder()
_state_decoder = msgspec.json.Decoder(State)
_delay_decoder = msgspec.json.Decoder(DelayBody)
_context_decoder = msgspec.json.Decoder(ContextBody | NestedBody)
_raw_decoder = msgspec.json.Decoder(dict[str, Raw])
_text_map_decoder = msgspec.json.Decoder(dict[str, str])

# What msgspec raises for bytes that are not the JSON expected: ValidationError and DecodeError
# are ValueErrors, so are bad UTF-8 and dates out of range. TypeError: it is not even bytes.
_DAMAGED = (ValueError, RecursionError, TypeError)


def encode_state(value: State | Transition | DataRef) -> bytes:
    """Encode all of a state or a part of one, with its unknown fields among the known ones."""
    return _encoder.encode(_flat(value) if _has_unknown(value) else value)


def encode_body(state: State) -> str:
    """Encode what a store keeps as the body of a revision: all but what it stamps itself."""
    if state.rev or state.committed_at is not None or state.delayed_until is not None:
        state = replace(state, rev=0, committed_at=None, delayed_until=None)
    if state.unknown or state.transition.unknown or state.data:
        return encode_state(state).decode()
    return _encoder.encode(state).decode()


def decode_state(
    body: bytes | str,
    rev: int | None = None,
    committed_at: datetime | None = None,
    delayed_until: datetime | None = None,
) -> State:
    """Decode a state; with ``rev`` stamp it with what the store keeps apart from the body."""
    try:
        state = _state_decoder.decode(body)
    except _DAMAGED:
        state = _decode_slowly(body, State)
    if rev is None:
        rev, committed_at, delayed_until = state.rev, state.committed_at, state.delayed_until
    transition = state.transition
    if type(transition.annotations) is not FrozenDict:
        transition = replace(transition, annotations=FrozenDict(transition.annotations))
    return State(
        state.id,
        rev,
        FrozenDict(state.labels) if state.labels else EMPTY,
        FrozenDict(state.annotations) if state.annotations else EMPTY,
        transition,
        state.status,
        committed_at,
        delayed_until,
        FrozenDict(state.data) if state.data else EMPTY,
        state.unknown,
        # Copies: the others would keep all of the body.
        FrozenDict({k: raw.copy() for k, raw in state.values.items()}) if state.values else EMPTY,
        FrozenDict(state.timers) if state.timers else EMPTY,
    )


def encode_delay(body: DelayBody) -> str:
    """Encode a delay."""
    return _encoder.encode(body).decode()


def decode_delay(body: bytes | str) -> DelayBody:
    """Decode a delay."""
    try:
        return _delay_decoder.decode(body)
    except _DAMAGED as error:
        raise CodecError(f"delay: {error}") from error


def encode_annotations(annotations: Mapping[str, str]) -> bytes:
    """Encode the annotations of data; its blob is stored as it is."""
    return _encoder.encode(annotations)


def decode_annotations(body: bytes | str) -> FrozenDict[str, str]:
    """Decode the annotations of data."""
    try:
        return FrozenDict(_text_map_decoder.decode(body))
    except _DAMAGED as error:
        raise CodecError(f"annotations: {error}") from error


def commit_size(
    states: Sequence[State],
    bodies: Sequence[str],
    data: Sequence[Data],
    delays: Sequence[NewDelay],
    timers: Sequence[NewTimer] = (),
) -> int:
    """Return how many bytes a commit has; without bodies they are measured only if need be."""
    if not bodies and len(states) <= FEW_STATES and not data and not delays:
        return 0
    rows = [*[delay.body for delay in delays], *[timer.body for timer in timers]]
    rest = sum(map(data_size, data)) + sum(map(text_bytes, rows))
    is_large = rest + LARGE_STATE * len(states) > MAX_COMMIT_BYTES
    if is_large and not bodies and rest + sum(map(_most_bytes, states)) > MAX_COMMIT_BYTES:
        bodies = tuple(map(encode_body, states))
    size = rest + sum(map(text_bytes, bodies))
    if size > MAX_COMMIT_BYTES:
        raise InvalidCommandError("commit", f"must be at most {MAX_COMMIT_BYTES} bytes, not {size}")
    return size


def data_size(data: Data) -> int:
    """Return how many bytes data has."""
    return len(data.blob) + len(encode_annotations(data.annotations))


def _most_bytes(state: State) -> int:
    """Return a bound for the bytes of a checked state."""
    if state.data or state.unknown or state.transition.unknown or state.values or state.timers:
        return LARGE_STATE
    texts = chain(state.annotations.items(), state.transition.annotations.items())
    return LARGE_LABELS + sum([BYTES_PER_CHARACTER * (len(k) + len(v) + 6) for k, v in texts])


def encode_context(
    current: State,
    committed: State,
    transitions: tuple[Transition, ...],
    taken: int = 0,
    *,
    with_commit: bool,
) -> str:
    """Encode a context as text for an annotation.

    With ``with_commit`` the same commit gives the context a revision that is not known yet; what
    it had committed before is left out.
    """
    known = current if with_commit else committed
    steps = () if with_commit else tuple(Raw(encode_state(step)) for step in transitions)
    taken = taken if taken > len(steps) and not with_commit else 0
    stacks = {name: Raw(text.encode()) for name, text in _stacks(current).items()}
    kept: tuple[str, ...] = ()
    other = ABSENT
    if known != current:
        kept = tuple(sorted(dict(_stacks(known).items() & _stacks(current).items())))
        other = Raw(encode_state(_without(known, kept)))
    own = Raw(encode_state(_without(current, stacks)))
    kind = NestedBody if stacks else ContextBody
    return _encoder.encode(kind(own, other, with_commit, steps, stacks, kept, taken)).decode()


def _stacks(state: State) -> dict[str, str]:
    """Return the contexts that are stacked in ``state``, by name."""
    return {
        key.removeprefix(STACK_PREFIX): text
        for key, text in state.annotations.items()
        if key.startswith(STACK_PREFIX) and _is_context(text)
    }


def _is_context(text: str) -> bool:
    """Return whether ``text`` can be kept as JSON, and read as such with any stack of calls."""
    if text.count('"stacks":') > MAX_NESTED:
        return False
    try:
        _context_decoder.decode(text)
    except _DAMAGED:
        return False
    return True


def _without(state: State, stacks: Iterable[str]) -> State:
    keys = {STACK_PREFIX + name for name in stacks}
    if not keys:
        return state
    left = {key: text for key, text in state.annotations.items() if key not in keys}
    return replace(state, annotations=FrozenDict(left))


def decode_context(text: str) -> tuple[State, State, tuple[Transition, ...], int, bool]:
    """Decode what :func:`encode_context` made, in the order of its arguments."""
    try:
        body = _context_decoder.decode(text)
        stacks = {name: bytes(raw).decode() for name, raw in body.stacks.items()}
        kept = {name: stacks[name] for name in body.kept}
    except (*_DAMAGED, KeyError) as error:
        raise CodecError(f"stacked context: {error}") from error
    current = _with(decode_state(bytes(body.current)), stacks)
    same = bytes(body.committed) == bytes(ABSENT)
    committed = current if same else _with(decode_state(bytes(body.committed)), kept)
    transitions = tuple(_decode_slowly(bytes(raw), Transition) for raw in body.transitions)
    return current, committed, transitions, body.taken, body.with_commit


def _with(state: State, stacks: Mapping[str, str]) -> State:
    if not stacks:
        return state
    stacked = {STACK_PREFIX + name: text for name, text in stacks.items()}
    return replace(state, annotations=FrozenDict({**state.annotations, **stacked}))


def _has_unknown(value: State | Transition | DataRef) -> bool:
    if not value.unknown and isinstance(value, State):
        refs = any(ref.unknown for ref in value.data.values())
        return bool(value.transition.unknown) or refs
    return bool(value.unknown)


def _flat(value: State | Transition | DataRef) -> dict[str, Any]:
    known = msgspec.json.decode(_encoder.encode(replace(value, unknown=EMPTY)), type=dict[str, Raw])
    if isinstance(value, State):
        known["transition"] = Raw(encode_state(value.transition))
        known["data"] = Raw(
            _encoder.encode({k: Raw(encode_state(v)) for k, v in value.data.items()})
        )
    return known | {name: Raw(raw) for name, raw in value.unknown.items()}


def _decode_slowly(body: bytes | str, kind: type[T]) -> T:
    """Decode what the strict decoder refused: perhaps it only has fields of a newer library."""
    try:
        return _build(_raw_decoder.decode(body), kind)
    except _DAMAGED as error:
        raise CodecError(f"{kind.__name__.lower()}: {error}") from error


def _build(raw: dict[str, Raw], kind: type[T]) -> T:
    names = {"v", *kind.__struct_fields__} - {"unknown"}
    unknown = {name: bytes(raw.pop(name)) for name in list(raw) if name not in names}
    fields: dict[str, Any] = {"unknown": FrozenDict(unknown) if unknown else EMPTY}
    if kind is State:
        if "transition" in raw:
            nested = _raw_decoder.decode(raw.pop("transition"))
            fields["transition"] = _build(nested, Transition)
        refs = msgspec.json.decode(raw.pop("data", b"{}"), type=dict[str, dict[str, Raw]])
        fields["data"] = FrozenDict({k: _build(v, DataRef) for k, v in refs.items()})
    if kind is Transition:
        notes = msgspec.json.decode(raw.pop("annotations", b"{}"), type=dict[str, str])
        fields["annotations"] = FrozenDict(notes) if notes else EMPTY
    known = msgspec.json.decode(_encoder.encode(raw), type=kind)
    return replace(known, **fields)
