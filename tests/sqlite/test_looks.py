"""What a driver tells of the commits of other processes, to those who wait for them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flowstate.driver import DueQuery, Heartbeat, NewDelay, Seen, Writes
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.ground.frozen import EMPTY
from flowstate.state import State
from tests.sqlite.support import commit_one, put

LATER = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[SQLiteDriver]:
    async with SQLiteDriver(tmp_path / "store.db") as driver:
        yield driver


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[SQLiteDriver]:
    async with SQLiteDriver(tmp_path / "store.db") as other:
        yield other


def delayed(token: str, rev: int) -> Writes:
    """Return writes that put a state and delay it."""
    state = State("a", rev)
    delay = NewDelay(state, "next", EMPTY, LATER, None, True, "", 0)
    return Writes(token, (state,), delays=(delay,))


async def head_after(driver: SQLiteDriver, seen: Seen, head: int) -> Seen:
    """Wait until a revision is news; return what is seen then."""
    async with asyncio.timeout(10):
        while seen.head < head:
            seen = await driver.changed(seen)
    return seen


async def test_a_delay_at_the_time_of_one_that_is_gone_is_news(
    driver: SQLiteDriver, other: SQLiteDriver
) -> None:
    first = await driver.changed(Seen())
    await commit_one(other, delayed("1", 0))
    second = await head_after(driver, first, 1)
    assert second.due != first.due
    await commit_one(driver, put("2", "a", 1))
    assert not (await driver.get_due(DueQuery("delay", everything=True))).due
    second = await head_after(driver, second, 2)
    await commit_one(other, delayed("3", 2))
    third = await head_after(driver, second, 3)
    assert third.due != second.due


async def test_commits_without_delays_are_no_news_of_delays(
    driver: SQLiteDriver, other: SQLiteDriver
) -> None:
    await commit_one(other, delayed("1", 0))
    first = await head_after(driver, Seen(), 1)
    await commit_one(other, put("2", "b"))
    await commit_one(driver, put("3", "c"))
    assert (await head_after(driver, first, 3)).due == first.due


async def test_heartbeats_of_others_are_no_news(driver: SQLiteDriver, other: SQLiteDriver) -> None:
    (state,) = await commit_one(driver, put("1", "a"))
    seen = await head_after(driver, Seen(), 1)
    waiting = asyncio.ensure_future(driver.changed(seen))
    await other.beat([Heartbeat("a", state.rev, 60.0, "")])
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    await commit_one(other, put("2", "b"))
    assert (await waiting).head == 2
