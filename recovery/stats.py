"""What a recoverer has done since it was made."""

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct

__all__ = ["Counts", "Stats"]


class Stats(Struct, frozen=True):
    """Counts of decisions.

    Attributes:
        is_leading: whether this process recovers just now.
        added: states that were found stalled for the first time since their progress.
        retried: attempts that were committed, and given to the engine.
        completed: attempts that ended without an error.
        failed: attempts whose flow raised, or that were stopped.
        dropped: states that were ended by force.
        skipped: states that were left alone, by reason, each revision once: ``"unknown flow"``,
            ``"delayed"`` (a delayer has yet to fire an overdue delay), ``"moved on"``,
            ``"not leading"``, ``"damaged"``, ``"refused"`` (it has no room for an attempt's notes).
    """

    is_leading: bool
    added: int
    retried: int
    completed: int
    failed: int
    dropped: int
    skipped: Mapping[str, int]


class Counts:
    """Counts while a recoverer runs."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def stats(self, *, is_leading: bool) -> Stats:
        """Return what has been counted."""
        done = self.done
        return Stats(
            is_leading=is_leading,
            added=done["added"],
            retried=done["retried"],
            completed=done["completed"],
            failed=done["failed"],
            dropped=done["dropped"],
            skipped=dict(self.skipped),
        )
