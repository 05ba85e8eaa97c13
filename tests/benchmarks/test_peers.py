"""Peers are measured in processes of their own, and what is missing or fails is told."""

import asyncio
import sqlite3
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from benchmarks.peers.ours import in_memory, on_sqlite
from benchmarks.peers.places import Places
from benchmarks.peers.runs import Column, Runs
from benchmarks.peers.statements import SQLITE, counter
from benchmarks.peers.suite import workloads
from benchmarks.peers.systems import SYSTEMS, Peer
from benchmarks.peers.work import Batch, drained, repeated
from benchmarks.setting import Setting
from benchmarks.sizes import TINY
from benchmarks.workload import NotInstalledError, Sample

pytestmark = pytest.mark.repository

SECONDS = 0.05


@pytest.fixture
async def setting(tmp_path: Path) -> Setting:
    return Setting(TINY, AsyncExitStack(), tmp_path)


async def test_a_missing_distribution_is_told() -> None:
    with pytest.raises(NotInstalledError, match="no-such-distribution"):
        Peer(in_memory, "memory", ("no-such-distribution",)).check()


async def test_each_workload_has_a_name_of_its_own_and_a_mark_beside_every_peer(
    setting: Setting,
) -> None:
    found = list(workloads(setting))

    assert len({workload.key for workload in found}) == len(found)
    assert {side.role for workload in found for side in workload.others} == {"peer"}
    for workload in found:
        marks = {side.mark for side in workload.others}
        is_marked = "a workflow of three steps, 1 at once" in workload.key
        assert marks == ({0.2} if is_marked else {1.0})


async def test_slow_systems_are_measured_with_few_at_once_only(setting: Setting) -> None:
    found = {workload.key: workload for workload in workloads(setting)}

    def is_beside_prefect(key: str) -> bool:
        return any("Prefect" in side.name for side in found[key].others)

    assert is_beside_prefect("postgres: a workflow of three steps, 8 at once")
    assert not is_beside_prefect("postgres: a workflow of three steps, 200 at once")
    assert not is_beside_prefect("postgres: three steps, 4 processes with 8 at once")


async def test_a_workflow_runs_from_its_start_to_its_result() -> None:
    async with in_memory("") as works:
        done = await (await works["workflow rate"](2, SECONDS))()

    assert done.units > 0


async def test_all_columns_of_a_round_come_from_the_same_run(setting: Setting) -> None:
    columns = [Column(1), Column(2, processes=2)]
    runs = Runs(Places(setting), "flowstate in memory", columns, SECONDS)
    one, two = (runs.measure(column) for column in columns)

    samples = [await one(), await two(), await one()]

    assert all(sample.value > 0 and sample.cpu for sample in samples)
    assert samples[0] != samples[2]
    assert len({sample.value for sample in samples}) == 3


async def test_statements_are_counted_in_a_run_of_their_own(setting: Setting) -> None:
    runs = Runs(Places(setting), "flowstate on SQLite", [Column(1)], SECONDS)

    sample = await runs.measure(Column(1))()

    assert sample.statements is not None
    assert sample.statements == pytest.approx(15, abs=1)


async def test_a_worker_that_fails_says_why(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SYSTEMS, "unheard of", Peer(in_memory, "memory"))

    with pytest.raises(RuntimeError, match="KeyError: 'unheard of'"):
        await Runs(Places(setting), "unheard of", [Column(1)], SECONDS).measure(Column(1))()


async def test_the_time_of_jobs_begins_with_the_first_and_ends_with_the_last() -> None:
    async def fill(batch: Batch) -> None:
        await asyncio.sleep(SECONDS)  # reason: to be seen in the figure if it counted

    async def drain(batch: Batch, tasks: int) -> None:
        for _ in range(batch.count):
            batch.start()
            batch.finish()
        batch.sample()
        await asyncio.sleep(SECONDS)  # reason: as above

    done = await (await drained(fill, drain, per_second=100)(1, 0.1))()

    assert done.units == 10
    assert done.sample.value * done.units < SECONDS


async def test_jobs_that_were_not_done_have_no_sample() -> None:
    batch = Batch(2)
    batch.start()
    batch.finish()

    with pytest.raises(RuntimeError, match="1 of 2 jobs were not done"):
        batch.sample()


def test_statements_of_sqlite_are_counted_one_by_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (sqlite3, sqlite3.dbapi2):
        monkeypatch.setattr(module, "connect", sqlite3.connect)
    count = counter(SQLITE)
    connection = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    connection.execute("CREATE TABLE t (x)")
    before = count()

    connection.execute("BEGIN")
    connection.execute("INSERT INTO t VALUES (1)")
    connection.execute("COMMIT")
    connection.close()

    assert count() - before == 3


async def test_work_is_repeated_by_as_many_tasks_as_asked(tmp_path: Path) -> None:
    now = most = 0

    async def once() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1

    done = await (await repeated(once)(3, SECONDS))()

    assert most == 3
    assert isinstance(done.sample, Sample)
    async with on_sqlite(str(tmp_path)) as works:
        assert (await (await works["rate"](2, SECONDS))()).units > 0
