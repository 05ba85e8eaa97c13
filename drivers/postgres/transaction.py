"""Commits that are part of a transaction of the user's own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from flowstate.driver import Transaction, Verdict, Writes
from flowstate.drivers.kit.resolving import Failed
from flowstate.drivers.postgres.batch import encoded, register, verdicts_of
from flowstate.drivers.postgres.commits import LOCK_WAIT, Commits, independent
from flowstate.drivers.postgres.links import cursor_of, cut
from flowstate.drivers.postgres.queries import Queries
from flowstate.errors import CommitUnknownError, DriverError, InvalidInputError
from flowstate.ground.tasks import shielded

__all__ = ["PostgresTransaction", "joined"]

Settle = Callable[[Verdict], None]


class PostgresTransaction(Transaction):
    """Collects commits until the user's block ends, so that the commit lock is held briefly.

    Attributes:
        connection: of the user, for statements of your own.
        writes: what was added.
        is_over: whether it takes no more.
        verdicts: of what was added, once it is committed.
    """

    def __init__(self, store_id: str, connection: AsyncConnection[Any]) -> None:
        self.store_id = store_id
        self.connection = connection
        self.writes: list[Writes] = []
        self._settles: list[Settle] = []
        self.is_over = False
        self.verdicts: Sequence[Verdict] = ()

    def add(self, writes: Writes, settle: Settle) -> None:
        if self.is_over:
            raise InvalidInputError("tx", "is over")
        self.writes.append(writes)
        self._settles.append(settle)

    def settle(self, verdicts: Sequence[Verdict]) -> None:
        """Hand the verdicts over."""
        self.verdicts = verdicts
        for settle, verdict in zip(self._settles, verdicts, strict=True):
            settle(verdict)


@contextlib.asynccontextmanager
async def joined(
    tx: PostgresTransaction,
    connection: AsyncConnection[Any],
    queries: Queries,
    commits: Commits,
    seconds: float,
) -> AsyncIterator[PostgresTransaction]:
    """Run the user's block in a transaction, and at its end what was added to ``tx``.

    Args:
        tx: collects commits.
        connection: of the user.
        queries: of the store.
        commits: find out what became of a lost one.
        seconds: how long judging, and then COMMIT, may take. The connection ends with them.
    """
    if connection.info.transaction_status is not TransactionStatus.IDLE:
        raise InvalidInputError("connection", "must not be in a transaction already")
    verdicts: list[Verdict] | None = None
    deadline = contextlib.ExitStack()
    try:
        async with connection.transaction():
            try:
                yield tx
            finally:
                tx.is_over = True
            if tx.writes:
                timer = asyncio.get_running_loop().call_later(seconds, cut, connection)
                deadline.callback(timer.cancel)
                verdicts = await _judged(connection, queries, tx)
    except psycopg.OperationalError:
        lost = verdicts is not None and connection.closed
        if not lost or not await _happened(commits, tx.writes):
            raise
    except asyncio.CancelledError:
        if verdicts is not None:
            # It may have come while COMMIT was on its way, and contexts must tell the truth.
            with contextlib.suppress(CommitUnknownError):
                if await shielded(_happened(commits, tx.writes)):
                    tx.settle(verdicts)
        raise
    finally:
        deadline.close()
    if verdicts is not None:
        tx.settle(verdicts)


async def _judged(
    connection: AsyncConnection[Any], queries: Queries, tx: PostgresTransaction
) -> list[Verdict]:
    """Store what was added to ``tx``, in a transaction that ends soon.

    Raises:
        FlowstateError: one of them was refused.
    """
    cursor = cursor_of(connection)
    register(cursor)
    await cursor.execute(queries.store_id.encode())
    if await cursor.fetchall() != [(tx.store_id,)]:
        raise InvalidInputError("connection", "leads to another store")
    verdicts: list[Verdict] = []
    while len(verdicts) < len(tx.writes):
        rest = tx.writes[len(verdicts) :]
        batch = rest[: independent(rest)]
        parameters = encoded(batch, LOCK_WAIT)
        await cursor.execute(queries.commit_of(parameters), parameters)
        (answer,) = await cursor.fetchall()
        verdicts += verdicts_of(batch, answer)
        for verdict in verdicts:
            if isinstance(verdict, Exception):
                raise verdict
    return verdicts


async def _happened(commits: Commits, writes: Sequence[Writes]) -> bool:
    """Return whether a transaction was committed whose connection broke at COMMIT.

    Raises:
        CommitUnknownError: there is no way to tell.
    """
    told = next((each for each in writes if each.puts), None)
    resolver = commits.resolver(asyncio.get_running_loop().time())
    backoff = resolver.backoff()
    while told is not None:
        try:
            await resolver.wait_for_others()
            (found,) = await resolver.find_replays([told])
        except Failed as failed:
            if not failed.passing or not await backoff.pause():
                break
        except DriverError:
            break
        else:
            if isinstance(found, CommitUnknownError):
                raise found
            return found is not None
    raise CommitUnknownError((told or writes[0]).token)
