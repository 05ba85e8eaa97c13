"""COMMIT fails although it happened, or did not happen: the verdict tells the truth."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flowstate import (
    Commit,
    CommitUnknownError,
    Data,
    DriverError,
    Engine,
    FlowRegistry,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
)
from flowstate.data import checksum_of
from flowstate.driver import Claim, Drop, DueQuery, NewDelay, Verdict, Writes
from flowstate.drivers.sqlite import SQLiteDriver, file
from flowstate.ground.frozen import EMPTY
from flowstate.testcases.support import timer
from tests.sqlite.support import commit, commit_one, file_of, integrity, put, read_log, revs_in

LATER = timedelta(hours=1)


class FailingCommit:
    """A connection whose COMMIT raises, after or instead of the real one."""

    def __init__(self, connection: sqlite3.Connection, times: int, *, happens: bool) -> None:
        self._connection = connection
        self._times = times
        self._happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
        if statement == "COMMIT" and self._times:
            self._times -= 1
            if self._happens:
                self._connection.execute(statement)
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(statement, parameters)


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[SQLiteDriver]:
    async with SQLiteDriver(tmp_path / "store.db") as driver:
        yield driver
    assert integrity(tmp_path / "store.db") == "ok"


def fail(driver: SQLiteDriver, *, happens: bool, times: int = 1) -> None:
    """Make the next COMMIT of the driver fail."""
    opened = file_of(driver)
    double: Any = FailingCommit(opened._writer, times, happens=happens)
    opened._writer = double
    opened._connections = [double if c is double._connection else c for c in opened._connections]


@contextlib.contextmanager
def out_of_reach(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let no connection be opened, so that nothing tells whether a commit happened."""

    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    with monkeypatch.context() as patched:
        patched.setattr(file, "connect", refuse)
        yield


def delay_alone(token: str, state: State) -> Writes:
    delay = NewDelay(state, "next", EMPTY, None, LATER, commit=True, body="")
    return Writes(token, checks=((state.id, state.rev),), delays=(delay,))


def data_alone(token: str, data: Data) -> Writes:
    return Writes(token, data=(Data(data.blob, checksum=checksum_of(data)),))


async def revs(driver: SQLiteDriver) -> list[int]:
    return [state.rev for state in await read_log(driver)]


async def delay_count(driver: SQLiteDriver) -> int:
    return len((await driver.get_due(DueQuery("delay", everything=True))).due)


def committed(*verdicts: Verdict) -> list[bool]:
    return [isinstance(verdict, tuple) for verdict in verdicts]


async def test_a_commit_that_happened_is_reported_as_such(driver: SQLiteDriver) -> None:
    fail(driver, happens=True)
    first, second, lost = await commit(driver, put("1", "a"), put("2", "b"), put("3", "a", 7))
    assert committed(first, second) == [True, True]
    assert isinstance(lost, RevisionMismatchError)
    assert await revs(driver) == [1, 2]


async def test_a_commit_that_did_not_happen_is_reported_as_such(driver: SQLiteDriver) -> None:
    fail(driver, happens=False)
    (verdict,) = await driver.commit([put("1", "a")])
    assert isinstance(verdict, DriverError)
    assert not isinstance(verdict, CommitUnknownError)
    assert await revs(driver) == []
    await commit_one(driver, put("1", "a"))
    assert await revs(driver) == [1]


async def test_the_commits_of_a_failed_batch_are_tried_in_parts(driver: SQLiteDriver) -> None:
    fail(driver, happens=False)
    verdicts = await commit(driver, put("1", "a"), put("2", "b"), delay_alone("3", State("c")))
    assert committed(*verdicts) == [True, True, True]
    assert await revs(driver) == [1, 2]
    assert await delay_count(driver) == 1


@pytest.mark.parametrize("happens", [True, False])
async def test_delays_and_data_alone(driver: SQLiteDriver, happens: bool) -> None:
    (state,) = await commit_one(driver, put("1", "a"))
    data = Data(b"blob")
    for writes in (delay_alone("2", state), data_alone("3", data)):
        fail(driver, happens=happens)
        (verdict,) = await commit(driver, writes)
        assert committed(verdict) == [happens]
        if not happens:
            assert await commit_one(driver, writes) == ()
    assert await delay_count(driver) == 1
    assert await driver.get_data(checksum_of(data)) is not None


