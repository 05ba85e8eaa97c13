"""Waits for what is new in the store, for all tasks of a driver, on one connection."""

import asyncio
import logging
from typing import Any

import attrs
from redis.exceptions import TimeoutError as RedisTimeoutError

from flowstate.drivers.kit.base import News
from flowstate.drivers.kit.resolving import Backoff, Failed
from flowstate.drivers.redis.settings import wait_limit
from flowstate.drivers.redis.store import OpenStore
from flowstate.errors import DriverError, StoreCorruptError
from flowstate.ground.tasks import cancel_and_wait, spawn
from flowstate.state import Status

__all__ = ["Watcher"]

logger = logging.getLogger("flowstate")

LONGEST_BLOCK = 2.0  # Seconds; also how long a rewound head may go unnoticed.
SHORTEST_BLOCK = 0.01
CLOSING_PAUSE = 0.05


@attrs.define(eq=False)
class Watcher:
    """A task that blocks on streams of the store, and tells ``News`` what it sees.

    Every failure ends in a pause and another attempt. One that lasts for the timeout, or that is no
    failure of a connection, is raised in the tasks that wait for news, and logged once.
    """

    store: OpenStore
    news: News
    _block: float = attrs.field(init=False)
    _backoff: Backoff = attrs.field(init=False)
    _failing: bool = attrs.field(init=False, default=False)
    _task: "asyncio.Task[None] | None" = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        limits = (
            LONGEST_BLOCK,
            self.store.options.timeout / 2,
            (wait_limit(self.store.client) or 60.0) / 2,
        )
        self._block = max(SHORTEST_BLOCK, min(limits))
        self._backoff = self.store.backoff()

    def start(self) -> None:
        """Watch from now on."""
        if self._task is None or self._task.done():
            self._task = spawn(self._watch(), "flowstate redis watch")

    async def close(self) -> None:
        """Stop."""
        # Python 3.11 may swallow a cancellation as the task begins to block on the server.
        while self._task is not None and not self._task.done():
            await cancel_and_wait(self._task, seconds=CLOSING_PAUSE)

    async def _watch(self) -> None:
        while True:
            try:
                await self._follow()
            except Failed as error:
                # A connection that is soon back is no failure.
                if not error.passing or not await self._backoff.pause():
                    await self._report(error.error)
            except Exception as error:  # noqa: BLE001 - tasks wait for this one
                # What it says may hold what is stored.
                kind = type(error).__name__
                told = StoreCorruptError(f"{self.store.name}: answers what no store does: {kind}")
                told.__cause__ = error
                await self._report(told)

    async def _report(self, error: DriverError) -> None:
        """Log the first failure of several; raise each in the tasks that wait; pause."""
        if not self._failing:
            logger.warning("no news of the store for now: %s", error)
        self._failing = True
        self.news.failed(error)
        await self._backoff.wait()

    async def _follow(self) -> None:
        """Follow the streams until something fails."""
        client, prefix = self.store.client, self.store.prefix
        alarmed: Any = "0-0"
        last = await self.store.attempt(lambda: client.xrevrange(f"{prefix}:alarm", count=1))
        for id, _ in last or ():
            alarmed = id
        while True:
            before = self.news.head
            found: Any = await self.store.attempt(lambda: client.hget(f"{prefix}:meta", "head"))
            head = int(found or 0)
            self.news.saw(head, alarmed, before)
            self._failing, self._backoff = False, self.store.backoff()
            alarmed = await self._wait(head, alarmed)

    async def _wait(self, head: int, alarmed: Any) -> Any:
        """Wait until something may be new; return the last alarm."""
        alarm = f"{self.store.prefix}:alarm"
        # Together they are the log, without what its entries hold.
        streams: dict[Any, Any] = {
            f"{self.store.prefix}:status:{status.value}": f"{head}-0" for status in Status
        }
        streams[alarm] = alarmed
        client, block = self.store.client, round(1000 * self._block)
        try:
            reply = await self.store.attempt(lambda: client.xread(streams, count=1, block=block))
        except Failed as error:
            if not isinstance(error.__cause__, RedisTimeoutError):
                raise
            # A client of the user's own may wait for less. When the server is away, the next
            # question fails.
            self._block = max(SHORTEST_BLOCK, self._block / 2)
            return alarmed
        found = [entries for name, entries in _pairs(reply) if name in (alarm, alarm.encode())]
        return found[0][-1][0] if found else alarmed


def _pairs(reply: object) -> list[tuple[object, list[tuple[object, object]]]]:
    """Return streams and their entries, in whichever protocol they came."""
    if isinstance(reply, dict):
        return [(name, [e for part in parts for e in part]) for name, parts in reply.items()]
    return [(name, entries) for name, entries in reply or []]  # type: ignore[attr-defined]
