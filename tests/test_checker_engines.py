"""Real stores under load: their histories are recorded, and have nothing that must not be."""

import asyncio
import contextlib
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from flowstate.driver import Driver
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.testing.checker import check
from flowstate.testing.history import History, Record, read_records
from flowstate.testing.recorder import read_store
from tests.broken import (
    Base,
    FirstMismatchOnly,
    HalfDone,
    Holes,
    LateRevisions,
    OneVerdict,
    RefusedData,
    SkippingPages,
    StaleLatest,
    StaleReads,
    Unchecked,
    UncheckedChecks,
)
from tests.recorded_load import driver_on, work
from tests.redis_servers import RedisLike
from tests.servers import Postgres

PROCESSES = 3
KILLED_AT = 20_000  # Bytes of records.


def checked(history: History) -> int:
    """Return how many operations a history has."""
    watched = sum(len(session.delivered) for session in history.sessions)
    return len(history.attempts) + len(history.reads) + len(history.pages) + watched


def outcomes(history: History) -> Counter[str]:
    """Count how commits ended."""
    return Counter(type(attempt.outcome).__name__ for attempt in history.attempts)


@pytest.mark.parametrize(
    ("make", "operations"),
    [
        pytest.param(lambda _: MemoryDriver(), 16_000, id="memory"),
        pytest.param(lambda path: SQLiteDriver(path / "store"), 4_000, id="sqlite"),
    ],
)
async def test_tasks(make: Callable[[Path], Driver], operations: int, tmp_path: Path) -> None:
    records: list[Record] = []
    async with make(tmp_path) as driver:
        await work(driver, records.append, operations, seed=1)
        records += await read_store(driver, records)

    history = History(records)

    assert check(history) == []
    assert checked(history) > operations
    assert outcomes(history).keys() == {"Committed", "Refused"}


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """A store that several processes can use, and the schema or namespace in it."""
    match request.param:
        case "postgres":
            server: Postgres = request.getfixturevalue("postgres")
            return server.url(), request.getfixturevalue("postgres_schema")
        case "redis":
            redis: RedisLike = request.getfixturevalue("redis_server")
            return redis.url(), request.getfixturevalue("redis_namespace")
        case _:
            return str(tmp_path / "store"), ""


async def run(store: tuple[str, str], path: Path, operations: int, seed: int) -> int | None:
    """Work in a process; the first one is killed on its way. Return how it ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.recorded_load",
        *store,
        path,
        f"{operations}",
        f"{seed}",
        cwd=Path(__file__).parent.parent,
    )
    try:
        if seed == 0:
            while not path.exists() or path.stat().st_size < KILLED_AT:
                await asyncio.sleep(0.01)
                assert process.returncode is None
            process.kill()
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_processes_one_of_which_is_killed(store: tuple[str, str], tmp_path: Path) -> None:
    operations = 600 if store[1] else 2_000  # Servers are slow to answer.
    paths = [tmp_path / f"history-{number}" for number in range(PROCESSES)]
    async with driver_on(*store) as driver:
        codes = await asyncio.gather(
            *(run(store, path, operations, seed) for seed, path in enumerate(paths))
        )
        records, torn = read_records(paths)
        records += await read_store(driver, records)

    history = History(records, torn=torn)

    assert codes == [-signal.SIGKILL, 0, 0]
    assert check(history) == []
    assert checked(history) > PROCESSES * operations
    assert outcomes(history).keys() - {"NoneType"} == {"Committed", "Refused"}


@pytest.mark.parametrize(
    ("kind", "guarantee"),
    [
        (HalfDone, "G1"),
        (RefusedData, "G1"),
        (Unchecked, "G2"),
        (UncheckedChecks, "G2"),
        (FirstMismatchOnly, "G2"),
        (OneVerdict, "G2"),
        (Holes, "G4"),
        (LateRevisions, "G5"),
        (SkippingPages, "G5"),
        (StaleReads, "G5"),
        (StaleLatest, "G5"),
    ],
)
async def test_finds_what_broken_drivers_do(kind: type[Base], guarantee: str) -> None:
    records: list[Record] = []
    async with kind() as driver:
        # Engines notice some of it themselves.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(3):
                await work(driver, records.append, 1_000, seed=1)
        records += await read_store(driver, records)

    found = {violation.guarantee for violation in check(History(records))}

    assert guarantee in found