@pytest.mark.parametrize("happens", [True, False])
async def test_what_cannot_be_found_out_is_unknown(
    driver: SQLiteDriver, monkeypatch: pytest.MonkeyPatch, happens: bool
) -> None:
    batch = [put("1", "a"), put("2", "b")]
    fail(driver, happens=happens)
    with out_of_reach(monkeypatch):
        verdicts = await driver.commit(batch)
    assert [type(verdict) for verdict in verdicts] == [CommitUnknownError] * 2
    assert await revs(driver) == ([1, 2] if happens else [])
    assert committed(*await driver.commit(batch)) == [not happens] * 2
    assert await revs(driver) == [1, 2]


@pytest.mark.parametrize("happens", [True, False])
async def test_an_engine_tells_the_truth(driver: SQLiteDriver, happens: bool) -> None:
    async with Engine(driver, FlowRegistry()) as engine:
        ctx = StateContext(State("a"))
        fail(driver, happens=happens)
        if happens:
            await engine.do(Commit(Pause(ctx)))
        else:
            with pytest.raises(DriverError):
                await engine.do(Commit(Pause(ctx)))
        assert ctx.committed.rev == int(happens)
        await engine.do(Commit(Pause(ctx)))
        assert await revs(driver) == list(range(1, ctx.committed.rev + 1))


@pytest.mark.parametrize("happens", [True, False])
async def test_claims_and_drops_alone(driver: SQLiteDriver, happens: bool) -> None:
    past = NewDelay(State("a"), "next", EMPTY, None, timedelta(0), commit=True, body="")
    await commit_one(driver, Writes("1", delays=(past,)))
    claim = Writes("2", claims=(Claim("1.0", "me", 60.0),))
    drop = Writes("3", drops=(Drop("1.0", "me"),))
    for writes in (claim, drop):
        fail(driver, happens=happens)
        assert committed(*await commit(driver, writes)) == [happens]
        assert await commit_one(driver, writes) == ()
    assert await delay_count(driver) == 0


@pytest.mark.parametrize("happens", [True, False])
async def test_timers_and_forgetting(driver: SQLiteDriver, happens: bool) -> None:
    begin = Writes("1", (State("a"),), timers=(timer("t", LATER),))
    forget = Writes("2", (State("a", 1),), forgets=(0,), drops=(Drop("t", ""),))
    for writes, timers, rev in ((begin, 1, 1), (forget, 0, None)):
        fail(driver, happens=happens)
        assert committed(*await commit(driver, writes)) == [happens]
        if not happens:
            await commit_one(driver, writes)
        state = await driver.get_state("a")
        assert (state.rev if state else None, await delay_count(driver)) == (rev, timers)
    assert await revs(driver) == [1, 2]


async def test_a_drop_of_nothing_is_true_either_way(driver: SQLiteDriver) -> None:
    fail(driver, happens=False)
    assert await commit_one(driver, Writes("1", drops=(Drop("none", "me"),))) == ()


def files_after_a_crash(path: Path, name: str) -> Path:
    """Copy what is on the disk; the index of the write-ahead log is lost with the processes."""
    copy = path.with_name(name)
    copy.write_bytes(path.read_bytes())
    copy.with_name(f"{name}-wal").write_bytes(path.with_name(f"{path.name}-wal").read_bytes())
    return copy


async def leave_frames_of_a_commit(path: Path) -> None:
    """Append to the log what a COMMIT writes before its sync, which then fails."""
    twin = files_after_a_crash(path, "twin.db")
    async with SQLiteDriver(twin) as driver:
        await commit_one(driver, put("2", "b"))
        frames = twin.with_name("twin.db-wal").read_bytes()
    path.with_name(f"{path.name}-wal").write_bytes(frames)


async def test_what_a_failed_sync_leaves_does_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    async with SQLiteDriver(path) as driver:
        await commit_one(driver, put("1", "a"))
        await leave_frames_of_a_commit(path)
        assert await revs_in(files_after_a_crash(path, "before.db")) == [1, 2]
        fail(driver, happens=False)
        (verdict,) = await driver.commit([put("2", "b")])
        assert isinstance(verdict, DriverError)
        assert await revs_in(files_after_a_crash(path, "after.db")) == [1]
        await commit_one(driver, put("3", "b"))
    assert await revs_in(path) == [1, 2]
