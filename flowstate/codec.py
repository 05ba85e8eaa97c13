"""The one stored form of states, shared by all drivers: JSON with a version.

What a reader of stored bytes may rely on:

- ``"v": 1`` says how to read it. A higher version is refused with :class:`CodecError`.
- A field that this library does not know is kept, and written again with the next revision.
- Fields with default values are left out.
- No class names, no code: only JSON values, so data outlives refactoring and languages.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from flowstate.data import DataRef
from flowstate.errors import CodecError
from flowstate.frozen import EMPTY, FrozenDict
from flowstate.state import State, Transition, frozen

__all__ = [
    "ABSENT",
    "DelayBody",
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


class DelayBody(Struct, frozen=True, omit_defaults=True, tag_field="v", tag=1):
    """What a stored delay holds beside its keys.

    Attributes:
        to: the flow that it goes to.
        annotations: of the transition.
        commit: whether firing commits the transition first.
        state: the encoded state; ``ABSENT`` when it is the one in the log at the delay's revision.
    """

    to: str
    annotations: Mapping[str, str] = EMPTY
    commit: bool = True
    state: Raw = ABSENT


class ContextBody(Struct, frozen=True, omit_defaults=True, tag_field="v", tag=1):
    """A whole context, as it is stacked into an annotation."""

    current: Raw
    committed: Raw = ABSENT
    with_commit: bool = False
    transitions: tuple[Raw, ...] = ()


_encoder = msgspec.json.Encoder()
_state_decoder = msgspec.json.Decoder(State)
_delay_decoder = msgspec.json.Decoder(DelayBody)
_context_decoder = msgspec.json.Decoder(ContextBody)
_raw_decoder = msgspec.json.Decoder(dict[str, Raw])
_text_map_decoder = msgspec.json.Decoder(dict[str, str])

# What msgspec raises for bytes that are not the JSON expected: ValidationError and DecodeError
# are ValueErrors, so are bad UTF-8 and dates out of range. TypeError: it is not even bytes.
_DAMAGED = (ValueError, RecursionError, TypeError)


def encode_state(state: State) -> bytes:
    """Encode everything of ``state``, its revision included."""
    return _encode(state)


def encode_body(state: State) -> str:
    """Encode what a store keeps as the body of a revision: all but what it stamps itself."""
    return _encode(replace(state, rev=0, committed_at=None, delayed_until=None)).decode()


def decode_state(
    body: bytes | str,
    rev: int | None = None,
    committed_at: datetime | None = None,
    delayed_until: datetime | None = None,
) -> State:
    """Decode a state; with ``rev`` stamp it with what the store keeps beside the body.

    Raises:
        CodecError: damaged, or of a newer version.
    """
    try:
        state = _state_decoder.decode(body)
    except _DAMAGED:
        state = _decode_slowly(body, State)
    state = frozen(state)
    if rev is None:
        return state
    return replace(state, rev=rev, committed_at=committed_at, delayed_until=delayed_until)


def encode_delay(body: DelayBody) -> bytes:
    """Encode a delay."""
    return _encoder.encode(body)


def decode_delay(body: bytes | str) -> DelayBody:
    """Decode a delay.

    Raises:
        CodecError: damaged, or of a newer version.
    """
    try:
        return _delay_decoder.decode(body)
    except _DAMAGED as error:
        raise CodecError(f"delay: {error}") from error


def encode_annotations(annotations: Mapping[str, str]) -> bytes:
    """Encode the annotations of data; its blob is stored as it is."""
    return _encoder.encode(annotations)


def decode_annotations(body: bytes | str) -> FrozenDict[str, str]:
    """Decode the annotations of data.

    Raises:
        CodecError: damaged.
    """
    try:
        return FrozenDict(_text_map_decoder.decode(body))
    except _DAMAGED as error:
        raise CodecError(f"annotations: {error}") from error


def encode_context(
    current: State,
    committed: State,
    transitions: tuple[Transition, ...],
    *,
    with_commit: bool,
) -> str:
    """Encode a context as text for an annotation.

    Args:
        current: the working copy.
        committed: what the store has.
        transitions: taken since the last commit.
        with_commit: the same commit gives the context a revision that is not known yet.
    """
    body = ContextBody(
        current=Raw(_encode(current)),
        committed=ABSENT if committed == current else Raw(_encode(committed)),
        with_commit=with_commit,
        transitions=tuple(Raw(_encode(transition)) for transition in transitions),
    )
    return _encoder.encode(body).decode()


def decode_context(text: str) -> tuple[State, State, tuple[Transition, ...], bool]:
    """Decode what :func:`encode_context` made, in the order of its arguments.

    Raises:
        CodecError: damaged, or of a newer version.
    """
    try:
        body = _context_decoder.decode(text)
    except _DAMAGED as error:
        raise CodecError(f"stacked context: {error}") from error
    current = decode_state(bytes(body.current))
    same = bytes(body.committed) == bytes(ABSENT)
    committed = current if same else decode_state(bytes(body.committed))
    transitions = tuple(_decode_slowly(bytes(raw), Transition) for raw in body.transitions)
    return current, committed, transitions, body.with_commit


def _encode(value: State | Transition | DataRef) -> bytes:
    """Encode a value, with its unknown fields beside the known ones."""
    return _encoder.encode(_flat(value) if _has_unknown(value) else value)


def _has_unknown(value: State | Transition | DataRef) -> bool:
    if value.unknown:
        return True
    if type(value) is not State:
        return False
    if value.transition.unknown:
        return True
    return bool(value.data) and any(ref.unknown for ref in value.data.values())


def _flat(value: State | Transition | DataRef) -> dict[str, Any]:
    known = msgspec.json.decode(_encoder.encode(replace(value, unknown=EMPTY)), type=dict[str, Raw])
    if isinstance(value, State):
        known["transition"] = Raw(_encode(value.transition))
        known["data"] = Raw(_encoder.encode({k: Raw(_encode(v)) for k, v in value.data.items()}))
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
    known = msgspec.json.decode(_encoder.encode(raw), type=kind)
    return replace(known, **fields)
