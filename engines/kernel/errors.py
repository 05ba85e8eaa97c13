"""Errors that instances raise, and the stored form of any error."""

import sys
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from flowstate import FlowstateError
from flowstate.engines.kernel.values import kept

__all__ = [
    "Cancelled",
    "ChildFailed",
    "InstanceCancelledError",
    "InstanceFailedError",
    "LostError",
    "StepFailed",
    "StoredError",
    "ThreadExistsError",
    "restored",
    "stored",
    "text_of",
]

DEEPEST = 8  # Causes of causes that are stored.
MOST_TEXT = 1_000  # Characters of an error.
MOST_BYTES = 16_384  # Of its arguments, and of its attributes, as JSON.


class Cancelled(BaseException):
    """The instance, or this branch of it, is cancelled: clean up, and raise it again."""


class StepFailed(Exception):  # noqa: N818 - it says what happened, as Cancelled does
    """A step has failed and is not tried again; ``__cause__`` is the last error.

    Attributes:
        step: its name.
        attempts: how many there were.
    """

    def __init__(self, step: str, attempts: int, text: str) -> None:
        times = "once" if attempts == 1 else f"{attempts} times"
        super().__init__(f"step {step!r} failed {times}: {text}")
        self.step, self.attempts = step, attempts


class ChildFailed(Exception):  # noqa: N818 - as StepFailed
    """A child has not come to a result; ``__cause__`` is its error.

    Attributes:
        child: the id of its instance.
    """

    def __init__(self, child: str, text: str) -> None:
        super().__init__(f"child {child!r}: {text}")
        self.child = child


class ThreadExistsError(Exception):
    """The instance has a thread of that name."""


class LostError(Exception):
    """Stands for an error that was stored and whose class is not here any more."""


class InstanceFailedError(FlowstateError):
    """An instance has ended with an error, which is the ``__cause__``.

    Attributes:
        id: of the instance.
    """

    def __init__(self, id: str, text: str) -> None:
        super().__init__(f"{id!r} failed: {text.removesuffix(': ')}")
        self.id = id


class InstanceCancelledError(FlowstateError):
    """An instance was cancelled, so it has no result.

    Attributes:
        id: of the instance.
    """

    def __init__(self, id: str) -> None:
        super().__init__(f"{id!r} was cancelled")
        self.id = id


class StoredError(Struct, frozen=True, omit_defaults=True):
    """An error as JSON.

    Attributes:
        kind: its class, as ``module:name``.
        text: for people.
        args: of the error, if JSON can have them, and they are not too large for that.
        attributes: the same.
        cause: its ``__cause__``.
    """

    kind: str
    text: str = ""
    args: list[Any] = msgspec.field(default_factory=list)
    attributes: dict[str, Any] = msgspec.field(default_factory=dict)
    cause: "StoredError | None" = None

    @property
    def is_cancel(self) -> bool:
        """Whether it is a ``Cancelled``."""
        return issubclass(_class_of(self.kind), Cancelled)


def stored(error: BaseException, depth: int = 0) -> StoredError:
    """Return the stored form of an error."""
    kind = f"{type(error).__module__}:{type(error).__qualname__}"
    cause = error.__cause__
    return StoredError(
        kind,
        text_of(error),
        _plain(lambda: [*error.args], []),
        _plain(lambda: dict(vars(error)), {}),
        stored(cause, depth + 1) if cause is not None and depth < DEEPEST else None,
    )


def text_of(error: BaseException) -> str:
    """Return what every store can keep of an error: its class and its message, cut short."""
    try:
        text = f"{type(error).__name__}: {error}"[:MOST_TEXT].replace(
            "\0", "\N{REPLACEMENT CHARACTER}"
        )
    except Exception as broken:  # noqa: BLE001 - the class is the user's own
        text = f"{type(error).__name__}, whose message raises {type(broken).__name__}"
    return text.encode(errors="replace").decode()


def _plain(read: Callable[[], Any], default: Any) -> Any:
    """Return what JSON makes of a value, or the default if it cannot have it, or it is large."""
    try:
        value = read()
        raw = kept("error", value) if value else b""
        return msgspec.json.decode(raw) if 0 < len(bytes(raw)) <= MOST_BYTES else default
    except Exception:  # noqa: BLE001 - the class is the user's own
        return default


def restored(error: StoredError) -> BaseException:
    """Return an error that was stored; its ``__init__`` is not called."""
    kind = _class_of(error.kind)
    try:
        made = kind.__new__(kind, *error.args)
        made.args = tuple(error.args)
        vars(made).update(error.attributes)
    except Exception:  # noqa: BLE001 - the class is the user's own
        made = LostError(error.text)
    if kind is LostError and not made.args:
        made.args = (error.text,)
    if error.cause is not None:
        made.__cause__ = restored(error.cause)
    return made


def _class_of(kind: str) -> type[BaseException]:
    """Return a class that is loaded already; nothing is imported because a store says so."""
    module, _, name = kind.partition(":")
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    is_error = isinstance(found, type) and issubclass(found, BaseException)
    return found if is_error else LostError
