"""Waits for what is new in the store, for all who wait in this process, on one connection."""

import asyncio
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError

from flowstate.drivers.redis.session import Session
from flowstate.errors import DriverError

__all__ = ["Watcher"]

LONGEST_BLOCK = 2.0  # Seconds; also how long a rewound head may go unnoticed.


class Watcher:
    """A task that blocks on the streams of log and alarm, started when it is needed first.

    Args:
        known: returns the highest revision that is known so far.
        on_head: told the head whenever somebody looked, or ``None`` when that failed, and what
            was known before.
        on_alarm: told that delays may have been written.
    """

    def __init__(
        self,
        session: Session,
        timeout: float,
        *,
        known: Callable[[], int],
        on_head: Callable[[int | None, int], None],
        on_alarm: Callable[[], None],
    ) -> None:
        self._session = session
        self._block = round(1000 * min(LONGEST_BLOCK, timeout / 2)) or 1
        self._known = known
        self._on_head = on_head
        self._on_alarm = on_alarm
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Watch from now on."""
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._watch(), name="flowstate redis watch")

    async def close(self) -> None:
        """Stop."""
        self._closed = True
        while self._task is not None and not self._task.done():
            # More than once: Python 3.11's wait_for can lose a cancellation.
            self._task.cancel()
            await asyncio.wait([self._task], timeout=0.1)

    async def _watch(self) -> None:
        backoff = self._session.backoff()
        while not self._closed:
            try:
                self._on_alarm()
                await self._follow()
            except (RedisError, DriverError):
                self._on_head(None, 0)  # Whoever waits reads the store, and meets the error.
                await backoff.wait()
            else:
                backoff = self._session.backoff()

    async def _follow(self) -> None:
        """Follow the streams until something fails."""
        client, prefix = self._session.client, self._session.prefix
        log, alarm = f"{prefix}:log", f"{prefix}:alarm"
        newest = await client.xrevrange(alarm, count=1)
        alarmed: Any = newest[0][0] if newest else "0-0"
        while not self._closed:
            before = self._known()
            head = int(await client.hget(f"{prefix}:meta", "head") or 0)
            self._on_head(head, before)
            streams: dict[Any, Any] = {log: f"{head}-0", alarm: alarmed}
            for name, entries in _pairs(await client.xread(streams, count=1, block=self._block)):
                if _same(name, alarm):
                    alarmed = entries[-1][0]
                    self._on_alarm()


def _pairs(reply: object) -> list[tuple[object, list[tuple[object, object]]]]:
    """Return streams and their entries, in whichever protocol they came."""
    if isinstance(reply, dict):
        return [(name, [e for part in parts for e in part]) for name, parts in reply.items()]
    return [(name, entries) for name, entries in reply or []]  # type: ignore[attr-defined]


def _same(name: object, key: str) -> bool:
    return name in (key, key.encode())
