"""The log of an instance, which goes to ``logging`` as well."""

import contextlib
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import msgspec

from flowstate import encoded
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.logic.stored import Entry

__all__ = ["collected", "entry_of", "log"]

logger = logging.getLogger("flowstate.engines.logic")

MOST_ENTRIES, MOST_TEXT, MOST_FIELDS = 100, 1_000, 4_096  # Of one call; characters; bytes.
LEVELS = ("debug", "info", "warning", "error", "critical")

_here: ContextVar[tuple[str, list[Entry]] | None] = ContextVar("flowstate_log", default=None)


def log(text: str, level: str = "info", **fields: Any) -> None:
    """Write an entry to the log of the instance, and to the logger ``flowstate.engines.logic``.

    What a state writes is stored with what it wants next, up to 100 entries of a call. In a step
    it goes to the logger only.

    Args:
        text: for people; 1,000 characters are kept.
        level: as of ``logging``, in small letters.
        **fields: JSON, of at most 4 KiB.

    Raises:
        InvalidInputError: JSON cannot hold the fields.
        LookupError: neither a state nor a step runs here.
    """
    state, entries = _here.get() or ("", [])
    entry = entry_of(current_step().instance, state, text, level, fields)
    if len(entries) < MOST_ENTRIES:
        entries.append(entry)


def entry_of(id: str, state: str, text: str, level: str, fields: dict[str, Any]) -> Entry:
    """Return an entry that can be stored, and log it."""
    raw = bytes(encoded("fields", fields))
    kept = msgspec.json.decode(raw) if len(raw) <= MOST_FIELDS else {"left_out": len(raw)}
    level = level if level in LEVELS else "info"
    extra = {"state_id": id, "machine_state": state, "fields": kept}
    logger.log(logging.getLevelNamesMapping()[level.upper()], "%s: %s", id, text, extra=extra)
    return Entry(state, text[:MOST_TEXT].replace("\0", ""), level, kept)


@contextlib.contextmanager
def collected(state: str) -> Iterator[list[Entry]]:
    """Collect what a state writes."""
    entries: list[Entry] = []
    token = _here.set((state, entries))
    try:
        yield entries
    finally:
        _here.reset(token)
