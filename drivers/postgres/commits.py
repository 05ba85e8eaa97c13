"""Commits: one call of the server's function for each batch, and what to do when it is lost."""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import psycopg
from psycopg import AsyncCursor
from psycopg.rows import TupleRow

from flowstate.driver import Verdict, Writes
from flowstate.drivers.postgres.arrays import register
from flowstate.drivers.postgres.batch import Batch
from flowstate.drivers.postgres.connections import Connections, cursor_of, is_alive
from flowstate.drivers.postgres.errors import (
    concerns_all,
    ends_connection,
    is_passing,
    translation,
)
from flowstate.drivers.postgres.queries import Queries
from flowstate.drivers.postgres.reader import state_of
from flowstate.errors import CommitUnknownError, DriverError, RevisionMismatchError

__all__ = ["Commits"]

Cursor = AsyncCursor[TupleRow]


class LostError(Exception):
    """The connection broke when the server may have had the statement already."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.error = error


class _Lent(NamedTuple):
    """A connection that commits batches, and how to give it back."""

    cursor: Cursor
    give_back: Callable[[], Awaitable[None]]


class Commits:
    """Gives batches to the server, on connections that it keeps if it may.

    Args:
        tell: lets other processes know that there is something new, if somebody listens.
    """

    def __init__(
        self, connections: Connections, queries: Queries, schema: str, tell: Callable[[], None]
    ) -> None:
        self._connections = connections
        self._tell = tell
        self._queries = queries
        self._schema = schema
        self._idle: list[_Lent] = []
        self._is_closed = False

    async def commit(self, commits: Sequence[Writes]) -> list[Verdict]:
        """Return a verdict for each commit.

        One that makes the whole batch fail, by being too large say, must not take the others
        with it.
        """
        try:
            return await self._commit(commits)
        except DriverError as error:
            if len(commits) == 1 or concerns_all(error.__cause__):
                return [error] * len(commits)
        return [(await self.commit([writes]))[0] for writes in commits]

    async def _commit(self, commits: Sequence[Writes]) -> list[Verdict]:
        batch = Batch(commits)
        backoff = self._connections.backoff()
        perhaps_written = False
        while True:
            try:
                answer = await self._call(batch)
            except LostError as lost:
                failure, perhaps_written = lost.error, True
            except psycopg.Error as error:
                failure = error
            else:
                verdicts = batch.verdicts(answer)
                if perhaps_written or batch.is_heard(answer):
                    self._tell()
                return await self._with_replays(commits, verdicts, perhaps_written)
            again = perhaps_written or is_passing(failure)
            if not again or not await backoff.pause():
                break
        if perhaps_written:
            return [CommitUnknownError(writes.token) for writes in commits]
        raise translation(failure, self._schema) from failure

    async def _call(self, batch: Batch) -> TupleRow:
        lent = await self._kept() or await self._borrow()
        cursor = lent.cursor
        try:
            await cursor.execute(self._queries.commit(batch), batch.parameters)
            (answer,) = await cursor.fetchall()
        except psycopg.Error as error:
            # An error that the server sent over a sound connection undid everything.
            lost = cursor.connection.closed or ends_connection(error)
            await lent.give_back()
            if lost:
                raise LostError(error) from error
            raise
        except BaseException:
            await lent.give_back()
            raise
        if self._connections.keeps and not self._is_closed:
            self._idle.append(lent)
        else:
            await lent.give_back()
        return answer

    async def _kept(self) -> "_Lent | None":
        while self._idle:
            lent = self._idle.pop()
            if is_alive(lent.cursor.connection):
                return lent
            await lent.give_back()
        return None

    async def _borrow(self) -> "_Lent":
        async with contextlib.AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self._connections.connection())
            cursor = cursor_of(connection)
            register(cursor)
            return _Lent(cursor, stack.pop_all().aclose)

    async def close(self) -> None:
        """Give the connections back."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop().give_back()

    async def _with_replays(
        self, commits: Sequence[Writes], verdicts: list[Verdict], perhaps_written: bool
    ) -> list[Verdict]:
        """Give commits that were refused, because they had been committed, their old verdicts."""
        if perhaps_written:
            for index, writes in enumerate(commits):
                if isinstance(verdicts[index], RevisionMismatchError) and not writes.puts:
                    # Its delays may have been stored, and have fired since.
                    verdicts[index] = CommitUnknownError(writes.token)
        refused = [
            index
            for index, verdict in enumerate(verdicts)
            if isinstance(verdict, RevisionMismatchError) and commits[index].puts
        ]
        if not refused:
            return verdicts
        try:
            found = await self.find([commits[index] for index in refused])
            for place, index in enumerate(refused):
                if perhaps_written and found[place] is None and await self._is_gone(commits[index]):
                    found[place] = CommitUnknownError(commits[index].token)
        except DriverError:
            found = [CommitUnknownError(commits[index].token) for index in refused]
        for index, verdict in zip(refused, found, strict=True):
            verdicts[index] = verdict or verdicts[index]
        return verdicts

    async def wait_for_others(self) -> None:
        """Return when every commit has ended that was going on at this moment, also lost ones."""
        await self._connections.rows(self._queries.lock, ())

    async def find(self, commits: Sequence[Writes]) -> list[Verdict | None]:
        """Return the revisions of each commit, if it was committed.

        Of one whose revisions are compacted in part only that it was: ``CommitUnknownError``.
        """
        rows = await self._connections.rows(
            self._queries.successors,
            (
                [writes.puts[0].id for writes in commits],
                [writes.puts[0].rev for writes in commits],
            ),
        )
        found: list[Verdict | None] = [None] * len(commits)
        for place, rev, token in rows:
            writes = commits[place - 1]
            if token == writes.token:
                found[place - 1] = await self._states(rev, len(writes.puts), token)
        return found

    async def _is_gone(self, writes: Writes) -> bool:
        """Return whether compaction has removed what would tell if a commit happened."""
        first = writes.puts[0]
        latest = await self._connections.row(self._queries.latest, first.id)
        if latest is None or latest[0] <= first.rev:
            return False
        parameters = ([first.id], [first.rev])
        return not await self._connections.rows(self._queries.successors, parameters)

    async def _states(self, first: int, count: int, token: str) -> Verdict:
        parameters = (first, first + count - 1, token)
        rows = await self._connections.rows(self._queries.revisions, parameters)
        if len(rows) != count:
            return CommitUnknownError(token)
        return tuple([state_of(row) for row in rows])
