"""Several processes have one file open: one log, seen by all, soon, and nobody starves."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from flowstate import StoreBusyError
from flowstate.drivers.sqlite import SQLiteDriver
from tests.sqlite.support import commit_one, integrity, put, read_log, worker

pytestmark = pytest.mark.slow

Record = Callable[[str, object], None]

COUNTERS = 3
PROCESSES = 4
TASKS = 4
TIMES = 15
KILLS = 20


async def test_counters_are_exact_and_watchers_agree(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    total = COUNTERS + PROCESSES * TASKS * TIMES
    async with SQLiteDriver(path, timeout=30.0) as driver:
        start = [put(f"{i}", f"counter-{i}", annotations={"count": "0"}) for i in range(COUNTERS)]
        await driver.commit(start)
        async with (
            worker("tail", path, total) as first,
            worker("tail", path, total) as second,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(PROCESSES):
                group.create_task(finish("increment", path, COUNTERS, TASKS, TIMES))
            seen, also_seen = await asyncio.gather(first.finish(), second.finish())
        log = await read_log(driver)
    assert [state.rev for state in log] == list(range(1, total + 1))
    assert seen == [f"{state.rev} {state.id} {state.annotations['count']}" for state in log]
    assert also_seen == seen
    latest = {state.id: int(state.annotations["count"]) for state in log}
    assert sum(latest.values()) == PROCESSES * TASKS * TIMES
    assert integrity(path) == "ok"


async def finish(job: str, path: Path, *arguments: object) -> None:
    async with worker(job, path, *arguments) as started:
        await started.finish()


async def test_commits_of_other_processes_are_seen_soon(
    tmp_path: Path, record_testsuite_property: Record
) -> None:
    path, count = tmp_path / "store.db", 100
    committed: dict[int, int] = {}
    async with SQLiteDriver(path) as driver, worker("clock", path, count) as watcher:
        assert await watcher.line() == "ready"
        seen: dict[int, int] = {}
        for i in range(count):
            (state,) = await commit_one(driver, put(f"{i}", f"{i}"))
            committed[state.rev] = time.monotonic_ns()
            rev, when = map(int, (await watcher.line()).split())
            seen[rev] = when
    delays = sorted((seen[rev] - committed[rev]) / 1e6 for rev in seen)
    record_testsuite_property("sqlite_median_ms", round(statistics.median(delays), 1))
    record_testsuite_property("sqlite_p99_ms", round(delays[98], 1))
    assert len(seen) == count
    assert statistics.median(delays) < 50


async def test_nobody_starves_behind_a_busy_writer(
    tmp_path: Path, record_testsuite_property: Record
) -> None:
    path = tmp_path / "store.db"
    async with worker("flood", path, 64) as flood, worker("flood", path, 64) as other:
        assert {await flood.line(), await other.line()} == {"writing"}
        async with SQLiteDriver(path, timeout=30.0) as driver:
            longest = 0.0
            for i in range(50):
                started = time.monotonic()
                await commit_one(driver, put(f"{i}", f"{i}"))
                longest = max(longest, time.monotonic() - started)
    record_testsuite_property("sqlite_longest_ms", round(longest * 1e3, 1))
    assert longest < 3.0


async def test_a_stopped_process_makes_others_give_up_and_then_go_on(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SQLiteDriver(path, timeout=0.2) as driver, worker("hold", path) as holder:
        assert await holder.line() == "holding"
        holder.stop()
        started = time.monotonic()
        with pytest.raises(StoreBusyError):
            await commit_one(driver, put("1", "a"))
        assert 0.2 <= time.monotonic() - started < 5.0
        assert await driver.get_state("a") is None  # Reading goes on.
        holder.go_on()
        holder.tell()
        assert await holder.line() == "released"
        assert [state.rev for state in await commit_one(driver, put("1", "a"))] == [1]


async def test_a_killed_process_gives_the_lock_up(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SQLiteDriver(path, timeout=30.0) as driver, worker("hold", path) as holder:
        assert await holder.line() == "holding"
        holder.stop()
        waiting = asyncio.create_task(commit_one(driver, put("1", "a")))
        holder.kill()
        assert [state.rev for state in await waiting] == [1]
    assert integrity(path) == "ok"


async def test_killed_in_the_middle_of_commits(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    acknowledged: dict[int, str] = {}

    async def killed(run: str, lines: int) -> None:
        async with worker("acknowledge", path, run, 8) as writer:
            for _ in range(lines):
                acknowledged.update(revs_and_ids(await writer.line()))
            writer.kill()
            with contextlib.suppress(EOFError):
                while True:
                    acknowledged.update(revs_and_ids(await writer.line()))

    async def killed_again_and_again(name: str) -> None:
        for i in range(KILLS // 4):
            await killed(f"{name}{i}", 1 + 5 * i)

    await asyncio.gather(*map(killed_again_and_again, "abcd"))
    assert integrity(path) == "ok"
    async with SQLiteDriver(path) as driver:
        log = await read_log(driver)
    assert [state.rev for state in log] == list(range(1, len(log) + 1))
    ids = [state.id for state in log]
    assert len(set(ids)) == len(ids)
    assert acknowledged.items() <= dict(enumerate(ids, start=1)).items()
    assert all(a[:-1] == b[:-1] for a, b in zip(ids[::2], ids[1::2], strict=True))


def revs_and_ids(line: str) -> dict[int, str]:
    return {int(rev): id for rev, _, id in (word.partition("=") for word in line.split())}


async def test_many_processes_open_a_new_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with contextlib.AsyncExitStack() as stack:
        openers = [await stack.enter_async_context(worker("open", path)) for _ in range(10)]
        assert [await opener.line() for opener in openers] == ["ready"] * 10
        for opener in openers:
            opener.tell()
        ids = {line for opener in openers for line in await opener.finish()}
    assert len(ids) == 1
    assert integrity(path) == "ok"
