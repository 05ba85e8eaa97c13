"""How operations end, as JSON, and back: a run without a crash sees what a run after one would."""

import math
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from flowstate import InvalidInputError
from flowstate.engines.kernel.code import MisfitError
from flowstate.engines.kernel.errors import restored
from flowstate.engines.kernel.operations import (
    Call,
    Each,
    Failed,
    Gave,
    Go,
    Handler,
    Join,
    Operation,
    Outcome,
    Run,
    Wait,
)
from flowstate.engines.kernel.outside import Outside
from flowstate.engines.kernel.threads import Ended

__all__ = ["decoded", "is_exact", "message_name", "outcome_of", "source_of"]

EXACT = (int, bool, type(None))  # Classes of which it gives back every value.


def outcome_of(operation: Operation, ended: Ended) -> Outcome:
    """Return the outcome of an operation for the code that asked for it."""
    if ended.error is not None:
        return Failed(restored(ended.error))
    try:
        return Gave(_value_of(operation, ended.gave))
    except msgspec.MsgspecError as error:
        what = f"result of {operation.name!r}"
        return Failed(InvalidInputError(what, f"is not of its type: {error}"))


def _value_of(  # noqa: PLR0911 - one for each kind
    operation: Operation, raw: Raw
) -> Any:
    match operation:
        case Run():
            return decoded(operation.options.gives, raw)
        case Wait() if operation.sources:
            name, value = decoded(tuple[str, Raw], raw)
            source = source_of(operation, name)
            if source is None:  # A message was taken that is not waited for any more.
                raise MisfitError(f"stop {operation.name!r} does not wait for {name!r} any more")
            if isinstance(source, Handler):
                return name, decoded(source.update.takes, value)
            return decoded(source.gives if isinstance(source, Outside) else source, value)
        case Go():
            return decoded(str, raw)
        case Call():
            return decoded(operation.code.gives, raw)
        case Each():
            return [decoded(operation.workflow.gives, each) for each in decoded(list[Raw], raw)]
        case Join():
            pairs = decoded(list[tuple[int, Raw]], raw)
            values = [_value_of(operation.branches[index], each) for index, each in pairs]
            return operation.shape(values)
    return None


def message_name(source: Any) -> str:
    """Return what the messages of a source are called."""
    if isinstance(source, Outside):
        return source.kind
    name = source.name if isinstance(source, Handler) else getattr(source, "__name__", None)
    if not isinstance(name, str):
        raise InvalidInputError("sources", f"must be classes, not {type(source).__name__}")
    return name


def source_of(wait: Wait, name: str) -> Any:
    """Return the source of the messages of a name, or ``None`` if there is none."""
    return next((each for each in wait.sources if message_name(each) == name), None)


def is_exact(value: Any, kind: Any) -> bool:
    """Return whether JSON, decoded as a type, surely gives a value back as it is."""
    if type(value) is not kind:
        return False
    if kind is str:
        return value.isascii() and "\0" not in value
    return kind in EXACT or (kind is float and math.isfinite(value))


def decoded(kind: Any, raw: Raw) -> Any:
    """Decode JSON as a type.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return _decoder(kind).decode(raw)


def _decoder(kind: Any) -> "msgspec.json.Decoder[Any]":
    try:
        return _cached(kind)
    except TypeError:  # Not hashable.
        return msgspec.json.Decoder(kind)


@lru_cache(maxsize=512)
def _cached(kind: Any) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(kind)
