"""One term of the holder of a lease, for which the engine sends heartbeats."""

import asyncio
import random
from collections.abc import Callable
from typing import ClassVar

import attrs

from flowstate.clock import Clock
from flowstate.tenure import RENEW_AT, Held

__all__ = ["Term"]


@attrs.define(eq=False, repr=False)
class Term(Held):
    """What is held: from the commit that took a lease, until it is lost or given up.

    Attributes:
        clock: of the engine.
        rng: for jitter.
        on_renewed: called when a heartbeat got through.
        has_ended: set when it is lost or given up.
        was_renewed: whether a heartbeat got through.
        is_late: whether it was lost because none got through in time.
    """

    part: ClassVar[float] = 2 / 3

    clock: Clock
    rng: random.Random
    on_renewed: Callable[[], None]
    has_ended: asyncio.Event = attrs.field(init=False, factory=asyncio.Event)
    was_renewed: bool = attrs.field(init=False, default=False)
    is_late: bool = attrs.field(init=False, default=False)

    def begin(self, seconds: float, sent_at: float) -> None:
        """Begin with the commit that was sent at this time."""
        self.seconds = seconds
        self._hear(sent_at)

    def _hear(self, sent_at: float) -> None:
        super().renewed(sent_at)
        # Not all holders at the same time.
        self.fresh_until -= (self.seconds or 0.0) * RENEW_AT * self.rng.uniform(0.0, 0.2)

    @property
    def is_held(self) -> bool:
        """Whether no other process can have taken it by now."""
        return self.seconds is not None and self.clock.monotonic() < self.stop_at

    def renewed(self, sent_at: float) -> None:
        """Note that a heartbeat that was sent at this time got through."""
        self.was_renewed = True
        self._hear(sent_at)
        self.on_renewed()

    def release(self) -> None:
        """End it."""
        super().release()
        self.has_ended.set()

    def lose(self) -> None:
        """End it, because others may have taken it over."""
        self.is_late = True
        self.release()
