"""Subscriptions stay open between messages, end when they fail, and are bounded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from flowstate.engines.tasks.calls.subscriptions import MOST, MOST_WAITING, Subscriptions


class Source:
    """Gives numbers, and notes whether it is open."""

    def __init__(self, last: int = 1_000_000, fails: bool = False) -> None:
        self.given, self.opened, self.is_open = 0, 0, False
        self._last, self._fails = last, fails

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        self.opened, self.is_open = self.opened + 1, True
        try:
            yield self._numbers()
        finally:
            self.is_open = False

    async def _numbers(self) -> AsyncIterator[int]:
        while self.given < self._last:
            self.given += 1
            yield self.given
        if self._fails:
            raise ConnectionError("gone")


@pytest.fixture
async def live() -> AsyncIterator[Subscriptions]:
    subscriptions = Subscriptions()
    yield subscriptions
    await subscriptions.close()


async def test_messages_come_one_by_one_from_one_subscription(live: Subscriptions) -> None:
    source = Source()

    assert [await live.next("k", source.open) for _ in range(250)] == [*range(1, 251)]
    assert source.opened == 1


async def test_what_waits_is_bounded(live: Subscriptions) -> None:
    source = Source()
    await live.next("k", source.open)
    for _ in range(5):
        await asyncio.sleep(0)  # reason: lets it take as much as it would

    assert source.given <= MOST_WAITING + 2


async def test_the_end_is_told_after_all_messages(live: Subscriptions) -> None:
    source = Source(2)

    assert [await live.next("k", source.open) for _ in range(3)] == [1, 2, None]
    assert not source.is_open


async def test_a_failure_is_raised_after_all_messages_and_ends_it(live: Subscriptions) -> None:
    source = Source(1, fails=True)

    assert await live.next("k", source.open) == 1
    with pytest.raises(ConnectionError):
        await live.next("k", source.open)
    with pytest.raises(ConnectionError):  # Opened again, it has nothing more to give.
        await live.next("k", source.open)
    assert source.opened == 2


async def test_a_cancelled_wait_ends_it(live: Subscriptions) -> None:
    @asynccontextmanager
    async def silent() -> AsyncIterator[Any]:
        opened.set()
        try:
            yield never()
        finally:
            closed.set()

    async def never() -> AsyncIterator[int]:
        await asyncio.Event().wait()
        yield 1

    opened, closed = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(live.next("k", silent))
    await opened.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await closed.wait()


async def test_of_too_many_the_one_that_was_not_asked_longest_is_ended(
    live: Subscriptions,
) -> None:
    sources = [Source() for _ in range(MOST)]
    for n, source in enumerate(sources):
        await live.next(str(n), source.open)
    await live.next("0", sources[0].open)
    await live.next("more", Source().open)
    await asyncio.sleep(0)

    assert [n for n, source in enumerate(sources) if not source.is_open] == [1]


async def test_all_are_ended_with_the_runtime() -> None:
    live, source = Subscriptions(), Source()
    await live.next("k", source.open)
    await live.close()

    assert not source.is_open
