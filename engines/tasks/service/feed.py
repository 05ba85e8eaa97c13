"""The live feed: what happens to instances, as server-sent events with revisions as their ids."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from flowstate import (
    CompactedError,
    DamagedRevisionError,
    Engine,
    FlowstateError,
    HistoryRewoundError,
)
from flowstate.engines.kernel.instance import WORKFLOW
from flowstate.engines.tasks.running.lifecycle import Trails
from flowstate.engines.tasks.service.instances import CODE, Moment

__all__ = ["Feed"]

logger = logging.getLogger("flowstate.engines")

QUIET = 15.0  # Seconds after which a comment shows that the connection is alive.
PATIENCE = 30.0  # Seconds that a reader may take for one event.

Filters = dict[str, Any]
Write = Callable[[str], Awaitable[None]]


class Feed(Response):
    """An answer that has one event for each revision, and ends with the server.

    A reader that takes nothing for too long is dropped. It comes back with the id of the last event
    that it has got, and goes on there.

    Args:
        engine: open.
        labels: of the instances.
        since: the revision behind which to begin.
        id: only this instance; empty: all.
        ending: ends it.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        engine: Engine,
        labels: Mapping[str, str],
        since: int,
        id: str,
        ending: asyncio.Event,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["Content-Length"]
        self._engine, self._labels, self._since, self._id = engine, labels, since, id
        self._trails, self._ending = Trails(), ending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        """Send events until the reader is gone or too slow, or the engine stops."""
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(head)
        works = (self._send(send), _left(receive), self._ending.wait())
        tasks = [asyncio.ensure_future(each) for each in works]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.wait(tasks)
        if tasks[0].cancelled() or tasks[0].result():
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send) -> bool:
        """Send events; return whether the reader takes them."""

        async def write(text: str) -> None:
            body = {"type": "http.response.body", "body": text.encode(), "more_body": True}
            async with asyncio.timeout(PATIENCE):
                await send(body)

        try:
            await write("retry: 1000\n\n")
            with suppress(FlowstateError):  # The engine stops, or the store fails.
                await self._follow_on(write)
        except (TimeoutError, OSError):
            logger.info("a reader of the feed takes nothing, and is dropped")
            return False
        return True

    async def _follow_on(self, write: Write) -> None:
        while True:
            try:
                await self._follow(write)
            except CompactedError as error:
                await self._tell_gap(write, error.floor - 1)
            except HistoryRewoundError as error:
                await self._tell_gap(write, error.head)
            except DamagedRevisionError as error:
                self._since = error.rev

    async def _tell_gap(self, write: Write, since: int) -> None:
        self._since = since
        await write(f"event: gap\nid: {since}\ndata: {{}}\n\n")

    async def _follow(self, write: Write) -> None:
        filters: Filters = {"id": self._id} if self._id else {"labels": self._labels}
        async with self._engine.watch(since_rev=self._since, **filters) as watch:
            while True:
                try:
                    async with asyncio.timeout(QUIET):
                        state = await anext(watch)
                except TimeoutError:
                    self._since = watch.cursor
                    await write(f"id: {self._since}\n: quiet\n\n")
                    continue
                if state.labels.get(WORKFLOW) == CODE:
                    data = msgspec.json.encode(Moment.of(state, self._trails)).decode()
                    await write(f"id: {state.rev}\ndata: {data}\n\n")
                self._since = state.rev


async def _left(receive: Receive) -> None:
    """Return when the reader is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
