"""What the polling thread makes of what it sees, whatever happens meanwhile."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flowstate.driver import DelayQuery, NewDelay, Writes
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.drivers.sqlite.file import File
from flowstate.frozen import EMPTY
from flowstate.state import State
from tests.support import commit_one, put

LATER = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[SQLiteDriver]:
    async with SQLiteDriver(tmp_path / "store.db") as driver:
        yield driver


def delayed(token: str, rev: int) -> Writes:
    """Return writes that put a state and delay it."""
    state = State("a", rev)
    return Writes(token, (state,), delays=(NewDelay(state, "next", EMPTY, LATER, None, True, 0),))


async def test_a_delay_at_the_time_of_one_that_is_gone_is_news(
    driver: SQLiteDriver, tmp_path: Path
) -> None:
    _, file = driver._opened()
    async with SQLiteDriver(tmp_path / "store.db") as other:
        await commit_one(other, delayed("1", 0))
        version = driver._look(file, None)
        await commit_one(driver, put("2", "a", 1))
        assert not (await driver.get_delayed(DelayQuery(everything=True))).delayed
        await commit_one(other, delayed("3", 2))
    known = driver._delay_written.count
    driver._look(file, version)

    assert driver._delay_written.count > known


async def test_what_was_read_before_a_verdict_came_is_read_again(
    driver: SQLiteDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, file = driver._opened()
    outlook = File.outlook

    def slow(self: File) -> Any:
        found = outlook(self)
        driver._head = 7  # By the verdict on a commit of ours.
        return found

    with monkeypatch.context() as patched:
        patched.setattr(File, "outlook", slow)
        assert driver._look(file, None) is None

    assert driver._look(file, None) is not None
    assert driver._head == 0
