"""Heartbeats: one statement for many, and what becomes of those whose row was locked."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs

from flowstate.driver import Heartbeat
from flowstate.drivers.kit.resolving import Backoff
from flowstate.errors import StoreBusyError

__all__ = ["Heartbeats"]

CHUNK = 1_000  # Commits of the same states wait while a statement goes through so many.
LONGEST = 365_000 * 86_400.0  # Beyond the last time that there is.


@attrs.define(eq=False)
class Heartbeats:
    """Gives heartbeats to the server, which may get each of them more than once."""

    _ask: Callable[..., Awaitable[list[tuple[Any, ...]]]]  # The statement, with its parameters.
    _backoff: Callable[[], Backoff]
    _schema: str

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> list[bool]:
        """Note heartbeats; return for each whether its revision is the latest of its state.

        Raises:
            DriverError: they could not be noted, or not all of them.
        """
        found: list[bool] = []
        for start in range(0, len(heartbeats), CHUNK):
            found += await self._beat(heartbeats[start : start + CHUNK])
        return found

    async def _beat(self, heartbeats: Sequence[Heartbeat]) -> list[bool]:
        """Ask until no row is locked: the statement passes over those, and waits for none.

        Normally a commit holds it, and then the heartbeat comes too late: no later look at the
        row finds its revision to be the latest.
        """
        backoff: Backoff | None = None
        answers: list[bool | None] = [None] * len(heartbeats)
        while left := [place for place, answer in enumerate(answers) if answer is None]:
            if backoff is not None and not await backoff.pause():
                raise StoreBusyError(
                    f"Postgres schema {self._schema}: the latest revision of"
                    f" {heartbeats[left[0]].id!r} was locked for too long"
                )
            backoff = backoff or self._backoff()
            found = await self._noted([heartbeats[place] for place in left])
            for place, answer in zip(left, found, strict=True):
                answers[place] = answer
        return [bool(answer) for answer in answers]

    async def _noted(self, heartbeats: Sequence[Heartbeat]) -> list[bool | None]:
        ((answers,),) = await self._ask(
            [beat.id for beat in heartbeats],
            [beat.rev for beat in heartbeats],
            [_micros(beat.seconds) for beat in heartbeats],
            [beat.note for beat in heartbeats],
        )
        return list(answers)


def _micros(seconds: float | None) -> int | None:
    return None if seconds is None else round(max(0.0, min(seconds, LONGEST)) * 1_000_000)
