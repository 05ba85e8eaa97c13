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
from flowstate.driver import DueQuery, Seen, StateQuery
from flowstate.drivers.sqlite import SQLiteDriver
from tests.sqlite.support import (
    commit_one,
    driver_threads,
    names_in,
    put,
    read_log,
    revs_in,
    worker,
)

Call = Callable[[SQLiteDriver], Awaitable[Any]]

CALLS: dict[str, Call] = {
    "commit": lambda driver: driver.commit([put("late", "late")]),
    "get_state": lambda driver: driver.get_state("a"),
    "get_states": lambda driver: driver.get_states(StateQuery()),
    "get_data": lambda driver: driver.get_data("0"),
    "get_due": lambda driver: driver.get_due(DueQuery("delay")),
    "beat": lambda driver: driver.beat([]),
    "get_liveness": lambda driver: driver.get_liveness(["a"]),
    "compact": lambda driver: driver.compact(1),
    "changed": lambda driver: driver.changed(Seen()),
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
        seen = await driver.changed(Seen())
        assert seen.head == 0
        waiting = asyncio.create_task(driver.changed(seen))
        await read_log(driver)
        assert not waiting.done()
        await commit_one(driver, put("2", "b"))
        assert (await waiting).head == 1


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


async def test_closing_wakes_all_that_wait(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "store.db")
    async with driver:
        seen = await driver.changed(Seen())
        waiting = [asyncio.create_task(driver.changed(seen)) for _ in range(2)]
        await read_log(driver)
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

    signal.alarm(10)  # What hangs here must not outlive the test.
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
        ("path", b"bytes"),
        ("path", 3),
        ("path", None),
        ("synchronous", "OFF"),
        ("timeout", -1.0),
        ("timeout", float("nan")),
        ("timeout", float("inf")),
        ("timeout", True),
        ("readers", 0),
        ("readers", -1),
        ("readers", 1.5),
        ("readers", True),
        ("clock", "noon"),
        ("poll_interval", 0.0),
        ("poll_interval", float("nan")),
    ],
)
def test_bad_options_are_refused_by_name(field: str, value: object) -> None:
    options: dict[str, Any] = {"path": "store.db", field: value}
    with pytest.raises(InvalidInputError) as refused:
        SQLiteDriver(**options)
    assert refused.value.field == field


async def test_event_loops_in_other_threads_use_the_open_driver(tmp_path: Path) -> None:
    async def work(id: str) -> int:
        await commit_one(driver, put(id, id))
        seen = await driver.changed(Seen())
        return seen.head

    async with SQLiteDriver(tmp_path / "store.db") as driver:
        await work("first")
        found = await asyncio.gather(
            *(asyncio.to_thread(asyncio.run, work(f"{n}")) for n in range(4))
        )
        assert max(found) == 5
        assert len(await read_log(driver)) == 5


async def test_a_driver_made_before_a_fork_works_in_the_children(tmp_path: Path) -> None:
    driver = SQLiteDriver(tmp_path / "store.db")
    children = []
    for number in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # From 3.12 on it is warned of, if there are threads.
            child = os.fork()
        if child == 0:
            os._exit(commit_in_child(driver, f"{number}"))
        children.append(child)
    for child in children:
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    assert await revs_in(tmp_path / "store.db") == [1, 2, 3]


def commit_in_child(driver: SQLiteDriver, id: str) -> int:
    async def work() -> int:
        async with driver:
            await commit_one(driver, put(id, id))
        return 0

    signal.alarm(20)  # What hangs here must not outlive the test.
    asyncio._set_running_loop(None)
    return asyncio.new_event_loop().run_until_complete(work())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
async def test_the_neighbours_are_for_the_users_of_the_file(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "store.db"
    before = os.umask(umask)
    try:
        async with SQLiteDriver(path) as driver:
            await commit_one(driver, put("1", "a"))
    finally:
        os.umask(before)
    path.chmod(0o660)
    for name in ("store.db-lock", "store.db-turn"):
        (tmp_path / name).unlink()
    async with SQLiteDriver(path) as driver:
        await commit_one(driver, put("2", "b"))
        assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o660}


async def test_a_child_does_not_keep_the_lock_of_a_parent_that_died(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SQLiteDriver(path, timeout=1.0) as driver:
        await commit_one(driver, put("1", "a"))
        async with worker("fork", path) as parent:
            child = int(await parent.line())
            parent.kill()
            try:
                await commit_one(driver, put("2", "b"))
            finally:
                os.kill(child, signal.SIGKILL)
