"""Errors that are alive at a stop: stored with what they come from, and made again."""

import sys
from collections.abc import Sequence
from traceback import format_exception
from typing import Any

import msgspec
from msgspec import Raw, Struct

from flowstate.engines.kernel.errors import LostError, StoredError, restored, stored

__all__ = ["ERRORS", "LiveError", "LiveErrors", "read_errors"]

ERRORS = "errors"  # In the place of a frame.
ALONE = sys.maxsize  # So deep that the kernel leaves causes out; they are stored here.
MOST = 50
MOST_TRACE = 4000  # Characters.
TRACE = "__flowstate_trace__"


class LiveError(Struct, frozen=True, omit_defaults=True):
    """An error, and by their indices in the list of all those that it comes from.

    Attributes:
        error: of the kernel's form.
        cause: its ``__cause__``.
        context: its ``__context__``.
        suppress: its ``__suppress_context__``.
        trace: its traceback, for people.
    """

    error: StoredError
    cause: int | None = None
    context: int | None = None
    suppress: bool = False
    trace: str = ""


class LiveErrors:
    """Collects errors to be stored; one that comes twice stays one."""

    def __init__(self) -> None:
        self._errors: list[BaseException] = []
        self._indices: dict[int, int] = {}

    def add(self, error: BaseException) -> int:
        """Add an error that is alive; return its index.

        Raises:
            TypeError: it could not be made again.
        """
        made = restored(stored(error, ALONE))
        if type(made) is not type(error):
            name = type(error).__qualname__
            reason = "its class must be found in its module, and made by __new__ from its args"
            raise TypeError(f"{name} is alive at a stop and cannot be stored: {reason}")
        return self._index(error)

    def _index(self, error: BaseException) -> int:
        if id(error) not in self._indices:
            self._indices[id(error)] = len(self._errors)
            self._errors.append(error)
        return self._indices[id(error)]

    def __bool__(self) -> bool:
        return bool(self._errors)

    def encode(self) -> Raw:
        """Return all errors as JSON."""
        # The list grows meanwhile.
        return Raw(msgspec.json.encode([self._stored(error) for error in self._errors]))

    def _stored(self, error: BaseException) -> LiveError:
        trace = getattr(error, TRACE, "") or "".join(format_exception(error, chain=False))
        own = stored(error, ALONE)
        own.attributes.pop(TRACE, None)
        return LiveError(
            own,
            self._linked(error.__cause__),
            self._linked(error.__context__),
            error.__suppress_context__,
            trace[-MOST_TRACE:],
        )

    def _linked(self, error: BaseException | None) -> int | None:
        is_much = error is None or (id(error) not in self._indices and len(self._errors) >= MOST)
        return None if is_much or error is None else self._index(error)


def read_errors(raw: Raw) -> Sequence[BaseException]:
    """Return errors that were stored.

    Raises:
        ValueError: they cannot be read.
    """
    found = msgspec.json.decode(raw, type=list[LiveError])
    errors = [restored(each.error) for each in found]
    for error, each in zip(errors, found, strict=True):
        if not isinstance(error, LostError) and hasattr(error, "__dict__"):
            vars(error)[TRACE] = each.trace
        link(error, _at(errors, each.cause), _at(errors, each.context), suppress=each.suppress)
    return errors


def _at(errors: Sequence[BaseException], index: int | None) -> BaseException | None:
    return None if index is None else errors[index]


def link(error: BaseException, cause: Any, context: Any, *, suppress: bool) -> None:
    """Set what an error comes from."""
    error.__cause__, error.__context__ = cause, context
    error.__suppress_context__ = suppress
