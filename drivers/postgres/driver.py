"""The Postgres driver."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from psycopg import AsyncConnection

from flowstate.cancellation import to_the_end
from flowstate.clock import Clock, SystemClock
from flowstate.data import Data
from flowstate.driver import (
    DelayedStates,
    DelayQuery,
    Driver,
    Durability,
    Heartbeat,
    Liveness,
    StalledQuery,
    StalledStates,
    StateQuery,
    States,
    Transaction,
    Verdict,
    Writes,
)
from flowstate.drivers.postgres import schema as schemas
from flowstate.drivers.postgres.pool import Pool
from flowstate.drivers.postgres.queries import Queries
from flowstate.drivers.postgres.reader import (
    data_of,
    delayed_of,
    liveness_of,
    page_of,
    stalled_of,
    state_of,
)
from flowstate.drivers.postgres.session import Options, Session
from flowstate.drivers.postgres.times import from_micros, to_micros
from flowstate.drivers.postgres.transaction import PostgresTransaction, joined
from flowstate.errors import DriverClosedError, DriverError, InvalidInputError
from flowstate.signal import Signal
from flowstate.state import State

__all__ = ["PostgresDriver"]

CHUNK = 1_000
LARGEST_POOL = 1_000


class PostgresDriver(Driver):
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
        poll_interval: seconds between two looks for commits of other processes, while somebody
            watches. 0.1 by default; 1 while the driver listens, for hints that get lost. It does
            not listen on a pool of less than four connections.
        timeout: seconds for which an operation is tried again while the server cannot be
            reached, and to wait for a connection of the pool.
        prepare: let connections made for a URL prepare statements. Turn it off behind a pooler
            in transaction mode that cannot do that.
        pool_size: the most connections that are made for a URL.
        clock: for timeouts and pauses.
    """

    batch_limit = 128
    batches_at_once = 2
    shared = True

    def __init__(
        self,
        store: str | Pool,
        *,
        schema: str = "flowstate",
        migrate: bool = True,
        listen: bool = True,
        poll_interval: float | None = None,
        timeout: float = 10.0,
        prepare: bool = True,
        pool_size: int = 8,
        clock: Clock | None = None,
    ) -> None:
        self._queries = Queries(schemas.quoted(schema))
        if poll_interval is not None:
            _check_number("poll_interval", poll_interval, 0.001, 1_000_000)
        _check_number("timeout", timeout, 0, 1_000_000)
        if not isinstance(pool_size, int) or not 1 <= pool_size <= LARGEST_POOL:
            raise InvalidInputError(
                "pool_size", f"must be from 1 to {LARGEST_POOL}, not {pool_size!r}"
            )
        self.store_id = ""
        self.durability: Durability = "power"
        self._store = store
        self._schema = schema
        self._migrate = migrate
        self._options = Options(
            listen=listen,
            poll_interval=poll_interval,
            timeout=timeout,
            prepare=prepare,
            pool_size=pool_size,
        )
        self._clock = clock or SystemClock()
        self._users = 0
        self._session: Session | None = None
        self._opening = asyncio.Lock()
        self._head = 0  # Of this process's commits, and of others' since somebody waits.
        self._next_delay: str | None = None
        self._changed = Signal()
        self._delay_written = Signal()

    async def __aenter__(self) -> Self:
        async with self._opening:
            if self._session is None:
                self._session = await self._open()
                self._head, self._next_delay = 0, None
            self._users += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        async with self._opening:
            self._users -= 1
            if self._users or self._session is None:
                return
            session, self._session = self._session, None
            self._changed.notify()
            self._delay_written.notify()
            await to_the_end(session.close())

    async def _open(self) -> Session:
        session = Session(
            self._store,
            self._queries,
            self._schema,
            options=self._options,
            clock=self._clock,
            look=self._look,
        )
        try:
            self.store_id, self.durability = await session.open(migrate=self._migrate)
        except BaseException:
            await session.close()
            raise
        return session

    def _opened(self) -> Session:
        if self._session is None:
            raise DriverClosedError(f"Postgres schema {self._schema} is not open")
        self._session.check_loop()
        return self._session

    # The contract

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        session = self._opened()
        verdicts = await session.commits.commit(batch)
        self._committed(batch, verdicts)
        return verdicts

    def _committed(self, batch: Sequence[Writes], verdicts: Sequence[Verdict]) -> None:
        """Wake whoever waits here."""
        heads = [states[-1].rev for states in verdicts if isinstance(states, tuple) and states]
        delays = any(writes.delays for writes in batch)
        if heads:
            self._head = max(self._head, *heads)
            self._changed.notify()
        if delays:
            self._delay_written.notify()

    @contextlib.asynccontextmanager
    async def transaction(self, connection: AsyncConnection[Any]) -> AsyncIterator[Transaction]:
        """Make commits part of a transaction of your own.

        For example::

            async with driver.transaction(connection) as tx:
                await connection.execute("INSERT INTO ...")
                await engine.do(Commit(Transit(ctx, "ship")), tx=tx)

        Your rows and the states are committed together, or neither. The states are written when
        the block ends, right before COMMIT, because all commits to the store wait for one that
        has been written: what the block does meanwhile holds up nobody. That is also when a
        commit that lost a race raises, and when contexts move on.

        Args:
            connection: to the database of the store; in no transaction yet, and with isolation
                level READ COMMITTED.

        Raises:
            RevisionMismatchError: a commit lost a race. Nothing was written, yours neither.
            CommitUnknownError: the connection broke at COMMIT, and nobody can tell.
            InvalidInputError: the connection is in a transaction already.
            psycopg.Error: what your statements raise, or COMMIT. Nothing was written.
        """
        session = self._opened()
        tx = PostgresTransaction(self.store_id)
        try:
            async with joined(tx, connection, self._queries, session.commits):
                yield tx
        finally:
            if tx.verdicts:  # Also when it was cancelled and has happened all the same.
                self._committed(tx.writes, tx.verdicts)
                session.hints.send()

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        ask = self._opened().connections.row
        if rev is None:
            row = await ask(self._queries.latest, id)
        else:
            row = await ask(self._queries.revision, rev, id)
        return None if row is None else state_of(row)

    async def get_states(self, query: StateQuery) -> States:
        statement, parameters = self._queries.page(query)
        return page_of(query, await self._opened().connections.rows(statement, parameters))

    async def get_data(self, checksum: str) -> Data | None:
        row = await self._opened().connections.row(self._queries.data, checksum)
        return None if row is None else data_of(row, checksum)

    async def get_delayed(self, query: DelayQuery) -> DelayedStates:
        statement, parameters = self._queries.delayed(query)
        return delayed_of(query, await self._opened().connections.rows(statement, parameters))

    async def claim_delay(self, id: str, due: datetime, seconds: float) -> datetime | None:
        row = await self._opened().connections.row(self._queries.claim, seconds, id, to_micros(due))
        return None if row is None else from_micros(row[0])

    async def drop_delay(self, id: str) -> None:
        await self._opened().connections.execute(self._queries.drop, id)

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        return await self._opened().heartbeats.beat(heartbeats)

    async def get_liveness(self, id: str) -> Liveness | None:
        (found,) = await self.get_liveness_of([id])
        return found

    async def get_liveness_of(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        rows = await self._opened().connections.rows(self._queries.liveness, [list(ids)])
        found = {id: liveness_of(row) for id, *row in rows}
        return [found.get(id) for id in ids]

    async def get_stalled(self, query: StalledQuery) -> StalledStates:
        statement, parameters = self._queries.stalled(query)
        return stalled_of(query, await self._opened().connections.rows(statement, parameters))

    async def compact(self, before_rev: int) -> int:
        connections = self._opened().connections
        removed = 0
        after: int | None = 0
        while after is not None:
            row = await connections.row(self._queries.compact, after, before_rev, CHUNK)
            some, after = row or (0, None)
            removed += some
        dropped = CHUNK
        while dropped == CHUNK:
            row = await connections.row(self._queries.drop_unreferenced, before_rev, CHUNK)
            (dropped,) = row or (0,)
        return removed

    async def head(self) -> int:
        row = await self._opened().connections.row(self._queries.head)
        return int(row[0]) if row else 0

    async def wait(self, rev: int) -> None:
        seen = self._changed.count
        self._opened().hints.receive()
        if self._head <= rev:
            await self._changed.wait(seen)
            self._opened()

    async def wait_delay(self, seen: int) -> int:
        self._opened().hints.receive()
        count = await self._delay_written.wait(seen)
        self._opened()
        return count

    async def _look(self) -> None:
        """Note what is new, and then wake whoever waits."""
        before = self._head
        try:
            row = await self._opened().connections.row(self._queries.outlook)
        except DriverError:
            self._changed.notify()  # Whoever waits reads the store, and meets the error.
            return
        head, next_delay = row or (0, None)
        if head > self._head or head < self._head == before:  # The latter: it was rewound.
            self._head = head
            self._changed.notify()
        if next_delay != self._next_delay:
            self._next_delay = next_delay
            self._delay_written.notify()


def _check_number(field: str, value: object, least: float, most: float) -> None:
    # Not a number compares as false.
    if not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidInputError(field, f"must be from {least} to {most}, not {value!r}")
