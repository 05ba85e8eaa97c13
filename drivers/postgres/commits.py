"""Commits: one call of the server's function for each batch, and what became of lost ones."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from math import inf

import attrs
import psycopg
from psycopg.rows import TupleRow

from flowstate.clock import Clock
from flowstate.driver import Verdict, Writes
from flowstate.drivers.kit.records import state_of
from flowstate.drivers.kit.resolving import Backoff, Failed, Resolver, is_same, resolved
from flowstate.drivers.kit.times import from_micros
from flowstate.drivers.postgres.batch import encoded, verdicts_of
from flowstate.drivers.postgres.errors import fail
from flowstate.drivers.postgres.lanes import SHORTEST, Lane
from flowstate.drivers.postgres.listener import Listener
from flowstate.drivers.postgres.queries import PLAIN, Queries
from flowstate.errors import CodecError, CommitUnknownError, DriverError

__all__ = ["Commits", "Resolving", "independent"]

LOCK_WAIT = 2.0  # Seconds; a commit that has waited for so long queues again.


@attrs.define(eq=False)
class Commits:
    """Gives batches to the server."""

    lane: Lane
    queries: Queries
    _name: str  # Of the store, for errors.
    _timeout: float  # Seconds for which a batch is tried again.
    clock: Clock
    _listener: Listener
    loop: asyncio.AbstractEventLoop = attrs.field(factory=asyncio.get_running_loop)

    async def resolved(self, batch: Sequence[Writes], error: Failed, began: float) -> list[Verdict]:
        """Return the verdicts on a batch that has failed, within the timeout since ``began``.

        Raises:
            DriverError: nothing was written.
        """
        if error.lost:
            self._listener.send()  # The others have not been told.
        return await resolved(self.resolver(began), batch, error, self.clock)

    async def call(self, batch: Sequence[Writes], seconds: float) -> list[Verdict]:
        """Give a batch to the server, once, within so many seconds, or raise ``Failed``."""
        parameters = encoded(batch, min(LOCK_WAIT, seconds / 2))
        is_plain = len(parameters) == PLAIN
        statement = self.queries.commit_puts if is_plain else self.queries.commit
        if not is_plain and not parameters[2].obj.keys().isdisjoint({"claims", "drops"}):
            end = independent(batch)
            if end < len(batch):
                return await self._in_turn(batch[:end], batch[end:], seconds)
        link = await self.lane.lend(seconds)
        link.begin(seconds)
        try:
            await link.commits.execute(statement, parameters)
            (answer,) = await link.commits.fetchall()
        except psycopg.Error as error:
            fail(error, self._name, connected=link.is_sound)
        finally:
            link.ends_at = inf
            self.lane.give_back(link)
        if answer[-1] and self._listener.tells:
            self._listener.send()
        return verdicts_of(batch, answer)

    async def _in_turn(
        self, first: Sequence[Writes], rest: Sequence[Writes], seconds: float
    ) -> list[Verdict]:
        """Let a commit claim what an earlier one of the same batch has stored."""
        verdicts = await self.call(first, seconds)
        began = self.loop.time()
        try:
            return verdicts + await self.call(rest, self._timeout / 2)
        except Failed as failure:
            return verdicts + await self.resolved(rest, failure, began)
        except DriverError as error:
            return verdicts + [error for _ in rest]

    def resolver(self, began: float) -> "Resolving":
        """Return what finds out about commits until the timeout since ``began``."""
        return Resolving(self, began + self._timeout)


@attrs.define(eq=False)
class Resolving(Resolver):
    """Finds out what became of commits, until a deadline."""

    _commits: Commits
    _deadline: float

    def _left(self) -> float:
        return self._deadline - self._commits.loop.time()

    def backoff(self) -> Backoff:
        return Backoff(self._commits.clock, self._left())

    async def call(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        return await self._commits.call(batch, max(SHORTEST, self._left()))

    async def _rows(self, statement: str, *parameters: object) -> list[TupleRow]:
        return await self._commits.lane.rows(statement, parameters, max(SHORTEST, self._left()))

    async def wait_for_others(self) -> None:
        """Return when every commit has ended that was going on at this moment, also lost ones."""
        await self._rows(self._commits.queries.lock)

    async def find_delays(self, ids: Sequence[str]) -> tuple[datetime, set[str]]:
        ((now, found),) = await self._rows(self._commits.queries.stored_delays, list(ids))
        return from_micros(now), set(found)

    async def find_replays(self, commits: Sequence[Writes]) -> Sequence[Verdict | None]:
        rows = await self._rows(
            self._commits.queries.successors,
            [writes.puts[0].id for writes in commits],
            [writes.puts[0].rev for writes in commits],
            [writes.token for writes in commits],
        )
        found: list[Verdict | None] = [None] * len(commits)
        for place, has_moved, rev, token in rows:
            writes = commits[place - 1]
            if has_moved and rev is None:
                found[place - 1] = CommitUnknownError(writes.token)
            elif token == writes.token:
                found[place - 1] = await self._replay(writes, rev)
        return found

    async def _replay(self, writes: Writes, first: int) -> Verdict | None:
        """Return the revisions of a commit whose first one and token are these."""
        last = first + len(writes.puts) - 1
        rows = await self._rows(self._commits.queries.revisions, first, last, writes.token)
        if len(rows) < len(writes.puts):
            return CommitUnknownError(writes.token)  # Some of them are compacted.
        if not all(is_same(writes, n, row[1], row[4]) for n, row in enumerate(rows)):
            return None
        try:
            return tuple([state_of(row) for row in rows])
        except CodecError:
            return CommitUnknownError(writes.token)


def independent(batch: Sequence[Writes]) -> int:
    """Return how many commits name no delay and no timer of one of these before them.

    The server stores those at the end of a batch, so claims do not see any of the same one.
    """
    stored: set[str] = set()
    for index, writes in enumerate(batch):
        named = [each.id for each in writes.claims] + [each.id for each in writes.drops]
        if not stored.isdisjoint(named):
            return index
        stored.update(map(writes.delay_id, range(len(writes.delays))))
        stored.update([timer.id for timer in writes.timers])
    return len(batch)
