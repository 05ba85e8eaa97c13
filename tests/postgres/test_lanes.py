"""What lends connections, when a client of the server behaves badly."""

import asyncio
import contextlib
from typing import Any

import pytest

from flowstate.drivers.postgres.lanes import Lane
from flowstate.drivers.postgres.sources import UrlSource
from tests.servers import Postgres


class Deaf:
    """Connects to a server, and swallows a cancellation, as Python 3.11's ``wait_for`` can."""

    def __init__(self, url: str) -> None:
        self._source = UrlSource(url, "store", prepare=False, timeout=5.0)
        self.name, self.drop = self._source.name, self._source.drop
        self.is_connecting = asyncio.Event()
        self.made: list[Any] = []

    async def make(self, seconds: float) -> Any:
        self.is_connecting.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        self.made.append(await self._source.make(seconds))
        return self.made[-1]


async def test_a_cancellation_that_the_client_swallows_is_raised_and_its_connection_closed(
    postgres: Postgres,
) -> None:
    source: Any = Deaf(postgres.url())
    lane = Lane(source, 1, keep=True)
    task = asyncio.create_task(lane.lend(5.0))
    await source.is_connecting.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert [link.connection.closed for link in source.made] == [True]
