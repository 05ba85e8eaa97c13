"""The driver of one simulated process, behind a network that delays and loses messages.

It behaves as the drivers of real servers do: it takes batches, tries again what got no reply, and
resolves a commit by its token, or says that the outcome is unknown.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from functools import partial
from typing import Any, Self, TypeVar

from flowstate.data import Data
from flowstate.driver import (
    Driver,
    DuePage,
    DueQuery,
    Durability,
    Heartbeat,
    Liveness,
    Seen,
    StateQuery,
    States,
    Verdict,
    Writes,
)
from flowstate.errors import (
    CommitUnknownError,
    DamagedRevisionError,
    DriverClosedError,
    StoreUnavailableError,
)
from flowstate.state import State
from flowstate.testing.simulation.store import Link, SimulatedStore, at_once

__all__ = ["REPLY_TIMEOUT", "SimulatedDriver"]

T = TypeVar("T")
_NO_PROCESS = Context()  # Messages are on their way, whatever becomes of their sender.

REPLY_TIMEOUT = 0.4
POLL_INTERVAL = 1.0
MAX_BATCH_SIZE = 4
LOST_HINTS = 0.15


class _RefusedError(StoreUnavailableError):
    """The store could not be reached, so it has surely done nothing."""


class _NoReplyError(StoreUnavailableError):
    """It is unknown what the store has done."""


class SimulatedDriver(Driver):
    """The driver of one process.

    Args:
        store: behind the network.
        link: to the store.
        name: of the process.
        patience: seconds for which a commit is tried again.
    """

    durability: Durability = "power"
    max_batch_size = MAX_BATCH_SIZE
    stores_objects = True
    shared = True

    def __init__(self, store: SimulatedStore, link: Link, name: str, patience: float) -> None:
        self.store_id = f"simulated, {name}"  # What runs in one process is told of at once.
        self.name = name
        self.is_dead = False
        self._store = store
        self._recording = store.recording
        self._memory = store.memory
        self._link = link
        self._patience = patience
        self._loop = store.loop
        self._rng = store.rng
        self._users = 0
        self._known = Seen(0, 0)
        self._is_hint_on_its_way = False
        self._brings_delays = False
        self._waiters: dict[asyncio.Future[None], None] = {}

    async def __aenter__(self) -> Self:
        self._users += 1
        if self._users == 1:
            self._known = Seen(len(self._store.log), 0)
            self._store.drivers.append(self)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._users -= 1
        if not self._users:
            self.leave()

    def leave(self) -> None:
        """Hear no more of the store, as when the process dies."""
        if self in self._store.drivers:
            self._store.drivers.remove(self)
        self._wake()

    def _check_open(self) -> None:
        if not self._users or self.is_dead:
            raise DriverClosedError("the simulated driver is not open")

    # Messages

    def _send(self, call: Callable[[], T]) -> "asyncio.Future[T]":
        """Send a request; return the future of its reply."""
        self._check_open()
        link, loop, store = self._link, self._loop, self._store
        if link.cut == "refused":
            store.counts["refused connections"] += 1
            raise _RefusedError("the store cannot be reached")
        reply: asyncio.Future[T] = loop.create_future()
        gives_up_at = loop.time() + REPLY_TIMEOUT
        if link.cut or (link.loss and self._rng.random() < link.loss):
            store.counts["lost requests"] += 1
            loop.call_at(gives_up_at, _fail, reply, context=_NO_PROCESS)
            return reply
        latency = store.latency()
        if latency > REPLY_TIMEOUT:
            store.counts["late requests"] += 1
            loop.call_at(gives_up_at, _fail, reply, context=_NO_PROCESS)
        loop.call_later(latency, self._arrive, call, reply, gives_up_at, context=_NO_PROCESS)
        return reply

    def _arrive(self, call: Callable[[], T], reply: "asyncio.Future[T]", until: float) -> None:
        """Let the store act, whether its reply is awaited or not, and send the reply."""
        loop, link, store = self._loop, self._link, self._store
        deliver: Callable[[asyncio.Future[T], Any], None] = _succeed
        answer: T | Exception
        try:
            answer = call()
        except Exception as error:  # noqa: BLE001 - it is the reply
            deliver, answer = _fail, error
        at = loop.time() + store.latency()
        if link.cut or at > until or (link.loss and self._rng.random() < link.loss):
            store.counts["lost replies"] += 1
            loop.call_at(max(until, loop.time()), _fail, reply, context=_NO_PROCESS)
        else:
            loop.call_at(at, deliver, reply, answer, context=_NO_PROCESS)

    async def _ask(self, method: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Ask the store something, twice if there is no reply."""
        call = partial(_call, method, *args)
        try:
            return await self._send(call)
        except _NoReplyError:
            return await self._send(call)

    # Hints

    def hint(self, *, own: bool, has_delays: bool) -> None:
        """Let the process know, now, later or when it polls, that something was written."""
        self._brings_delays = self._brings_delays or has_delays
        if not self._is_hint_on_its_way:
            self._is_hint_on_its_way = True
            self._loop.call_later(self._hint_time(own), self._wake, context=_NO_PROCESS)

    def _hint_time(self, own: bool) -> float:
        if self._rng.random() < LOST_HINTS and not own:
            self._store.counts["lost hints"] += 1
            return POLL_INTERVAL
        return self._store.latency()

    def _wake(self) -> None:
        self._is_hint_on_its_way = False
        self._known = Seen(len(self._store.log), self._known.due + self._brings_delays)
        self._brings_delays = False
        for waiter in list(self._waiters):
            if not waiter.done():
                waiter.set_result(None)

    async def changed(self, seen: Seen) -> Seen:
        """Wait for a hint, which comes too late at times."""
        self._check_open()
        while self._known.head <= seen.head and self._known.due == seen.due:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters[waiter] = None
            try:
                await waiter
            finally:
                self._waiters.pop(waiter, None)
            self._check_open()
        return Seen(max(self._known.head, seen.head), self._known.due)

    # The contract

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Commit, try again under the same token, and say so when that was in vain."""
        store = self._store
        tokens = [writes.token for writes in batch]
        for token in tokens:
            store.sent.setdefault(token, self._loop.time())
            store.verdicts[token] = None
        store.counts["batches"] += len(batch) > 1
        ops = self._recording.invoked(batch)
        try:
            verdicts = await self._resolved(batch)
        except BaseException as error:
            self._recording.raised(ops, error)
            if isinstance(error, StoreUnavailableError):
                store.verdicts.update((token, error) for token in tokens)
            raise
        self._recording.judged(ops, verdicts)
        store.verdicts.update(zip(tokens, verdicts, strict=True))
        return verdicts

    async def _resolved(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        deadline = self._loop.time() + self._patience
        is_open = False  # Whether one of the requests may have been heard.
        while True:
            try:
                return await self._send(partial(self._store.commit, self.name, batch))
            except _RefusedError:
                pass
            except _NoReplyError:
                is_open = True
            if self._loop.time() > deadline:
                break
            await asyncio.sleep(0.02 + 0.1 * self._rng.random())
        if not is_open:
            raise StoreUnavailableError("the store cannot be reached")
        self._store.counts["unknown outcomes"] += 1
        return [CommitUnknownError(writes.token) for writes in batch]

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        """Ask the store."""
        invoked = self._recording.now()
        try:
            state = await self._ask(self._store.get_state, id, rev)
        except DamagedRevisionError as error:
            self._recording.read(invoked, id, rev, error.rev)
            raise
        self._recording.read(invoked, id, rev, state.rev if state else 0)
        return state

    async def get_states(self, query: StateQuery) -> States:
        """Ask the store."""
        invoked = self._recording.now()
        page = await self._ask(self._memory.get_states, query)
        self._recording.read_page(invoked, query, page)
        return self._store.without_damage(page)

    async def count(self, query: StateQuery) -> int:
        """Ask the store."""
        return await self._ask(self._memory.count, query)

    async def get_data(self, checksum: str) -> Data | None:
        """Ask the store."""
        return await self._ask(self._memory.get_data, checksum)

    async def get_due(self, query: DueQuery) -> DuePage:
        """Ask the store."""
        return await self._ask(self._memory.get_due, query)

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        """Ask the store."""
        self._store.counts["heartbeats"] += 1
        self._store.counts["handed over"] += sum(each.seconds == 0 for each in heartbeats)
        return await self._ask(self._memory.beat, heartbeats)

    async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        """Ask the store."""
        return await self._ask(self._memory.get_liveness, ids)

    async def compact(self, before_rev: int) -> int:
        """Ask the store."""
        self._recording.compacted(before_rev)
        return await self._ask(self._memory.compact, before_rev)


def _call(method: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
    return at_once(method(*args))


def _succeed(reply: "asyncio.Future[T]", result: T) -> None:
    if not reply.done():
        reply.set_result(result)


def _fail(reply: "asyncio.Future[Any]", error: Exception | None = None) -> None:
    if not reply.done():
        reply.set_exception(error or _NoReplyError("the store did not reply in time"))
