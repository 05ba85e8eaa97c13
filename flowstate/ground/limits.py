"""Every bound on input, the same for all drivers.

The bounds are those that every store can keep: Postgres refuses NUL and lone surrogates, and
its b-tree takes keys of at most 2,700 bytes. A check returns the value in its exact form: an
instance of a subclass of ``str``, also of an enum, becomes an exact ``str``.
"""

from collections.abc import Callable, Mapping, Sized
from datetime import UTC, datetime, timedelta
from typing import Any

from flowstate.errors import InvalidCommandError, InvalidInputError
from flowstate.ground.frozen import EMPTY, FrozenDict, exact, freeze

__all__ = [
    "MAX_ALIASES",
    "MAX_ALTERNATIVES",
    "MAX_ANNOTATIONS_BYTES",
    "MAX_BLOB_BYTES",
    "MAX_CHECKS_PER_COMMIT",
    "MAX_COMMIT_BYTES",
    "MAX_DATA_PER_COMMIT",
    "MAX_DELAYS_PER_COMMIT",
    "MAX_ID_BYTES",
    "MAX_LABELS",
    "MAX_NOTE_BYTES",
    "MAX_PAGE",
    "MAX_PAGE_BYTES",
    "MAX_REV",
    "MAX_STACKED_DATA",
    "MAX_STATES_PER_COMMIT",
    "MAX_STEPS",
    "MAX_TAIL_BYTES",
    "MAX_TIMERS",
    "MAX_VALUES_BYTES",
    "check_annotations",
    "check_duration",
    "check_id",
    "check_labels",
    "check_number",
    "check_rev",
    "check_text",
    "text_bytes",
    "to_utc",
]

MIB = 1024 * 1024
MAX_ID_BYTES = 512
MAX_LABELS = 64
MAX_ALIASES = 256  # Of the data of a state.
MAX_STACKED_DATA = 1_024  # Data that the contexts stacked into a state refer to.
MAX_ANNOTATIONS_BYTES = MIB
MAX_BLOB_BYTES = 16 * MIB
MAX_VALUES_BYTES = MIB
MAX_TIMERS = 64  # Of a state.
MAX_NOTE_BYTES = 8 * 1024
MAX_STEPS = 1_000  # Transitions of a context that are kept since its last commit.

MAX_STATES_PER_COMMIT = 128
MAX_CHECKS_PER_COMMIT = 1_000
MAX_DELAYS_PER_COMMIT = 1_000
MAX_DATA_PER_COMMIT = 128
MAX_COMMIT_BYTES = 64 * MIB

MAX_ALTERNATIVES = 100  # Of a filter by labels.
MAX_PAGE = 1_000
MAX_PAGE_BYTES = 16 * MIB
MAX_TAIL_BYTES = 64 * MIB  # Of the newest revisions, kept for those who watch.

MAX_RECOVERY_BYTES = 16 * 1024
RECOVERY = "flowstate.recovery"
NOTES = (RECOVERY, "flowstate.failures", "flowstate.failed")  # Of what went wrong with a state.
MAX_REV = 2**63 - 1
MAX_DURATION = timedelta(days=365_000)


def text_bytes(text: str) -> int:
    """Return how many bytes of UTF-8 a string has."""
    return len(text) if text.isascii() else len(text.encode())


def check_text(field: str, value: object, limit: int) -> str:
    """Return ``value`` as an exact ``str``."""
    text: Any = value
    if type(text) is not str:
        text = exact(value)
    if type(text) is not str:
        raise InvalidInputError(field, f"must be a string, not {type(text).__name__}")
    if "\0" in text:
        raise InvalidInputError(field, "must not contain NUL")
    size = len(text)
    if not text.isascii() and size <= limit:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise InvalidInputError(field, "must not contain lone surrogates") from None
    if size > limit:
        raise InvalidInputError(field, f"must be at most {limit} bytes, not {size}")
    return text


def check_id(field: str, value: object) -> str:
    """Return what may name a state, a flow, a label key or an alias: not the empty string."""
    if (
        type(value) is str
        and value.isascii()
        and 0 < len(value) <= MAX_ID_BYTES
        and "\0" not in value
    ):
        return value  # Nearly always.
    text = check_text(field, value, MAX_ID_BYTES)
    if not text:
        raise InvalidInputError(field, "must not be empty")
    return text


