"""What is known of the stalled states of a page, asked for together."""

import asyncio
import math
from collections.abc import Sequence

import attrs

from flowstate.driver import Liveness
from flowstate.engine import Engine
from flowstate.state import State

__all__ = ["PageLiveness"]

FRESH_SECONDS = 1.0


@attrs.define(eq=False)
class PageLiveness:
    """Asks for all states of a page in one call, and again when the answers are old.

    An attempt may wait long for its turn, and a heartbeat may come meanwhile. An answer of the
    last second is good enough: the commit of the attempt is judged by the revision, and an
    execution whose heartbeat came late finds out by itself whether it has been replaced.
    """

    _engine: Engine
    _waiting: dict[str, None]
    _answers: dict[str, Liveness | None] = attrs.field(init=False, factory=dict)
    _asked_at: float = attrs.field(init=False, default=-math.inf)
    _lock: asyncio.Lock = attrs.field(init=False, factory=asyncio.Lock)

    @classmethod
    def of(cls, engine: Engine, states: Sequence[State]) -> "PageLiveness":
        """Return that of the states of a page."""
        return cls(engine, dict.fromkeys(state.id for state in states))

    async def get(self, state: State) -> Liveness | None:
        """Return what is known of a state; ``None`` if it has moved on, or is alive after all."""
        async with self._lock:
            if self._engine.clock.monotonic() - self._asked_at >= FRESH_SECONDS:
                await self._ask()
        found = self._answers.get(state.id)
        if found is None or found.rev != state.rev or found.stalls_at is None:
            return None
        return found if found.stalls_at <= found.now else None

    def leave_out(self, state: State) -> None:
        """Ask for a state no more."""
        self._waiting.pop(state.id, None)

    async def _ask(self) -> None:
        ids = list(self._waiting)
        asked_at = self._engine.clock.monotonic()
        found = await self._engine.driver.get_liveness(ids)
        self._answers.update(zip(ids, found, strict=True))
        self._asked_at = asked_at
