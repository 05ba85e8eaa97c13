"""What an engine counts."""

import attrs
from msgspec import Struct

__all__ = ["Counters", "EngineStats"]


class EngineStats(Struct, frozen=True):
    """Counts of an engine since it was opened.

    Attributes:
        executions: that have begun.
        failures: calls of flows that have raised an ``Exception``, timeouts included.
        retries: failures after which the policy of the flow lets it be tried again.
        exhausted: failures after which it does not: the state was sent to ``on_failure``, or ended
            as dead.
        timeouts: calls of flows that took longer than they may.
        superseded: executions that ended behind their state, which others had moved on.
    """

    executions: int
    failures: int
    retries: int
    exhausted: int
    timeouts: int
    superseded: int


@attrs.define
class Counters:
    """The counts while they are counted."""

    executions: int = 0
    failures: int = 0
    retries: int = 0
    exhausted: int = 0
    timeouts: int = 0
    superseded: int = 0

    def stats(self) -> EngineStats:
        """Return what was counted so far."""
        return EngineStats(**attrs.asdict(self))
