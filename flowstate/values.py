"""Typed values of a state, kept as JSON with it: what ``get`` and ``put`` do."""

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, get_origin

import msgspec
from msgspec import UNSET, Raw

from flowstate.errors import InvalidInputError, ValueDecodeError, ValueNotFoundError
from flowstate.ground.frozen import EMPTY, FrozenDict, exact, freeze
from flowstate.ground.limits import MAX_VALUES_BYTES, check_id

__all__ = [
    "UPGRADE",
    "checked_values",
    "encoded",
    "get_value",
    "is_json",
    "with_value",
    "without_value",
]

UPGRADE = "__flowstate_upgrade__"
WHITE_SPACE = b" \t\r\n"
# Interpreters differ in how deep they can read, and a value may be read by another one than wrote
# it, where the stack of calls is deeper.
MAX_DEPTH = 500
DEEPER = b"[" * 200
SHALLOW = 100  # So many brackets are.
TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
TO_LISTS = bytes.maketrans(b"{}", b"[]")
NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
NUL = b"\\u0000"
UNESCAPED_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
PATH = re.compile(r" - at `(.*)`$")


def is_json(raw: bytes) -> bool:
    """Return whether ``raw`` is a JSON value that every store gives back as it is."""
    if raw[:1] in WHITE_SPACE or raw[-1:] in WHITE_SPACE or _has_nul(raw):
        return False
    try:
        msgspec.json.decode(raw)  # One value: also "1, 2" can be within brackets.
        brackets = raw.count(b"[") + raw.count(b"{")
        if brackets > SHALLOW:
            msgspec.json.decode(DEEPER + raw + b"]" * len(DEEPER))
            return brackets <= MAX_DEPTH or _depth(raw) <= MAX_DEPTH
    except (ValueError, RecursionError):
        return False
    return True


def _depth(raw: bytes) -> int:
    """Return how deep lists and objects lie within each other in a JSON value, up to the limit."""
    left, depth = TEXT.sub(b"", raw).translate(TO_LISTS, NO_BRACKETS), 0
    while left and depth <= MAX_DEPTH:
        left, depth = left.replace(b"[]", b""), depth + 1  # The innermost ones.
    return depth


def _has_nul(raw: bytes) -> bool:
    return NUL in raw and UNESCAPED_NUL.search(raw) is not None


def checked_values(
    values: Mapping[str, Raw], known: Mapping[str, Raw] = EMPTY
) -> FrozenDict[str, Raw]:
    """Return the values of a state to be stored; those that are among the known ones are right."""
    size = 0
    for name, raw in values.items():
        if type(name) is not str or known.get(name, known) is not raw:
            _check_value(name, raw)
        size += _size(name, raw)
    if size > MAX_VALUES_BYTES:
        raise InvalidInputError("state.values", f"must be at most {MAX_VALUES_BYTES} bytes in all")
    return values if type(values) is FrozenDict else FrozenDict(values)


def _check_value(name: str, raw: Raw) -> None:
    name = check_id("state.values key", name)
    if type(raw) is not Raw or not is_json(bytes(raw)):
        raise InvalidInputError(f"state.values[{name!r}]", "must be JSON without NUL; see ctx.put")


def with_value(values: Mapping[str, Raw], name: str, value: Any) -> Mapping[str, Raw]:
    """Return values with one more, or with another one under this name."""
    name, before = check_id("name", name), freeze("state.values", values)
    raw = encoded(f"values[{name!r}]", value)
    if name in before and bytes(before[name]) == bytes(raw):
        return before
    changed = FrozenDict({**before, name: raw})
    size = sum(_size(key, each) for key, each in changed.items())
    if size > MAX_VALUES_BYTES:
        reason = f"makes {size} bytes of values; a state has at most {MAX_VALUES_BYTES}"
        raise InvalidInputError(f"values[{name!r}]", reason)
    return changed


