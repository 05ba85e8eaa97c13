"""A store that several simulated processes reach over a network that delays and loses messages.

The store itself is the memory driver. In front of it, each process has a driver of its own, which
behaves as the drivers of real servers do: it takes batches, tries again what got no reply, and
resolves a commit by its token, or says that the outcome is unknown.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Context
from datetime import datetime
from functools import partial
from random import Random
from typing import Any, Self, TypeVar

from flowstate.clock import Clock
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
from flowstate.drivers.memory import MemoryDriver
from flowstate.errors import CommitUnknownError, DriverClosedError, StoreUnavailableError
from flowstate.state import State
from flowstate.testing.simulation.loop import SimulationLoop
from flowstate.testing.simulation.recording import Recording

__all__ = ["Link", "REPLY_TIMEOUT", "SimulatedDriver", "SimulatedStore", "at_once"]

T = TypeVar("T")
_NOBODY = Context()  # Messages are on their way, whatever becomes of who sent them.

REPLY_TIMEOUT = 0.4
POLL_INTERVAL = 1.0
BATCH_LIMIT = 4
SLOW = 0.01  # How often a message takes long, and hints get lost.
LOST_HINTS = 0.15


class _RefusedError(StoreUnavailableError):
    """The store could not be reached, so it has surely done nothing."""


class _NoReplyError(StoreUnavailableError):
    """Nobody knows what the store has done."""


class Link:
    """The way between one process and the store.

    Attributes:
        cut: what happens to messages while the way is cut: ``"refused"`` or ``"lost"``;
            ``None`` while it is not.
        loss: which part of the messages gets lost.
    """

    def __init__(self) -> None:
        self.cut: str | None = None
        self.loss = 0.0


class SimulatedStore:
    """The memory driver, and a record of all it was asked to write.

    Attributes:
        log: every revision, whether it was compacted or not.
        latest: the last of them, by id.
        authors: who sent each of them.
        applied: by token, the revisions it was given when it was judged first.
        sent: by token, when its driver was asked for it first.
        verdicts: by token, what drivers told engines: a verdict, or ``None`` for nothing yet.
        counts: what happened, by name.
        trace: what happened, with the time.
        recording: of what drivers asked and were told, for the checker of histories.
        on_commit: called after every batch.
    """

    def __init__(self, loop: SimulationLoop, rng: Random, clock: Clock) -> None:
        self.loop = loop
        self.rng = rng
        self._clock = clock
        self.memory = MemoryDriver(clock)
        self.log: list[State] = []
        self.latest: dict[str, State] = {}
        self.authors: list[str] = []
        self.applied: dict[str, tuple[State, ...]] = {}
        self.sent: dict[str, float] = {}
        self.verdicts: dict[str, Verdict | None] = {}
        self.counts: Counter[str] = Counter()
        self.trace: list[tuple[float, str]] = []
        self.recording = Recording(loop)
        self.drivers: list[SimulatedDriver] = []
        self.on_commit: Callable[[], None] = lambda: None
        at_once(self.memory.__aenter__())

    def note(self, what: str) -> None:
        """Put something into the trace."""
        self.trace.append((self.loop.time(), what))

    def commit(self, author: str, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Judge a batch."""
        verdicts: Sequence[Verdict] = at_once(self.memory.commit(batch))
        has_delays = False
        for writes, verdict in zip(batch, verdicts, strict=True):
            if not isinstance(verdict, tuple):
                self.counts["mismatches"] += 1
                self.note(f"store refuses {writes.token}: {verdict}")
            elif writes.token in self.applied:
                self.counts["resolved by token"] += 1
                self.note(f"store knows {writes.token}")
            else:
                has_delays = has_delays or bool(writes.delays)
                self.applied[writes.token] = verdict
                self.log += verdict
                self.latest.update((state.id, state) for state in verdict)
                self.authors += [author] * len(verdict)
                revs = ", ".join(f"{state.id}@{state.rev}" for state in verdict)
                self.note(f"store commits {writes.token}: {revs}")
        for driver in self.drivers:
            driver.hint(own=driver.name == author, has_delays=has_delays)
        self.on_commit()
        return verdicts

    def is_unknown(self, state: State) -> bool:
        """Return whether whoever committed a revision was told that nobody knows."""
        return isinstance(self.verdicts[self._token_of(state)], CommitUnknownError)

    def sent_at(self, state: State) -> float:
        """Return when the commit of a revision was sent first."""
        return self.sent[self._token_of(state)]

    def _token_of(self, state: State) -> str:
        return next(token for token, states in self.applied.items() if state in states)

    def age(self, state: State) -> float:
        """Return the seconds since a revision was committed."""
        if state.committed_at is None:
            raise ValueError(f"{state} was not committed")
        return (self._clock.now() - state.committed_at).total_seconds()

    def latency(self) -> float:
        """Draw how long a message takes."""
        part = self.rng.random()
        if part < SLOW:
            return self.rng.random() * 2.0
        return 0.001 + 0.03 * part * part

    def at_once(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Ask the memory driver directly, past every network; for those who check."""
        return at_once(coroutine)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits for anything."""
    while True:
        try:
            coroutine.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result


class SimulatedDriver(Driver):
    """The driver of one process.

    Args:
        store: behind the network.
        link: to the store.
        name: of the process.
        patience: seconds for which a commit is tried again.
    """

    durability: Durability = "power"
    batch_limit = BATCH_LIMIT
    shared = True

    def __init__(self, store: SimulatedStore, link: Link, name: str, patience: float) -> None:
        self.store_id = "simulated"
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
        self._known_head = 0
        self._delay_count = 0
        self._hint_on_its_way = False
        self._delay_hint_on_its_way = False
        self._head_waiters: dict[asyncio.Future[None], None] = {}
        self._delay_waiters: dict[asyncio.Future[None], None] = {}

    async def __aenter__(self) -> Self:
        self._users += 1
        if self._users == 1:
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
        self._wake_delayers()
        self._wake()

    # Messages

    def _send(self, call: Callable[[], T]) -> "asyncio.Future[T]":
        """Send a request; return the future of its reply."""
        if not self._users or self.is_dead:
            raise DriverClosedError("the simulated driver is not open")
        link, loop, store = self._link, self._loop, self._store
        if link.cut == "refused":
            store.counts["refused connections"] += 1
            raise _RefusedError("the store cannot be reached")
        reply: asyncio.Future[T] = loop.create_future()
        gives_up_at = loop.time() + REPLY_TIMEOUT
        if link.cut or (link.loss and self._rng.random() < link.loss):
            store.counts["lost requests"] += 1
            loop.call_at(gives_up_at, _fail, reply, context=_NOBODY)
            return reply
        latency = store.latency()
        if latency > REPLY_TIMEOUT:
            store.counts["late requests"] += 1
            loop.call_at(gives_up_at, _fail, reply, context=_NOBODY)
        loop.call_later(latency, self._arrive, call, reply, gives_up_at, context=_NOBODY)
        return reply

    def _arrive(self, call: Callable[[], T], reply: "asyncio.Future[T]", until: float) -> None:
        """Let the store act, whoever waits for it, and send the reply."""
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
            loop.call_at(max(until, loop.time()), _fail, reply, context=_NOBODY)
        else:
            loop.call_at(at, deliver, reply, answer, context=_NOBODY)

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
        if self._head_waiters and not self._hint_on_its_way:
            self._hint_on_its_way = True
            self._loop.call_later(self._hint_time(own), self._wake, context=_NOBODY)
        if has_delays and not self._delay_hint_on_its_way:
            self._delay_hint_on_its_way = True
            self._loop.call_later(self._hint_time(own), self._wake_delayers, context=_NOBODY)

    def _hint_time(self, own: bool) -> float:
        if self._rng.random() < LOST_HINTS and not own:
            self._store.counts["lost hints"] += 1
            return POLL_INTERVAL
        return self._store.latency()

    def _wake(self) -> None:
        self._hint_on_its_way = False
        self._known_head = len(self._store.log)
        _set_all(self._head_waiters)

    def _wake_delayers(self) -> None:
        self._delay_hint_on_its_way = False
        self._delay_count += 1
        _set_all(self._delay_waiters)

    async def wait(self, rev: int) -> None:
        """Wait for a hint, which comes too late at times."""
        self._check_open()
        if self._known_head > rev:
            return
        await self._wait_in(self._head_waiters, is_late=len(self._store.log) > self._known_head)

    async def wait_delay(self, seen: int) -> int:
        """Wait for a hint, which comes too late at times."""
        while self._delay_count == seen:
            self._check_open()
            await self._wait_in(self._delay_waiters, is_late=False)
        return self._delay_count

    async def _wait_in(self, waiters: "dict[asyncio.Future[None], None]", is_late: bool) -> None:
        waiter: asyncio.Future[None] = self._loop.create_future()
        waiters[waiter] = None
        if is_late and not self._hint_on_its_way:
            self._hint_on_its_way = True
            self._loop.call_later(POLL_INTERVAL, self._wake, context=_NOBODY)
        try:
            await waiter
        finally:
            waiters.pop(waiter, None)
        self._check_open()

    def _check_open(self) -> None:
        if not self._users or self.is_dead:
            raise DriverClosedError("the simulated driver is not open")

    # The contract

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Commit, try again under the same token, and say so when that was in vain."""
        store = self._store
        for writes in batch:
            store.sent.setdefault(writes.token, self._loop.time())
            store.verdicts[writes.token] = None
        store.counts["batches"] += len(batch) > 1
        ops = self._recording.invoked(batch)
        try:
            verdicts = await self._resolved(batch)
        except BaseException as error:
            self._recording.raised(ops, error)
            if isinstance(error, StoreUnavailableError):
                store.verdicts.update((writes.token, error) for writes in batch)
            raise
        self._recording.judged(ops, verdicts)
        for writes, verdict in zip(batch, verdicts, strict=True):
            store.verdicts[writes.token] = verdict
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
        state = await self._ask(self._memory.get_state, id, rev)
        self._recording.read(invoked, id, rev, state)
        return state

    async def get_states(self, query: StateQuery) -> States:
        """Ask the store."""
        invoked = self._recording.now()
        page = await self._ask(self._memory.get_states, query)
        self._recording.read_page(invoked, query, page)
        return page

    async def get_data(self, checksum: str) -> Data | None:
        """Ask the store."""
        return await self._ask(self._memory.get_data, checksum)

    async def get_delayed(self, query: DelayQuery) -> DelayedStates:
        """Ask the store."""
        return await self._ask(self._memory.get_delayed, query)

    async def claim_delay(self, id: str, due: datetime, seconds: float) -> datetime | None:
        """Ask the store once: asked again, it would find the delay claimed, by this process."""
        return await self._send(partial(_call, self._memory.claim_delay, id, due, seconds))

    async def drop_delay(self, id: str) -> None:
        """Ask the store."""
        self._recording.dropped(id)
        await self._ask(self._memory.drop_delay, id)

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        """Ask the store."""
        self._store.counts["heartbeats"] += 1
        return await self._ask(self._memory.beat, heartbeats)

    async def get_liveness(self, id: str) -> Liveness | None:
        """Ask the store."""
        return await self._ask(self._memory.get_liveness, id)

    async def get_stalled(self, query: StalledQuery) -> StalledStates:
        """Ask the store."""
        return await self._ask(self._memory.get_stalled, query)

    async def compact(self, before_rev: int) -> int:
        """Ask the store."""
        self._recording.compacted(before_rev)
        return await self._ask(self._memory.compact, before_rev)

    async def head(self) -> int:
        """Ask the store."""
        return await self._ask(self._memory.head)


def _call(method: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
    return at_once(method(*args))


def _succeed(reply: "asyncio.Future[T]", result: T) -> None:
    if not reply.done():
        reply.set_result(result)


def _fail(reply: "asyncio.Future[Any]", error: Exception | None = None) -> None:
    if not reply.done():
        reply.set_exception(error or _NoReplyError("the store did not reply in time"))


def _set_all(waiters: "dict[asyncio.Future[None], None]") -> None:
    for waiter in list(waiters):
        if not waiter.done():
            waiter.set_result(None)
