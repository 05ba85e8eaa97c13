"""The Postgres driver."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any, Self

import attrs
from msgspec.structs import replace
from psycopg import AsyncConnection

from flowstate.codec import decode_annotations
from flowstate.data import Data
from flowstate.driver import (
    DuePage,
    DueQuery,
    Durability,
    Heartbeat,
    Liveness,
    StateQuery,
    States,
    Verdict,
    Writes,
)
from flowstate.drivers.kit.base import BaseDriver
from flowstate.drivers.kit.records import state_or_raise
from flowstate.drivers.kit.resolving import Failed
from flowstate.drivers.postgres.reader import due_of, first_readable, liveness_of, states_of
from flowstate.drivers.postgres.session import Options, PostgresSession
from flowstate.drivers.postgres.transaction import PostgresTransaction, joined
from flowstate.state import State

__all__ = ["PostgresDriver"]

CHUNK = 1_000  # Revisions, or blobs, that compaction looks at in one statement.
CHUNK_BYTES = 16 * 1024 * 1024  # Of blobs that it removes in one.
DAMAGED_DELAYS = 100  # That are passed over in search of one that can be read.


@attrs.define(eq=False, slots=False)
class PostgresDriver(Options, BaseDriver[PostgresSession]):
    """Keeps every revision in one schema of a Postgres database (14 or newer).

    Any number of processes on any number of machines may use the same schema. A driver object
    belongs to the event loop in which it was opened. The server's clock stamps ``committed_at``
    and judges delays.

    Args:
        store: the URL of a database, or a pool of your own, which you open and close.
        schema: where the tables are; several stores in one database have several schemas.
        migrate: make the tables, or bring them up to date, when the driver is opened. Without,
            see :func:`migration_sql`.
        listen: hear of other processes' commits through LISTEN. Turn it off behind a pooler in
            transaction mode.
        poll_interval: seconds between two looks for commits of other processes, while a watch
            or a ``Delayer`` waits. 0.1 by default; 1 while the driver listens, for hints that get
            lost. It does not listen on a pool of less than four connections.
        timeout: seconds after which an operation ends that the server does not answer, or that
            it could not do for a passing reason. A single attempt has half of that.
        prepare: let connections made for a URL prepare statements. Turn it off behind a pooler
            in transaction mode that cannot do that.
        pool_size: the most connections that are made for a URL.
        clock: for pauses.

    Raises:
        InvalidInputError: one of them is of the wrong type or out of range.
    """

    max_batch_size = 128
    max_concurrent_batches = 2
    shared = True

    durability: Durability = attrs.field(init=False, default="power", repr=False)

    @property
    def _name(self) -> str:
        return self.name

    def _make_session(self) -> PostgresSession:
        return PostgresSession(self, self._news)

    def _look(self, session: PostgresSession) -> None:
        session.listener.receive()

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self.durability = self._opened().durability
        return self

    # The contract

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        commits = self._opened().commits
        began = commits.loop.time()
        try:
            verdicts = await commits.call(batch, self.timeout / 2)
        except Failed as error:
            verdicts = await commits.resolved(batch, error, began)
        self._news.note_commit(batch, verdicts)
        return verdicts

    @contextlib.asynccontextmanager
    async def transaction(
        self, connection: AsyncConnection[Any]
    ) -> AsyncIterator[PostgresTransaction]:
        """Make commits part of a transaction of your own.

        For example::

            async with driver.transaction(connection) as tx:
                await connection.execute("INSERT INTO ...")
                await engine.do(Commit(Transit(ctx, "ship")), tx=tx)

        Your rows and the states are committed together, or neither. The states are written when
        the block ends, right before COMMIT, because all commits to the store wait for one that
        has been written: what the block does meanwhile holds up no other commit. That is also
        when a commit that lost a race raises, and when contexts move on.

        Args:
            connection: to the database of the store; in no transaction yet, and with isolation
                level READ COMMITTED.

        Raises:
            RevisionMismatchError: a commit lost a race. Nothing was written, yours neither.
            CommitUnknownError: the connection broke at COMMIT, and the outcome cannot be found out.
            InvalidInputError: the connection is in a transaction already.
            psycopg.Error: what your statements raise, or COMMIT. Nothing was written.
        """
        session = self._opened()
        tx = PostgresTransaction(self.store_id, connection)
        try:
            async with joined(tx, connection, self.queries, session.commits, self.timeout):
                yield tx
        finally:
            if tx.verdicts:  # Also when it was cancelled and has happened all the same.
                self._news.note_commit(tx.writes, tx.verdicts)
                session.listener.send()

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        ask = self._opened().rows
        if rev is None:
            rows = await ask(self.queries.latest, id)
        else:
            rows = await ask(self.queries.revision, rev, id)
        return state_or_raise(rows[0]) if rows else None

    async def get_states(self, query: StateQuery) -> States:
        statement, parameters = self.queries.page(query)
        return states_of(query, await self._opened().rows(statement, *parameters))

    async def count(self, query: StateQuery) -> int:
        statement, parameters = self.queries.count(query)
        ((count,),) = await self._opened().rows(statement, *parameters)
        return int(count)

    async def get_data(self, checksum: str) -> Data | None:
        rows = await self._opened().rows(self.queries.data, checksum)
        for blob, annotations in rows:
            return Data(blob, decode_annotations(annotations), checksum=checksum)
        return None

    async def get_due(self, query: DueQuery) -> DuePage:
        statement, parameters = self.queries.due(query)
        return due_of(query, await self._opened().rows(statement, *parameters))

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        return await self._opened().beat(heartbeats)

    async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        session = self._opened()
        ask = partial(session.rows, lane=session.beats)
        found: dict[str, Liveness] = {}
        for row in await ask(self.queries.liveness, list(ids)):
            id: str = row[5]
            found[id], is_damaged = liveness_of(row)
            if is_damaged:
                rows = await ask(self.queries.delays_of, DAMAGED_DELAYS, id)
                found[id] = replace(
                    found[id], delay_due=first_readable([each[1:] for each in rows])
                )
        return [found.get(id) for id in ids]

    async def compact(self, before_rev: int) -> int:
        session = self._opened()
        removed = 0
        after: int | None = 0
        while after is not None:
            ((some, after),) = await session.rows(self.queries.compact, after, before_rev, CHUNK)
            removed += some
        checksum: str | None = ""
        while checksum is not None:
            ((checksum,),) = await session.rows(
                self.queries.drop_unreferenced, checksum, before_rev, CHUNK, CHUNK_BYTES
            )
        return removed