def without_value(values: Mapping[str, Raw], name: str) -> Mapping[str, Raw]:
    """Return values without the one under this name, if there is one."""
    name, before = check_id("name", name), freeze("state.values", values)
    if name not in before:
        return before
    return FrozenDict({key: raw for key, raw in before.items() if key != name})


def get_value(
    values: Mapping[str, Raw], of: tuple[str, int], kind: Any, name: str, default: Any
) -> Any:
    """Do ``State.get``, which says what is promised; errors name the id and revision in ``of``."""
    raw = values.get(name)
    if raw is None:
        if default is UNSET:
            raise ValueNotFoundError(*of, name)
        return default
    decoder = _decoder_of(kind)
    try:
        return decoder.decode(raw)
    except Exception as error:  # noqa: BLE001 - user's classes are made, and may raise anything
        failure: Exception = error
    # An alias such as ``Order[int]`` hides what its class has.
    if callable(upgrade := getattr(get_origin(kind) or kind, UPGRADE, None)):
        try:
            return decoder.decode(_encode(upgrade(msgspec.json.decode(raw))))
        except Exception as error:  # noqa: BLE001 - as above
            failure = error
    raise ValueDecodeError(*of, name, *_place_and_reason(failure)) from failure


def _place_and_reason(error: Exception) -> tuple[str, str]:
    """Return where something is wrong, and what."""
    if not isinstance(error, msgspec.MsgspecError):
        return "$", type(error).__name__  # Of user's classes: the text may be of any length.
    reason = str(error)
    found = PATH.search(reason)
    return (found[1], reason[: found.start()]) if found else ("$", reason)


def _decoder_of(kind: Any) -> "msgspec.json.Decoder[Any]":
    try:
        return _cached_decoder(kind)
    except TypeError as error:
        raise InvalidInputError("kind", f"cannot be decoded as: {error}") from error


@lru_cache(maxsize=256)
def _cached_decoder(kind: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(kind)


def encoded(field: str, value: Any, known: Raw | None = None) -> Raw:
    """Return a value as JSON that every store gives back as it is.

    Args:
        field: names the value in errors.
        value: of a class of msgspec or attrs, a dataclass, or anything of Python that JSON has.
        known: what this function or a store gave before; it is returned if it is the same JSON,
            which then needs no further check.

    Raises:
        InvalidInputError: it cannot be stored as JSON; names the field.
    """
    try:
        text = _encode(value)
        if known is not None and text == bytes(known) and b"null" not in text:
            return known
        is_exact = b"null" not in text or type(value) is Raw or _is_finite(value)
    except Exception as error:
        what = str(error) if type(error) is TypeError else type(error).__name__
        raise InvalidInputError(field, f"cannot be stored as JSON: {what}") from error
    if not is_exact:
        raise InvalidInputError(field, "must not contain NaN or an infinite number")
    if _has_nul(text):
        raise InvalidInputError(field, "must not contain NUL")
    if not is_json(text):
        raise InvalidInputError(field, "is nested too deeply, or no JSON")
    return Raw(text)


def _plain(value: Any) -> Any:
    """Return what msgspec can encode of what it cannot: a subclass of ``str``."""
    text = exact(value)
    if type(text) is not str:
        raise TypeError(f"objects of type {type(value).__name__} are not supported")
    return text


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


def _plain_around_json(value: Any) -> Any:
    """Do the same, and leave out what is JSON already: that has no other numbers."""
    return None if isinstance(value, Raw) else _plain(value)


def _is_finite(value: Any) -> bool:
    """Return whether all numbers are finite: JSON would have ``null`` for the others."""
    left = [msgspec.to_builtins(value, enc_hook=_plain_around_json)]
    while left:
        each = left.pop()
        if isinstance(each, float) and not math.isfinite(each):
            return False
        if isinstance(each, dict):
            left += each.values()
        elif isinstance(each, list | tuple | set | frozenset):
            left += each
    return True


def _size(name: str, raw: Raw) -> int:
    return len(name) + memoryview(raw).nbytes
