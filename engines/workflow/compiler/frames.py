"""The stored form of what is alive at a stop, made and read."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
import msgspec
from msgspec import Raw, Struct

from flowstate import InvalidInputError
from flowstate.engines.kernel.code import Frame, MisfitError, Stop
from flowstate.engines.kernel.outcomes import is_exact
from flowstate.engines.kernel.values import kept
from flowstate.engines.workflow.compiler.raised import ERRORS, LiveErrors, read_errors
from flowstate.engines.workflow.compiler.visit import Loop, Visit

__all__ = ["Entry", "Held", "Kept", "decoder_of", "read_frame", "read_name", "saved_frame"]

_encode = msgspec.json.Encoder().encode

Decoder = msgspec.json.Decoder[Any]


def _decoded_error(kind: Any, value: Any) -> Any:
    found = read_errors(Raw(msgspec.json.encode(value)))[0]
    if not isinstance(found, kind):
        raise TypeError(f"is a {type(found).__name__}, not a {kind.__name__}")
    return found


def _raw(value: Any) -> Raw:
    """Return as JSON what surely is fit for it."""
    return Raw(_encode(value))


def decoder_of(kind: Any) -> Decoder:
    """Return what decodes a type, errors included."""
    return msgspec.json.Decoder(kind, dec_hook=_decoded_error)


NONE = Raw()


class Items(Struct, frozen=True):
    """The place of a loop over what is not read again."""

    at: int
    items: Raw


class Exit(Struct, frozen=True, omit_defaults=True):
    """How a region was left whose ``finally`` runs."""

    exit: str
    error: int | None = None
    value: Raw = NONE


POSITION = msgspec.json.Decoder(int)
RANGE = msgspec.json.Decoder(tuple[int, int, int, int])
ITEMS = msgspec.json.Decoder(Items)
EXIT = msgspec.json.Decoder(Exit)


@attrs.frozen
class Held:
    """A name that is stored at a stop.

    Attributes:
        name: as people know it.
        local: as the interpreter knows it.
        kind: its type.
        decoder: of the type.
        is_optional: it need not have a value.
    """

    name: str
    local: str
    kind: Any
    decoder: Decoder
    is_optional: bool = False


@attrs.frozen
class Kept:
    """A level of a stop.

    Attributes:
        number: of the level.
        key: in the place.
        stores: what there is of it.
        decoder: of the items of a loop, or of the value that the function returns.
        catches: the names of the classes of an ``except``, as far as they are known.
    """

    number: int
    key: str
    stores: Literal["position", "range", "items", "except", "finally"]
    decoder: Decoder
    catches: frozenset[str] = frozenset()


@attrs.frozen
class Entry:
    """A stop, prepared for storing and entering.

    Attributes:
        number: of the stop.
        stop: what is known about it.
        names: that are stored.
        levels: around it.
        keys: of the levels.
    """

    number: int
    stop: Stop
    names: Sequence[Held]
    levels: Sequence[Kept]
    keys: frozenset[str] = attrs.field(init=False)

    @keys.default
    def _keys(self) -> frozenset[str]:
        return frozenset(level.key for level in self.levels)


def saved_frame(code: str, entry: Entry, values: Mapping[str, Any], visit: Visit) -> Frame:
    """Return the frame of a function that is left at a stop.

    Raises:
        TypeError: something cannot be stored; says what.
    """
    names: dict[str, Raw] = {}
    for held in entry.names:
        try:
            value = values[held.local]
        except KeyError:
            continue  # Python says so when it is read.
        names[held.name] = _encoded(held, value)
    if not entry.levels:
        return Frame(code, entry.stop.name, names)
    errors = LiveErrors()
    place = {level.key: _saved(level, visit, errors) for level in entry.levels}
    if errors:
        place[ERRORS] = errors.encode()
    return Frame(code, entry.stop.name, names, place)


def _encoded(held: Held, value: Any) -> Raw:
    """Return a value as JSON; it is decoded once, so that it fails here and not after a crash."""
    if is_exact(value, held.kind):
        return _raw(value)
    try:
        raw = _stored_error(value) if isinstance(value, BaseException) else kept("it", value)
        held.decoder.decode(raw)
    except Exception as error:
        reason = error.reason if isinstance(error, InvalidInputError) else str(error)
        text = f"{held.name!r} is alive at a stop and cannot be stored: {reason}"
        raise TypeError(text) from error
    return raw


def _stored_error(error: BaseException) -> Raw:
    errors = LiveErrors()
    errors.add(error)
    return errors.encode()


def _saved(level: Kept, visit: Visit, errors: LiveErrors) -> Raw:
    match level.stores:
        case "position":
            return _raw(visit.loops[level.number].at)
        case "range":
            loop = visit.loops[level.number]
            return _raw((loop.at, loop.over.start, loop.over.stop, loop.over.step))
        case "items":
            return _raw(_saved_items(level, visit.loops[level.number]))
        case "except":
            return _raw(errors.add(visit.errors[level.number]))
    kind, value = visit.exits[level.number]
    if kind == "raise":
        return _raw(Exit(kind, error=errors.add(visit.errors[level.number])))
    if kind == "return":
        held = Held("the value that is returned", "", None, level.decoder)
        return _raw(Exit(kind, value=_encoded(held, value)))
    return _raw(Exit(kind))


def _saved_items(level: Kept, loop: Loop) -> Items:
    if loop.raw is None:
        held = Held(f"what {level.key!r} goes over", "", None, level.decoder)
        loop.raw = _encoded(held, loop.over)
    return Items(loop.at, loop.raw)


def read_name(held: Held, frame: Frame, stop: Stop | None = None) -> Any:
    """Return a value that is stored at a stop, or at the beginning.

    Raises:
        MisfitError: it is not of its type.
    """
    try:
        return held.decoder.decode(frame.names[held.name])
    except Exception as error:
        of = f"stop {stop.name!r}" if stop else "the beginning"
        reason = f"{held.name!r} is stored, but cannot be read: {error}"
        raise MisfitError(f"{frame.code}: {of}: {reason}") from error


def read_frame(entry: Entry, frame: Frame, visit: Visit) -> None:
    """Take what is stored in a frame.

    Raises:
        MisfitError: the frame does not fit.
    """
    stop = entry.stop
    if frame.place.keys() != entry.keys:
        _check_levels(entry, frame)
    names: dict[str, Any] = {}
    for held in entry.names:
        if held.name in frame.names:
            names[held.name] = read_name(held, frame, stop)
        elif not held.is_optional:
            stored = ", ".join(sorted(frame.names)) or "nothing"
            reason = f"needs {held.name!r}, which is not stored; what is stored: {stored}"
            raise MisfitError(f"{frame.code}: stop {stop.name!r} {reason}")
    visit.names = names
    if not entry.levels:
        return
    try:
        errors = read_errors(frame.place[ERRORS]) if ERRORS in frame.place else ()
        for level in entry.levels:
            _read(level, frame.place[level.key], errors, visit)
    except Exception as error:
        reason = f"its place cannot be read: {error}"
        raise MisfitError(f"{frame.code}: stop {stop.name!r}: {reason}") from error
    visit.contexts = [(error, error.__context__) for error in errors]


def _check_levels(entry: Entry, frame: Frame) -> None:
    stored, needed = frame.place.keys() - {ERRORS}, entry.keys
    if stored == needed:
        return
    texts = [f"now stands within {key!r}" for key in sorted(needed - stored)]
    texts += [f"no longer stands within {key!r}" for key in sorted(stored - needed)]
    raise MisfitError(f"{frame.code}: stop {entry.stop.name!r} {' and '.join(texts)}")


def _read(level: Kept, raw: Raw, errors: Sequence[BaseException], visit: Visit) -> None:
    match level.stores:
        case "position":
            visit.loops[level.number] = Loop((), POSITION.decode(raw))
        case "range":
            at, start, stop, step = RANGE.decode(raw)
            visit.loops[level.number] = Loop(range(start, stop, step), at)
        case "items":
            found = ITEMS.decode(raw)
            items = level.decoder.decode(found.items)
            visit.loops[level.number] = Loop(items, found.at, found.items)
        case "except":
            error = errors[POSITION.decode(raw)]
            classes = [each.__name__ for each in type(error).__mro__]
            if level.catches.isdisjoint(classes):
                raise TypeError(f"its except catches no {type(error).__name__}")
            visit.errors[level.number] = error
        case "finally":
            left = EXIT.decode(raw)
            value = level.decoder.decode(left.value) if left.value else None
            visit.exits[level.number] = (left.exit, value)
            if left.error is not None:
                visit.errors[level.number] = errors[left.error]