def check_labels(
    field: str, labels: Mapping[str, str], known: Mapping[str, str] = EMPTY
) -> FrozenDict[str, str]:
    """Return labels, unless there are more than 64, or keys or values that no index takes.

    The one by which dead states are found does not count. Those that are among the known ones are
    right.
    """
    labels = freeze(field, labels)
    if len(labels) > MAX_LABELS + (RECOVERY in labels):
        raise InvalidInputError(field, f"must be at most {MAX_LABELS}, not {len(labels)}")
    return _checked(field, labels, MAX_ID_BYTES, known)


def check_annotations(field: str, annotations: Mapping[str, str]) -> FrozenDict[str, str]:
    """Return annotations, unless keys and values together have more than 1 MiB."""
    checked = _checked(field, freeze(field, annotations), MAX_ANNOTATIONS_BYTES)
    size = sum(map(len, checked)) + sum(map(len, checked.values()))
    if size > MAX_ANNOTATIONS_BYTES // 4:  # A character has at most 4 bytes.
        size = sum(map(text_bytes, checked)) + sum(map(text_bytes, checked.values()))
        # A state that is full must still be retried and ended, by recovery and by policies.
        is_recovered = any(key.startswith(NOTES) for key in checked)
        if size > MAX_ANNOTATIONS_BYTES + MAX_RECOVERY_BYTES * is_recovered:
            raise InvalidInputError(field, f"must be at most {MAX_ANNOTATIONS_BYTES} bytes in all")
    return checked


def _checked(
    field: str, mapping: FrozenDict[str, str], limit: int, known: Mapping[str, str] = EMPTY
) -> FrozenDict[str, str]:
    made, field_of_key = {}, f"{field} key"
    for key, text in mapping.items():
        if type(key) is str and known.get(key, known) is text:
            made[key] = text
            continue
        name = check_id(field_of_key, key)
        is_plain = type(text) is str and text.isascii() and len(text) <= limit and "\0" not in text
        made[name] = text if is_plain else check_text(f"{field}[{name!r}]", text, limit)
    return FrozenDict(made) if made else EMPTY


def check_rev(field: str, rev: int) -> None:
    """Refuse what is not an integer from 0 to 2**63 - 1."""
    if type(rev) is not int:
        raise InvalidInputError(field, f"must be an integer, not {type(rev).__name__}")
    if not 0 <= rev <= MAX_REV:
        raise InvalidInputError(field, f"must be from 0 to {MAX_REV}")


def check_number(what: str, found: Sized, limit: int) -> None:
    """Refuse a commit with more than ``limit`` of something."""
    if len(found) > limit:
        raise InvalidCommandError("commit", f"must have at most {limit} {what}")


def check_duration(field: str, value: Any) -> timedelta:
    """Return an exact ``timedelta`` from 0 to 365,000 days."""
    if not issubclass(type(value), timedelta):
        raise InvalidInputError(field, f"must be a timedelta, not {type(value).__name__}")
    duration: timedelta = _parts(
        field, lambda: timedelta(value.days, value.seconds, value.microseconds)
    )
    if not timedelta(0) <= duration <= MAX_DURATION:
        raise InvalidInputError(field, "must be from 0 to 365,000 days")
    return duration


def to_utc(field: str, value: Any) -> datetime:
    """Return an exact ``datetime`` in UTC."""
    if not issubclass(type(value), datetime):
        raise InvalidInputError(field, f"must be a datetime, not {type(value).__name__}")
    if _parts(field, lambda: value.tzinfo is None or value.utcoffset() is None):
        raise InvalidInputError(field, "must have a time zone")
    try:
        at = _parts(field, lambda: value.astimezone(UTC))
    except OverflowError:
        raise InvalidInputError(field, "is outside the years 1 to 9999 in UTC") from None
    if type(at) is datetime:
        return at
    return datetime.combine(at.date(), at.time(), UTC)


def _parts(field: str, read: Callable[[], Any]) -> Any:
    """Read from a value whose class may be the user's own."""
    try:
        return read()
    except OverflowError:
        raise
    except Exception as error:
        raise InvalidInputError(field, f"cannot be read: {type(error).__name__}") from error
