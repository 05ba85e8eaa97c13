"""What is refused, whichever driver stores it: one place for every bound on input.

The bounds are those that every store can keep: Postgres refuses NUL and lone surrogates, and
its b-tree takes keys of at most 2,700 bytes.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flowstate.errors import InvalidInputError

__all__ = [
    "MAX_ANNOTATIONS_BYTES",
    "MAX_BLOB_BYTES",
    "MAX_ID_BYTES",
    "MAX_LABELS",
    "MAX_NOTE_BYTES",
    "MAX_PAGE",
    "MAX_STATES_PER_COMMIT",
    "check_annotations",
    "check_id",
    "check_labels",
    "check_rev",
    "check_text",
    "to_utc",
]

MAX_ID_BYTES = 512
MAX_LABELS = 64
MAX_ANNOTATIONS_BYTES = 1024 * 1024
MAX_BLOB_BYTES = 16 * 1024 * 1024
MAX_STATES_PER_COMMIT = 128
MAX_NOTE_BYTES = 8 * 1024
MAX_PAGE = 1_000
MAX_RECOVERY_BYTES = 16 * 1024
RECOVERY = "flowstate.recovery"
MAX_REV = 2**63 - 1


def check_text(field: str, value: str, limit: int) -> int:
    """Return the length of ``value`` in bytes of UTF-8.

    Raises:
        InvalidInputError: not a string, longer than ``limit`` bytes, or with a NUL or a lone
            surrogate in it.
    """
    if not isinstance(value, str):
        raise InvalidInputError(field, f"must be a string, not {type(value).__name__}")
    if "\0" in value:
        raise InvalidInputError(field, "must not contain NUL")
    size = len(value)
    if not value.isascii() and size <= limit:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidInputError(field, "must not contain lone surrogates") from None
    if size > limit:
        raise InvalidInputError(field, f"must be at most {limit} bytes, not {size}")
    return size


def check_id(field: str, value: str) -> None:
    """Refuse what cannot name a state, a flow, a label key or an alias: also the empty string."""
    if not check_text(field, value, MAX_ID_BYTES):
        raise InvalidInputError(field, "must not be empty")


def check_labels(field: str, labels: Mapping[str, str]) -> None:
    """Refuse more than 64 labels, and keys or values that no index takes.

    The one by which dead states are found does not count.
    """
    if not isinstance(labels, Mapping):
        raise InvalidInputError(field, f"must be a mapping, not {type(labels).__name__}")
    if len(labels) > MAX_LABELS + (RECOVERY in labels):
        raise InvalidInputError(field, f"must be at most {MAX_LABELS}, not {len(labels)}")
    for key, value in labels.items():
        check_id(f"{field} key", key)
        check_text(f"{field}[{key!r}]", value, MAX_ID_BYTES)


def check_annotations(field: str, annotations: Mapping[str, str]) -> None:
    """Refuse empty or overlong keys, and more than 1 MiB of keys and values together."""
    left = MAX_ANNOTATIONS_BYTES
    if any(isinstance(key, str) and key.startswith(RECOVERY) for key in annotations):
        left += MAX_RECOVERY_BYTES  # Lest a full state can neither be retried nor ended.
    for key, value in annotations.items():
        check_id(f"{field} key", key)
        left -= len(key) + check_text(f"{field}[{key!r}]", value, MAX_ANNOTATIONS_BYTES)
    if left < 0:
        raise InvalidInputError(field, f"must be at most {MAX_ANNOTATIONS_BYTES} bytes in all")


def check_rev(field: str, rev: int) -> None:
    """Refuse what is not an integer from 0 to 2**63 - 1."""
    if type(rev) is not int:
        raise InvalidInputError(field, f"must be an integer, not {type(rev).__name__}")
    if not 0 <= rev <= MAX_REV:
        raise InvalidInputError(field, f"must be from 0 to {MAX_REV}, not {rev}")


def to_utc(field: str, value: Any) -> datetime:
    """Return an aware ``datetime`` in UTC.

    Raises:
        InvalidInputError: not a datetime, naive, or outside the years 1 to 9999 in UTC.
    """
    if not isinstance(value, datetime):
        raise InvalidInputError(field, f"must be a datetime, not {type(value).__name__}")
    if value.tzinfo is None or value.utcoffset() is None:
        raise InvalidInputError(field, "must have a time zone")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise InvalidInputError(field, "is outside the years 1 to 9999 in UTC") from None
