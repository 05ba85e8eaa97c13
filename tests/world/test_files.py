"""What happens to the files of SQLite: the environment, limits, and files that are removed."""

import asyncio
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flowstate import (
    Commit,
    CommitUnknownError,
    DriverError,
    Engine,
    FlowRegistry,
    Pause,
    State,
    StateContext,
    StoreUnavailableError,
)
from flowstate.drivers.sqlite import SQLiteDriver
from tests.world.places import ROOT

WRITER = """
import asyncio, sys
from flowstate import *
from flowstate.drivers.sqlite import SQLiteDriver
async def main(path, name):
    async with Engine(SQLiteDriver(path), FlowRegistry()) as engine:
        for number in range(30):
            ctx = StateContext(State(f"{name}-{number}", annotations={"\\u00fc": "\\u65e5"}))
            await engine.do(Commit(Pause(ctx)))
            print(ctx.current.id, flush=True)
asyncio.run(main(*sys.argv[1:]))
"""


def pause(id: str, **annotations: str) -> Commit:
    return Commit(Pause(StateContext(State(id, annotations=annotations))))


async def ids_in(path: Path) -> set[str]:
    async with Engine(SQLiteDriver(path), FlowRegistry()) as engine:
        return {state.id async for state in engine.states()}


def write(path: Path, name: str, **environment: str) -> set[str]:
    """Commit from another process; return what was acknowledged."""
    done = subprocess.run(
        [sys.executable, "-c", WRITER, path, name],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        encoding="utf-8",
        timeout=30.0,
        check=False,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("lost", [("-wal",), ("-shm",), ("-wal", "-shm")], ids="".join)
async def test_no_acknowledged_commit_of_others_is_lost_when_sqlites_own_files_are_removed(
    tmp_path: Path, lost: tuple[str, ...]
) -> None:
    """Who has them open goes on no more, and does not write its old view over theirs."""
    path = tmp_path / "store.db"
    async with Engine(SQLiteDriver(path), FlowRegistry()) as engine:
        await engine.do(pause("first"))
    async with Engine(SQLiteDriver(path), FlowRegistry()) as engine:
        for number in range(30):
            await engine.do(pause(f"before-{number}"))
        for suffix in lost:
            path.with_name(path.name + suffix).unlink()
        acknowledged = await asyncio.to_thread(write, path, "other")
        with pytest.raises(StoreUnavailableError):
            await engine.do(pause("after"))
    stored = await asyncio.to_thread(read_elsewhere, path)
    assert acknowledged <= stored
    assert "after" not in stored
    assert read_elsewhere(path, "check") == {"ok"}


FAILED = (DriverError, CommitUnknownError)
READER = """
import asyncio, sqlite3, sys
from pathlib import Path
from tests.world.test_files import ids_in
path, what = sys.argv[1:]
if what == "ids":
    print(*asyncio.run(ids_in(Path(path))))
else:
    print(*sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone())
"""


def read_elsewhere(path: Path, what: str = "ids") -> set[str]:
    """Read in a process that has not had it open: SQLite keeps some of it to the end."""
    done = subprocess.run(
        [sys.executable, "-c", READER, path, what],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30.0,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"TZ": "Pacific/Kiritimati"},
        {"TZ": ":/nonexistent"},
        {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "SQLITE_TMPDIR": "/nonexistent"},
        {"PYTHONASYNCIODEBUG": "1"},
        {"PYTHONOPTIMIZE": "2"},
    ],
    ids=lambda environment: next(iter(environment)),
)
async def test_the_environment(tmp_path: Path, environment: dict[str, str]) -> None:
    path = tmp_path / "störe ?#%20&.db"
    acknowledged = await asyncio.to_thread(write, path, "a", **environment)
    assert len(acknowledged) == 30
    assert await ids_in(path) == acknowledged


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o000])
def test_the_umask(tmp_path: Path, mask: int) -> None:
    """All files are as open as the database, so that others can take turns."""
    path = tmp_path / "store.db"
    before = os.umask(mask)
    try:
        acknowledged = write(path, "a")
    finally:
        os.umask(before)
    assert len(acknowledged) == 30
    modes = {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()}
    assert modes == {0o644 & ~mask}


async def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """What does not fit fails, or its outcome is said to be unknown; all goes on afterwards."""
    path = tmp_path / "store.db"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    async with Engine(SQLiteDriver(path), FlowRegistry()) as engine, engine.watch() as states:
        await engine.do(pause("first"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 600_000, hard))
        try:
            outcomes = await asyncio.gather(
                *(engine.do(pause(f"{n}", text="x" * 100_000)) for n in range(20)),
                return_exceptions=True,
            )
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        failures = [each for each in outcomes if each is not None]
        assert failures
        assert [each for each in failures if not isinstance(each, FAILED)] == []
        await engine.do(pause("last"))
        seen = []
        async with asyncio.timeout(10):
            while "last" not in seen:
                seen.append((await anext(states)).id)
        stored = {f"{n}" for n, outcome in enumerate(outcomes) if outcome is None}
        refused = {f"{n}" for n, outcome in enumerate(outcomes) if isinstance(outcome, DriverError)}
        assert stored | {"first", "last"} <= set(seen)
        assert refused.isdisjoint(seen)
    assert await ids_in(path) == set(seen)
