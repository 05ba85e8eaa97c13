"""Heartbeats: one statement for many, and what becomes of those whose row was locked."""

from collections.abc import Sequence

from flowstate.driver import Heartbeat
from flowstate.drivers.postgres.connections import Connections
from flowstate.drivers.postgres.queries import Queries
from flowstate.errors import StoreBusyError

__all__ = ["Heartbeats"]

CHUNK = 1_000  # Commits of the same states wait while a statement goes through so many.
LONGEST = 365_000 * 86_400.0  # Beyond the last time that there is.


class Heartbeats:
    """Gives heartbeats to the server, which may get each of them more than once."""

    def __init__(self, connections: Connections, queries: Queries, schema: str) -> None:
        self._connections = connections
        self._queries = queries
        self._schema = schema

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
        """Ask until no row is locked: the statement passes over those, and waits for nobody.

        Normally a commit holds it, and then the heartbeat comes too late: no later look at the
        row finds its revision to be the latest.
        """
        backoff = self._connections.backoff()
        answers: list[bool | None] = [None] * len(heartbeats)
        left = list(range(len(heartbeats)))
        while True:
            found = await self._ask([heartbeats[place] for place in left])
            for place, answer in zip(left, found, strict=True):
                answers[place] = answer
            left = [place for place in left if answers[place] is None]
            if not left:
                return [bool(answer) for answer in answers]
            if not await backoff.pause():
                raise StoreBusyError(
                    f"Postgres schema {self._schema}: somebody has locked the latest revision of"
                    f" {heartbeats[left[0]].id!r} for too long"
                )

    async def _ask(self, heartbeats: Sequence[Heartbeat]) -> list[bool | None]:
        row = await self._connections.row(
            self._queries.beat,
            [beat.id for beat in heartbeats],
            [beat.rev for beat in heartbeats],
            [_micros(beat.seconds) for beat in heartbeats],
            [beat.note for beat in heartbeats],
        )
        return list(row[0]) if row else []


def _micros(seconds: float | None) -> int | None:
    return None if seconds is None else round(max(0.0, min(seconds, LONGEST)) * 1_000_000)
