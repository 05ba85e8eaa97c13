"""The Redis driver."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from msgspec import msgpack

from flowstate.cancellation import to_the_end
from flowstate.clock import Clock, SystemClock
from flowstate.codec import decode_annotations
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
    Verdict,
    Writes,
)
from flowstate.drivers.redis import reader, stalling
from flowstate.drivers.redis.errors import making_sense
from flowstate.drivers.redis.session import Client, Session
from flowstate.drivers.redis.times import from_digits, split, to_digits
from flowstate.drivers.redis.watcher import Watcher
from flowstate.errors import DriverClosedError, InvalidInputError, StoreUnavailableError
from flowstate.signal import Signal
from flowstate.state import State

__all__ = ["RedisDriver"]

CHUNK = 500
DURABILITIES: tuple[Durability, ...] = ("none", "process", "power")
LONGEST_NAMESPACE = 200
MOST_REPLICAS = 1_000


class RedisDriver(Driver):
    """Keeps every revision in one namespace of a Redis (6.2 or newer) or Valkey server.

    Any number of processes on any number of machines may use the same namespace. A driver object
    belongs to the event loop in which it was opened. The server's clock stamps ``committed_at``
    and judges delays. What an acknowledged commit survives depends on the server's settings, see
    ``durability``; no setting makes a failover to a replica safe.

    Args:
        store: the URL of a server, or a client of your own (``redis.asyncio.Redis`` or
            ``RedisCluster``), which you close.
        namespace: where the keys are, all under the hash tag ``{namespace}``: on a cluster, one
            namespace is on one shard.
        require_durability: refuse a server that promises less.
        wait_aof: how many must have a commit on disk before it is acknowledged, (1 for this
            server or 0, replicas): needs Redis 7.2 and appendonly. A commit that too few have
            raises ``CommitUnknownError``.
        timeout: seconds for which an operation is tried again while the server cannot be
            reached, and to wait for a reply.
        clock: for timeouts and pauses.
    """

    batch_limit = 64
    shared = True

    def __init__(
        self,
        store: "str | Client",
        *,
        namespace: str = "flowstate",
        require_durability: Durability = "none",
        wait_aof: tuple[int, int] | None = None,
        timeout: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(namespace, str) or not namespace or set(namespace) & set("{}\0"):
            raise InvalidInputError("namespace", "must be a text without braces")
        if len(namespace.encode()) > LONGEST_NAMESPACE:
            raise InvalidInputError("namespace", f"is longer than {LONGEST_NAMESPACE} bytes")
        if require_durability not in DURABILITIES:
            reason = f"must be one of {', '.join(DURABILITIES)}, not {require_durability!r}"
            raise InvalidInputError("require_durability", reason)
        if not isinstance(timeout, int | float) or not 0 < timeout <= 1_000_000:  # noqa: PLR2004
            raise InvalidInputError("timeout", f"must be a number of seconds, not {timeout!r}")
        if wait_aof is not None and not _is_wait(wait_aof):
            reason = f"must be two numbers of servers, at most 1 and 1,000, not {wait_aof!r}"
            raise InvalidInputError("wait_aof", reason)
        self.store_id = ""
        self.durability: Durability = "none"
        self._store = store
        self._namespace = namespace
        self._required = require_durability
        self._wait_aof = wait_aof
        self._timeout = timeout
        self._clock = clock or SystemClock()
        self._users = 0
        self._session: Session | None = None
        self._watcher: Watcher | None = None
        self._opening = asyncio.Lock()
        self._head = 0  # Of this process's commits, and of others' since somebody waits.
        self._changed = Signal()
        self._delay_written = Signal()

    async def __aenter__(self) -> Self:
        async with self._opening:
            if self._session is None:
                self._session = await self._open()
                self._watcher = Watcher(
                    self._session,
                    self._timeout,
                    known=lambda: self._head,
                    on_head=self._saw_head,
                    on_alarm=self._delay_written.notify,
                )
                self._head = 0
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
            watcher, self._watcher = self._watcher, None
            self._changed.notify()
            self._delay_written.notify()
            await to_the_end(_close(watcher, session))

    async def _open(self) -> Session:
        session = Session(
            self._store,
            self._namespace,
            timeout=self._timeout,
            wait_aof=self._wait_aof,
            clock=self._clock,
        )
        try:
            self.store_id, self.durability = await session.open()
            if DURABILITIES.index(self.durability) < DURABILITIES.index(self._required):
                raise StoreUnavailableError(
                    f"this Redis server promises durability {self.durability!r}, and "
                    f"{self._required!r} is required; see appendonly and appendfsync"
                )
        except BaseException:
            await session.close()
            raise
        return session

    def _opened(self) -> Session:
        if self._session is None:
            raise DriverClosedError(f"Redis namespace {self._namespace} is not open")
        self._session.check_loop()
        return self._session

    # The contract

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        verdicts = await self._opened().commit(batch)
        heads = [states[-1].rev for states in verdicts if isinstance(states, tuple) and states]
        if heads:
            self._head = max(self._head, *heads)
            self._changed.notify()
        if any(writes.delays for writes in batch):
            self._delay_written.notify()
        return verdicts

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        answer = await self._opened().run("state", id, "" if rev is None else rev)
        with making_sense():
            stored = msgpack.decode(answer)
            return reader.state_of(stored) if stored else None

    async def get_states(self, query: StateQuery) -> States:
        answer = await self._opened().run("page", reader.ask_page(query))
        return reader.page_of(query, answer)

    async def get_data(self, checksum: str) -> Data | None:
        found = await self._opened().run("data", checksum)
        blob, annotations = found
        if blob is None:
            return None
        return Data(blob, decode_annotations(annotations), checksum=checksum)

    async def get_delayed(self, query: DelayQuery) -> DelayedStates:
        answer = await self._opened().run("delayed", *reader.ask_delayed(query))
        return reader.delayed_of(answer)

    async def claim_delay(self, id: str, due: datetime, seconds: float) -> datetime | None:
        after = split(timedelta(seconds=seconds))
        moved = await self._opened().run("claim", id, to_digits(due), *after)
        return None if moved is None else from_digits(moved)

    async def drop_delay(self, id: str) -> None:
        await self._opened().run("drop", id)

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        session = self._opened()
        found: list[bool] = []
        for start in range(0, len(heartbeats), CHUNK):
            some = heartbeats[start : start + CHUNK]
            found += msgpack.decode(await session.run("beat", stalling.ask_beat(some)))
        return found

    async def get_liveness(self, id: str) -> Liveness | None:
        (found,) = await self.get_liveness_of([id])
        return found

    async def get_liveness_of(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        answers = await self._opened().run("liveness", *ids)
        return [stalling.liveness_of(answer) for answer in answers]

    async def get_stalled(self, query: StalledQuery) -> StalledStates:
        answer = await self._opened().run("stalled", *stalling.ask_stalled(query))
        return stalling.stalled_of(answer)

    async def compact(self, before_rev: int) -> int:
        session = self._opened()
        removed = 0
        after: Any = 0
        while after is not False:
            answer = await session.run("compact", after, before_rev, CHUNK)
            with making_sense():
                some, after = msgpack.decode(answer)
            removed += some
        while await session.run("orphans", before_rev, CHUNK) == CHUNK:
            pass
        return removed

    async def head(self) -> int:
        return int(await self._opened().run("head"))

    async def wait(self, rev: int) -> None:
        seen = self._changed.count
        self._watch()
        if self._head <= rev:
            await self._changed.wait(seen)
            self._opened()

    async def wait_delay(self, seen: int) -> int:
        self._watch()
        count = await self._delay_written.wait(seen)
        self._opened()
        return count

    def _watch(self) -> None:
        self._opened()
        if self._watcher is not None:
            self._watcher.start()

    def _saw_head(self, head: int | None, before: int) -> None:
        if head is None:
            self._changed.notify()
        elif head > self._head or head < self._head == before:  # The latter: it was rewound.
            self._head = head
            self._changed.notify()


async def _close(watcher: Watcher | None, session: Session) -> None:
    if watcher is not None:
        await watcher.close()
    await session.close()


def _is_wait(value: object) -> bool:
    match value:
        case (int(local), int(replicas)):
            return 0 <= local <= 1 and 0 <= replicas <= MOST_REPLICAS
    return False
