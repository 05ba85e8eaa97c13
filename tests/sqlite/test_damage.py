"""A damaged file gives a clear error or a right answer, never another kind of error."""

import asyncio
import contextlib
import random
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from flowstate import (
    ClaimLostError,
    CodecError,
    Data,
    RevisionMismatchError,
    State,
    Status,
    StoreCorruptError,
    Transition,
)
from flowstate.data import DataRef, checksum_of
from flowstate.driver import (
    Claim,
    Drop,
    DueQuery,
    Heartbeat,
    NewDelay,
    StateQuery,
    Writes,
)
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.testcases.support import timer
from tests.sqlite.support import commit_one, put

HOUR = timedelta(hours=1)
FIRST = datetime.min.replace(tzinfo=UTC)
DATA = Data(b"blob" * 100)
CHECKSUM = checksum_of(DATA)
STATES = 60
Call = Callable[[SQLiteDriver], Awaitable[object]]


async def make_store(path: Path) -> None:
    """Make a store that uses every table, on several pages each."""
    ref = FrozenDict({"blob": DataRef(1, CHECKSUM)})
    async with SQLiteDriver(path) as driver:
        await commit_one(driver, Writes("data", data=(Data(DATA.blob, checksum=CHECKSUM),)))
        for i in range(STATES):
            labels = FrozenDict({"kind": "test", "number": f"{i % 7}", "long": "x" * 60})
            state = State(
                f"state-{i}",
                0,
                labels,
                annotations={"n": "x" * 40},
                transition=Transition("next"),
                data=ref,
            )
            delay = NewDelay(
                state,
                "next",
                EMPTY,
                None,
                HOUR,
                commit=True,
                body="",
                put=0,
                references=(CHECKSUM,),
            )
            writes = Writes(f"{i}", (state,), delays=(delay,) if i % 3 else ())
            (committed,) = await commit_one(driver, writes)
            if i % 2:
                await commit_one(driver, put(f"{i}b", committed.id, committed.rev, labels=labels))
            if i % 5 == 0:
                await commit_one(driver, more(f"{i}c", f"idle-{i}"))
                await commit_one(driver, put(f"{i}d", f"gone-{i}", labels=labels))
                await forget(driver, f"gone-{i}")


def more(token: str, id: str) -> Writes:
    """Return writes that put an idle state with an alarm."""
    state = State(id, status=Status.PAUSED, transition=Transition("wait"))
    return Writes(token, (state,), timers=(timer(f"alarm of {id}", -HOUR, to="wake"),))


async def forget(driver: SQLiteDriver, id: str) -> None:
    found = await driver.get_state(id)
    if found is not None:
        last = replace(found, status=Status.ENDED)
        await commit_one(driver, Writes(f"forget {id}", (last,), forgets=(0,)))


async def begin_again(driver: SQLiteDriver) -> None:
    await commit_one(driver, put("begin again", "gone-5"))


async def forget_one(driver: SQLiteDriver) -> None:
    await forget(driver, "state-7")


async def update(driver: SQLiteDriver) -> None:
    """Commit what touches old rows."""
    for i in range(0, STATES, 7):
        found = await driver.get_state(f"state-{i}")
        if found is not None:
            await commit_one(driver, put(f"update-{i}", found.id, found.rev))


