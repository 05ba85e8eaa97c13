"""Opening, closing, reopening, sharing and forking, also cancelled in between."""

import asyncio
import os
import signal
import traceback
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from flowstate import (
    Commit,
    DriverClosedError,
    Engine,
    FlowRegistry,
    InvalidInputError,
    Pause,
    State,
    StateContext,
)
from flowstate.driver import DelayQuery, StateQuery
from flowstate.drivers.sqlite import SQLiteDriver
from tests.sqlite.support import commit_one, driver_threads, names_in, put, read_log, revs_in

Call = Callable[[SQLiteDriver], Awaitable[Any]]

CALLS: dict[str, Call] = {
    "commit": lambda driver: driver.commit([put("late", "late")]),
    "get_state": lambda driver: driver.get_state("a"),
    "get_states": lambda driver: driver.get_states(StateQuery()),
    "get_data": lambda driver: driver.get_data("0"),
    "get_delayed": lambda driver: driver.get_delayed(DelayQuery()),
    "drop_delay": lambda driver: driver.drop_delay("a.0"),
    "compact": lambda driver: driver.compact(1),
    "head": lambda driver: driver.head(),
    "wait": lambda driver: driver.wait(0),
    "wait_delay": lambda driver: driver.wait_delay(0),
}


async def test_the_neighbours_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SQLiteDriver(path) as driver:
        await commit_one(driver, put("1", "a"))
        names = ["store.db", "store.db-lock", "store.db-shm", "store.db-turn", "store.db-wal"]
        assert names_in(tmp_path) == names
    assert names_in(tmp_path) == ["store.db", "store.db-lock", "store.db-turn"]
    assert driver_threads() == []


async def test_reopening(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "store.db")
    ids = set()
    for i in range(3):
        async with driver:
            await commit_one(driver, put(f"{i}", f"{i}"))
            assert [state.rev for state in await read_log(driver)] == list(range(1, i + 2))
            ids.add(driver.store_id)
        assert driver_threads() == []
    assert len(ids) == 1


async def test_a_driver_reopened_on_an_older_copy_waits_for_what_the_copy_lacks(
    tmp_path: Path,
) -> None:
    path = tmp_path / "store.db"
    driver = SQLiteDriver(path)
    async with driver:
        pass
    empty = path.read_bytes()
    async with driver:
        await commit_one(driver, put("1", "a"))
    path.write_bytes(empty)
    async with driver:
        waiting = asyncio.create_task(driver.wait(0))
        await read_log(driver)
        assert not waiting.done()
        await commit_one(driver, put("2", "b"))
        await waiting


async def test_engines_that_open_one_driver_at_the_same_time(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "store.db")
    first, second = (Engine(driver, FlowRegistry()) for _ in range(2))
    await asyncio.gather(first.__aenter__(), second.__aenter__())
    await first.do(Commit(Pause(StateContext(State("a")))))
    await first.__aexit__(None, None, None)
    await second.do(Commit(Pause(StateContext(State("b")))))
    assert (await second.get_state("a")).rev == 1
    await second.__aexit__(None, None, None)
    assert driver_threads() == []


@pytest.mark.parametrize("call", CALLS)
async def test_use_when_not_open(tmp_path: Path, call: str) -> None:
    driver = SQLiteDriver(tmp_path / "store.db")
    with pytest.raises(DriverClosedError):
        await CALLS[call](driver)
    async with driver:
        pass
    with pytest.raises(DriverClosedError):
        await CALLS[call](driver)
    assert driver_threads() == []


async def test_closing_wakes_whoever_waits(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "store.db")
    async with driver:
        waiting = [asyncio.create_task(driver.wait(0)), asyncio.create_task(driver.wait_delay(0))]
        await driver.head()
    for task in waiting:
        with pytest.raises(DriverClosedError):
            await task


@pytest.mark.parametrize("call", [*CALLS, "enter"])
async def test_use_after_fork(tmp_path: Path, call: str) -> None:
    """In the child every call raises at once, and closing there leaves the parent's file alone."""
    calls: dict[str, Call] = CALLS | {"enter": lambda driver: driver.__aenter__()}
    async with SQLiteDriver(tmp_path / "store.db") as driver:
        await commit_one(driver, put("1", "a"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # From 3.12 on it is warned of: there are threads.
            child = os.fork()
        if child == 0:
            os._exit(in_child(driver, calls[call]))
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        await commit_one(driver, put("2", "b"))
    assert await revs_in(tmp_path / "store.db") == [1, 2]


def in_child(driver: SQLiteDriver, call: Call) -> int:
    async def attempt() -> int:
        try:
            await call(driver)
        except DriverClosedError:
            await driver.__aexit__(None, None, None)
            return 0
        return 1

    signal.alarm(10)  # Whatever hangs here must not outlive the test.
    asyncio._set_running_loop(None)
    try:
        return asyncio.new_event_loop().run_until_complete(attempt())
    except BaseException:  # noqa: BLE001 - the exit code is all that a child can say
        traceback.print_exc()
        return 2


async def test_links_to_one_file_share_its_locks(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "real" / "store.db")
    async with SQLiteDriver(tmp_path / "link.db") as first:
        await commit_one(first, put("1", "a"))
        async with SQLiteDriver(tmp_path / "real" / "store.db") as second:
            assert second.store_id == first.store_id
    assert [path.name for path in tmp_path.glob("*-lock")] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", ""),
        ("path", ":memory:"),
        ("path", "a\0b"),
        ("synchronous", "OFF"),
        ("timeout", -1.0),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("readers", 0),
        ("readers", -1),
        ("readers", 1.5),
        ("poll_interval", 0.0),
        ("poll_interval", float("nan")),
    ],
)
def test_bad_options_are_refused_by_name(field: str, value: object) -> None:
    options: dict[str, Any] = {"path": "store.db", field: value}
    with pytest.raises(InvalidInputError) as refused:
        SQLiteDriver(**options)
    assert refused.value.field == field
