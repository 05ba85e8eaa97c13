"""Subscriptions that stay open while tasks run for each of their messages."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs

__all__ = ["Subscriptions"]

logger = logging.getLogger(__name__)

MOST = 64
MOST_WAITING = 100  # Messages; then the server has to wait.

Open = Callable[[], AbstractAsyncContextManager[Any]]


@attrs.define(eq=False)
class _Live:
    waiting: asyncio.Queue[Any] = attrs.field(factory=lambda: asyncio.Queue(MOST_WAITING))
    task: asyncio.Task[None] = attrs.field(init=False)

    async def pump(self, open_: Open) -> None:
        try:
            async with open_() as messages:
                async for each in messages:
                    await self.waiting.put((each, None))
        except Exception as error:  # noqa: BLE001 - it is raised where the next message is wanted
            await self.waiting.put((None, error))
        else:
            await self.waiting.put((None, None))


@attrs.define(eq=False)
class Subscriptions:
    """The subscriptions of this process, by the keys of calls.

    What an instance has left open, since it has failed or runs elsewhere now, is ended when there
    are too many, the one first that was not asked for longest.
    """

    _live: OrderedDict[str, _Live] = attrs.field(factory=OrderedDict, init=False)

    async def next(self, key: str, open_: Open) -> Any:
        """Return the next message of a subscription, which is opened first; ``None``: the end.

        When this fails or is cancelled, the subscription is ended.
        """
        live = self._live.get(key) or self._opened(key, open_)
        self._live.move_to_end(key)
        try:
            message, error = await live.waiting.get()
            if error is not None:
                raise error
        except BaseException:
            self.end(key)
            raise
        return message

    def end(self, key: str) -> None:
        """End a subscription, if it is open."""
        if live := self._live.pop(key, None):
            live.task.cancel()

    async def close(self) -> None:
        """End all of them."""
        tasks = [each.task for each in self._live.values()]
        for key in list(self._live):
            self.end(key)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _opened(self, key: str, open_: Open) -> _Live:
        if len(self._live) >= MOST:
            oldest = next(iter(self._live))
            logger.warning("too many subscriptions: %s is ended, and misses messages", oldest)
            self.end(oldest)
        live = self._live[key] = _Live()
        live.task = asyncio.create_task(live.pump(open_), name=f"subscription {key}")
        return live