CALLS: list[Call] = [
    lambda driver: driver.get_state("state-3"),
    lambda driver: driver.get_state("state-3", 5),
    lambda driver: driver.get_states(StateQuery(limit=1_000)),
    lambda driver: driver.get_states(StateQuery(latest_only=True, limit=1_000)),
    lambda driver: driver.get_states(StateQuery(status=Status.ACTIVE, limit=1_000)),
    lambda driver: driver.get_states(
        StateQuery(labels=(FrozenDict({"kind": "test", "number": "3"}),), limit=1_000)
    ),
    lambda driver: driver.get_states(StateQuery(since_latest=True)),
    lambda driver: driver.get_states(StateQuery(since_time=datetime.now(UTC))),
    lambda driver: driver.get_data(CHECKSUM),
    lambda driver: driver.get_due(DueQuery("delay", everything=True)),
    lambda driver: driver.get_due(DueQuery("delay", ("next",), others=True)),
    lambda driver: driver.beat([Heartbeat("state-3", rev, 0.0, "x" * 2_000) for rev in (4, 5, 6)]),
    lambda driver: driver.get_liveness(["state-3", "state-4"]),
    lambda driver: driver.get_due(DueQuery("stall", everything=True, limit=7)),
    lambda driver: driver.get_due(DueQuery("delay", ("wake",), limit=5)),
    lambda driver: driver.get_due(DueQuery("idle", limit=3, others=True)),
    lambda driver: driver.get_due(DueQuery("idle", ("wait",), after=(FIRST, "idle-2"))),
    lambda driver: driver.get_states(StateQuery(id="state-3", limit=1_000)),
    lambda driver: driver.get_states(StateQuery(id="gone-10", since_latest=True)),
    lambda driver: driver.count(StateQuery()),
    lambda driver: driver.count(StateQuery((FrozenDict({"kind": "test", "number": "3"}),))),
    lambda driver: commit_one(driver, more("timer", "newer")),
    lambda driver: commit_one(driver, Writes("t", drops=(Drop("alarm of idle-5", ""),))),
    begin_again,
    forget_one,
    lambda driver: commit_one(driver, put("more", "more", labels={"kind": "test"})),
    update,
    lambda driver: commit_one(driver, Writes("c", claims=(Claim("1.0", "me", 1.0),))),
    lambda driver: commit_one(driver, Writes("d", drops=(Drop("1.0", "me"),))),
    lambda driver: driver.compact(STATES),
]


async def outcomes(path: Path) -> set[str]:
    """Do everything with a damaged store; return the kinds of errors that came."""
    kinds: set[str] = set()
    try:
        async with SQLiteDriver(path, readers=1) as driver:
            for call in CALLS:
                try:
                    await call(driver)
                except (StoreCorruptError, CodecError) as error:
                    kinds.add(type(error).__name__)
                except RevisionMismatchError:
                    # The two tables that have the revision disagree, or one has lost the mark of a
                    # state that is forgotten.
                    assert call in (update, begin_again, forget_one)
                except ClaimLostError:
                    continue
    except StoreCorruptError as error:
        kinds.add(type(error).__name__)
    return kinds


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "store.db"
    asyncio.run(make_store(path))
    return path


@pytest.mark.parametrize("seed", range(8))
async def test_flipped_bytes(whole: Path, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    size = whole.stat().st_size
    found: set[str] = set()
    for i in range(12):
        path = tmp_path / f"{i}.db"
        content = bytearray(whole.read_bytes())
        page = rng.randrange(1, size // 4096) * 4096
        for _ in range(rng.choice([1, 3, 30])):
            where = page + rng.randrange(8 if rng.random() < 0.3 else 4096)
            content[where] = rng.randrange(256)
        path.write_bytes(content)
        found |= await outcomes(path)
    assert found


@pytest.mark.parametrize("part", [0.3, 0.7])
async def test_a_file_that_is_cut_short(whole: Path, tmp_path: Path, part: float) -> None:
    path = tmp_path / "store.db"
    content = whole.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    assert await outcomes(path) == {"StoreCorruptError"}


ODD = ["NULL", "'x'", "CAST(x'ff' AS TEXT)", "-1.5", "9223372036854775807"]
COLUMNS = {
    "log": ["id", "previous", "status", "committed_at", "delayed_until", "token", "body"],
    "latest": ["rev", "status", "labels", "due", "beat_at", "note", "flow"],
    "label": ["value", "rev"],
    "latest_label": ["value", "status", "rev"],
    "data": ["stored_at", "annotations", "blob"],
    "delay": ["state_id", "rev", "due", "body", "flow", "holder"],
    "delay_reference": ["checksum"],
    "meta": ["value"],
}


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table in COLUMNS for column in COLUMNS[table]]
)
async def test_odd_values(whole: Path, tmp_path: Path, table: str, column: str) -> None:
    """A value of any kind in any column: nothing but errors that say what is wrong."""
    for i, value in enumerate(ODD):
        path = tmp_path / f"{i}.db"
        shutil.copyfile(whole, path)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            loosen(other)
            other.execute(f"UPDATE OR IGNORE {table} SET {column} = {value}")
        await outcomes(path)


def loosen(connection: sqlite3.Connection) -> None:
    """Let every column of the schema take every value, as damage does."""
    connection.execute("PRAGMA writable_schema = ON")
    connection.execute(
        "UPDATE sqlite_schema SET sql = replace(sql, 'NOT NULL', '') WHERE type = 'table'"
    )
    connection.execute("PRAGMA writable_schema = RESET")
