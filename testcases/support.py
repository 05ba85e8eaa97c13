"""What several themes of the suite share: flows, store contents, and a driver that can fail."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

from msgspec import Raw
from msgspec.structs import replace

from flowstate.codec import ABSENT, DelayBody, encode_body, encode_delay, encode_state
from flowstate.commands import Command, Commit, End, Pause, Transit
from flowstate.context import StateContext
from flowstate.data import Data
from flowstate.driver import (
    DelayedState,
    Driver,
    DuePage,
    DueQuery,
    Heartbeat,
    Liveness,
    NewDelay,
    NewTimer,
    Seen,
    StateQuery,
    States,
    Verdict,
    Writes,
)
from flowstate.engine import Engine
from flowstate.registry import FlowRegistry
from flowstate.state import State, Status
from flowstate.testcases.harness import Harness, check

__all__ = [
    "DriverWrapper",
    "commit_labelled",
    "committed",
    "contents",
    "delays_of",
    "encoded",
    "end",
    "first_half",
    "in_another_loop",
    "know",
    "raised",
    "second_half",
    "snapshot",
    "stored",
    "take",
    "timer",
    "visiting",
]

E = TypeVar("E", bound=BaseException)
T = TypeVar("T")


async def end(ctx: StateContext, engine: Engine) -> Command[None]:
    """A flow that only ends its state."""
    return Commit(End(ctx))


def know(h: Harness, *flows: str) -> None:
    """Register flows that end their state."""
    for flow in flows:
        h.flows.set(flow, end, replace=True)


async def committed(h: Harness, id: str, to: str = "work", **state: Any) -> StateContext:
    """Return the context of a new state that was committed in flow ``to``."""
    if to not in h.flows:
        know(h, to)
    ctx = h.ctx(id, **state)
    await h.engine.do(Commit(Transit(ctx, to)))
    return ctx


async def raised(kind: type[E], do: Callable[..., Any], *args: Any, **kwargs: Any) -> E:
    """Return the error that ``do`` raises, which must be exactly of this kind."""
    try:
        result = do(*args, **kwargs)
        if inspect.isawaitable(result):
            result = await result
    except kind as error:
        check(type(error), kind, f"error {error!r}")
        return error
    raise AssertionError(f"{kind.__name__} was not raised, the result was {result!r}")


def snapshot(ctx: StateContext) -> dict[str, object]:
    """Return every attribute of a context, to be compared later."""
    names = set(StateContext.__slots__) - {"_frozen"}  # That is what it was made with.
    attributes = {name: getattr(ctx, name, None) for name in names}
    return attributes | {"data": dict(ctx.data)}


async def delays_of(h: Harness) -> list[DelayedState]:
    """Return all delays."""
    delayed: list[DelayedState] = []
    page = await h.engine.get_delayed_states()
    while True:
        delayed += page.delayed
        if not page.more:
            return delayed
        page = await h.engine.do(page.next)


async def contents(h: Harness) -> tuple[list[State], list[DelayedState]]:
    """Return the whole log and all delays."""
    return await h.log(), await delays_of(h)


async def take(states: AsyncIterator[T], count: int) -> list[T]:
    """Return the next so many."""
    return [await anext(states) for _ in range(count)]


def encoded(writes: Writes) -> Writes:
    """Return writes as the core gives them to a driver: with the stored forms, and the size."""
    bodies = tuple(encode_body(put) for put in writes.puts)
    delays = tuple(_encoded_delay(delay) for delay in writes.delays)
    timers = tuple(_encoded_timer(timer) for timer in writes.timers)
    texts = (*bodies, *(delay.body for delay in delays), *(timer.body for timer in timers))
    size = sum(len(text.encode()) for text in texts) + sum(len(data.blob) for data in writes.data)
    return replace(writes, bodies=bodies, delays=delays, timers=timers, size=size)


def _encoded_delay(delay: NewDelay) -> NewDelay:
    own = ABSENT if delay.put is not None else Raw(encode_state(delay.state))
    body = DelayBody(delay.to, delay.annotations, delay.commit, own)
    encoded: bytes | str = encode_delay(body)
    return replace(delay, body=encoded if isinstance(encoded, str) else encoded.decode())


def _encoded_timer(timer: NewTimer) -> NewTimer:
    return replace(timer, body=encode_delay(DelayBody(timer.to, timer=timer.name)))


def timer(
    id: str, due: datetime | timedelta, *, name: str = "alarm", to: str = "work", put: int = 0
) -> NewTimer:
    """Return a timer that is due at a time, or so long from the store's now."""
    if isinstance(due, datetime):
        return NewTimer(id, name, put, to, due, None, "")
    return NewTimer(id, name, put, to, None, due, "")


