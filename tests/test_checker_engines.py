"""Real stores under load: their histories are recorded, and have nothing that must not be."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from flowstate.clock import Clock
from flowstate.driver import Driver, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.testing.histories.checker import check
from flowstate.testing.histories.history import History, Record
from flowstate.testing.histories.load import run_load
from flowstate.testing.histories.processes import CannotMoveError, run_processes
from flowstate.testing.histories.recorder import read_store
from tests.broken import (
    Base,
    FirstMismatchOnly,
    HalfDone,
    Holes,
    LateRevisions,
    LostReply,
    OneVerdict,
    RefusedData,
    SkippingPages,
    StaleLatest,
    StaleReads,
    Unchecked,
    UncheckedChecks,
)
from tests.recorded_load import driver_on
from tests.redis_servers import RedisLike
from tests.servers import Postgres

PROCESSES = 3


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
        await run_load([driver], records.append, operations=operations, seed=1)
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


async def test_processes_one_of_which_is_killed(store: tuple[str, str], tmp_path: Path) -> None:
    operations = 600 if store[1] else 2_000  # Servers are slow to answer.
    folder = tmp_path / "histories"
    folder.mkdir()

    history = await run_processes(
        partial(driver_on, *store), folder, operations=operations, seed=0, processes=PROCESSES
    )

    assert check(history) == []
    assert checked(history) > PROCESSES * operations
    assert outcomes(history).keys() - {"NoneType"} == {"Committed", "Refused"}


async def test_what_other_processes_cannot_import(tmp_path: Path) -> None:
    with pytest.raises(CannotMoveError, match="cannot be pickled"):
        await run_processes(lambda _: MemoryDriver(), tmp_path, operations=4, seed=0)
    with pytest.raises(CannotMoveError, match="another process cannot use it"):
        await run_processes(Unmovable(), tmp_path, operations=4, seed=0)


class Unmovable:
    """Can be pickled, but is refused by another process."""

    def __init__(self, *here: None) -> None:
        if here:
            raise ImportError("not here")

    def __call__(self, clock: Clock) -> Driver:
        return MemoryDriver(clock)

    def __reduce__(self) -> tuple[type["Unmovable"], tuple[None]]:
        return Unmovable, (None,)


class Hesitant(MemoryDriver):
    """Can be cancelled before each commit, and not only before some."""

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        await asyncio.sleep(0)  # reason: the caller can be cancelled here
        return await super().commit(batch)


@pytest.mark.parametrize(
    ("make", "objects", "operations"),
    [
        pytest.param(lambda _: Hesitant(), 1, 4_000, id="memory"),
        pytest.param(lambda path: SQLiteDriver(path / "store"), 2, 2_000, id="sqlite"),
    ],
)
async def test_cancelled_commits(
    make: Callable[[Path], Driver], objects: int, operations: int, tmp_path: Path
) -> None:
    records: list[Record] = []
    drivers = [make(tmp_path) for _ in range(objects)]
    async with drivers[0]:
        await run_load(drivers, records.append, operations=operations, seed=2, cancelling=0.5)
        records += await read_store(drivers[0], records)

    history = History(records)

    assert check(history) == []
    found = outcomes(history)
    assert found["Committed"] > 100
    # Only drivers that take one commit at a time are cancelled themselves.
    assert (found["Failed"] > 10) == (objects == 1)


async def test_finds_that_a_cancelled_commit_happened_after_all() -> None:
    records: list[Record] = []
    async with LostReply() as driver:
        await run_load([driver], records.append, operations=1_000, seed=1, cancelling=0.5)
        records += await read_store(driver, records)

    found = {str(violation).splitlines()[0] for violation in check(History(records))}

    assert "G8 unknown outcomes are resolved: a commit that failed is in the log" in found


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
                await run_load([driver], records.append, operations=1_000, seed=1)
        records += await read_store(driver, records)

    found = {violation.guarantee for violation in check(History(records))}

    assert guarantee in found
