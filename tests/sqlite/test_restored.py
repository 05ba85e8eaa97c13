"""A file that an older copy has replaced is noticed once, and then used as it is."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flowstate import Commit, Engine, FlowRegistry, HistoryRewoundError, Pause, State, StateContext
from flowstate.driver import StateQuery, States
from flowstate.drivers.sqlite import SQLiteDriver


class Counting(SQLiteDriver):
    """Counts the pages that are read."""

    reads = 0

    async def get_states(self, query: StateQuery) -> States:
        self.reads += 1
        return await super().get_states(query)


def copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)


async def pause(engine: Engine, id: str) -> None:
    await engine.do(Commit(Pause(StateContext(State(id)))))


async def test_a_watch_after_the_restoration_waits_for_commits(tmp_path: Path) -> None:
    path, older = tmp_path / "store.db", tmp_path / "older.db"
    driver = Counting(path, poll_interval=0.01)
    async with Engine(driver, FlowRegistry()) as engine:
        await pause(engine, "1")
        copy(path, older)
        await pause(engine, "2")
        async with engine.watch(since_rev=2) as watch:
            watching = asyncio.ensure_future(anext(watch))
            while not driver._news._events.waiters:  # noqa: ASYNC110 - no event tells it
                await asyncio.sleep(0)  # reason: the watch begins to wait
            copy(older, path)
            with pytest.raises(HistoryRewoundError):
                await watching
        async with engine.watch(since_rev=1) as again:
            driver.reads = 0
            watching = asyncio.ensure_future(anext(again))
            await asyncio.sleep(0.2)  # reason: in which it must do nothing
            assert driver.reads <= 2
            await pause(engine, "3")
            assert (await watching).rev == 2