async def in_another_loop(h: Harness, work: Callable[[Engine], Awaitable[None]]) -> None:
    """Do something as another process would: with an engine, without flows, and a loop of its own.

    Needs ``shared``, and real time.
    """

    async def run() -> None:
        async with h.make_driver() as driver, Engine(driver, FlowRegistry()) as engine:
            await work(engine)

    await asyncio.to_thread(asyncio.run, run())


async def stored(h: Harness, writes: Writes) -> tuple[State, ...]:
    """Give writes to the driver, which must take them; return the revisions."""
    (verdict,) = await h.driver.commit([encoded(writes)])
    assert isinstance(verdict, tuple), f"{writes!r} was refused: {verdict!r}"
    return verdict


def visiting(h: Harness, *flows: str) -> None:
    """Register flows that note their visit and end."""
    for flow in flows:

        def visit(ctx: StateContext, engine: Engine, flow: str = flow) -> Command[None]:
            h.visit(flow)
            return Commit(End(ctx))

        h.flows.set(flow, visit)


async def first_half(h: Harness) -> list[State]:
    """Commit seven revisions with different labels and statuses, at different times."""
    know(h, "work")
    await commit_labelled(h, [("a", "x"), ("b", "y")], Status.ACTIVE)
    await commit_labelled(h, [("c", "x")], Status.PAUSED)
    await commit_labelled(h, [("d", "z"), ("e", "x")], Status.ACTIVE)
    await commit_labelled(h, [("f", "y")], Status.ENDED)
    await commit_labelled(h, [("g", "x")], Status.PAUSED)
    return await h.log()


async def second_half(h: Harness) -> list[State]:
    """Commit six revisions more; return these."""
    await commit_labelled(h, [("h", "x"), ("i", "z")], Status.PAUSED)
    await commit_labelled(h, [("j", "y"), ("k", "x")], Status.ENDED)
    await commit_labelled(h, [("l", "x"), ("m", "y")], Status.ACTIVE)
    return (await h.log())[7:]


async def commit_labelled(h: Harness, states: Sequence[tuple[str, str]], status: Status) -> None:
    """Commit new states as one, labelled with their kind and with ``all``."""
    steps: list[Command[None]] = []
    for id, kind in states:
        ctx = h.ctx(id, labels={"kind": kind, "all": "yes"})
        match status:
            case Status.ACTIVE:
                steps.append(Transit(ctx, "work"))
            case Status.PAUSED:
                steps.append(Pause(ctx))
            case Status.ENDED:
                steps.append(End(ctx))
    await h.engine.do(Commit(*steps))
    await h.clock.sleep(0.002)


class DriverWrapper(Driver):
    """Passes everything on to another driver; cases override what they want to see or break."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.durability = driver.durability
        self.max_batch_size = driver.max_batch_size
        self.max_batch_bytes = driver.max_batch_bytes
        self.max_concurrent_batches = driver.max_concurrent_batches
        self.stores_objects = driver.stores_objects
        self.shared = driver.shared
        self.store_id = getattr(driver, "store_id", "")

    async def __aenter__(self) -> Self:
        await self._driver.__aenter__()
        self.store_id = self._driver.store_id
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._driver.__aexit__(exc_type, exc, traceback)

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        """Pass on."""
        return await self._driver.commit(batch)

    async def get_state(self, id: str, rev: int | None = None) -> State | None:
        """Pass on."""
        return await self._driver.get_state(id, rev)

    async def get_states(self, query: StateQuery) -> States:
        """Pass on."""
        return await self._driver.get_states(query)

    async def count(self, query: StateQuery) -> int:
        """Pass on."""
        return await self._driver.count(query)

    async def get_data(self, checksum: str) -> Data | None:
        """Pass on."""
        return await self._driver.get_data(checksum)

    async def get_due(self, query: DueQuery) -> DuePage:
        """Pass on."""
        return await self._driver.get_due(query)

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        """Pass on."""
        return await self._driver.beat(heartbeats)

    async def get_liveness(self, ids: Sequence[str]) -> Sequence[Liveness | None]:
        """Pass on."""
        return await self._driver.get_liveness(ids)

    async def compact(self, before_rev: int) -> int:
        """Pass on."""
        return await self._driver.compact(before_rev)

    async def changed(self, seen: Seen) -> Seen:
        """Pass on."""
        return await self._driver.changed(seen)
