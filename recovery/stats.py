"""What a recoverer has done since it was made."""

from collections.abc import Mapping

from msgspec import Struct

__all__ = ["Stats"]


class Stats(Struct, frozen=True):
    """Counts of decisions.

    Attributes:
        is_leading: whether this process recovers just now.
        added: states that were found stalled for the first time since their progress.
        retried: attempts that were committed, and given to the engine.
        completed: attempts, and what was taken over, that ended without an error.
        failed: attempts, and what was taken over, whose flow raised, or that were stopped.
        dropped: states that were ended by force.
        skipped: what was left alone, by reason. States, each revision once: ``"delayed"`` (no
            delayer has fired an overdue delay), ``"moved on"``, ``"not leading"``, ``"damaged"``,
            ``"refused"`` (it has no room for an attempt's notes). Flows, each once:
            ``"unknown flow"`` (states stand still in it, and it is not registered here).
        taken_over: executions that engines handed over when they stopped; these are no attempts.
    """

    is_leading: bool
    added: int
    retried: int
    completed: int
    failed: int
    dropped: int
    skipped: Mapping[str, int]
    taken_over: int = 0
