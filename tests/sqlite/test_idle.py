"""Idle states in a file: they share an index with what stalls, and cost its pages nothing."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from flowstate import FakeClock, State, Status, Transition
from flowstate.driver import DueKind, DuePage, DueQuery, Heartbeat, Writes
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.drivers.sqlite.due import get_due
from tests.sqlite.support import commit_one, damage, steps

FIRST = datetime.min.replace(tzinfo=UTC)
BAD = "id = 'bad'"
DAMAGES = {
    "no JSON": f"UPDATE log SET body = '{{' WHERE {BAD}",
    "no UTF-8": f"UPDATE log SET body = CAST(x'7bff' AS TEXT) WHERE {BAD}",
    "newer": f"UPDATE log SET body = json_set(body, '$.v', 2) WHERE {BAD}",
    "blob": f"UPDATE log SET body = x'00' WHERE {BAD}",
    "time": f"UPDATE log SET committed_at = 'x' WHERE {BAD}",
    "no state": f"DELETE FROM log WHERE {BAD}",
    "another's state": f"UPDATE latest SET rev = 1 WHERE {BAD}",
    "revision": f"UPDATE latest SET rev = 'x' WHERE {BAD}",
    "id": f"UPDATE latest SET id = CAST(x'ff' AS TEXT) WHERE {BAD}",
    "blob as flow": f"UPDATE latest SET flow = x'00' WHERE {BAD}",
}
TIMES = {"text": "'x'", "blob": "x'00'", "too early": "-9223372036854775807"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
async def driver(path: Path) -> AsyncIterator[SQLiteDriver]:
    async with SQLiteDriver(path, clock=FakeClock()) as driver:
        yield driver


async def put_some(
    driver: SQLiteDriver, *ids: str, flow: str = "wait", status: Status = Status.PAUSED
) -> tuple[State, ...]:
    states = tuple(State(id, transition=Transition(flow), status=status) for id in ids)
    return await commit_one(driver, Writes(f"put {ids[0]}", states))


async def pages(driver: SQLiteDriver, query: DueQuery) -> list[DuePage]:
    found = [await driver.get_due(query)]
    while found[-1].more:
        found.append(await driver.get_due(replace(query, after=found[-1].end)))
    return found


def ids(found: list[DuePage]) -> list[str]:
    return [due.id for page in found for due in page.due]


@pytest.mark.parametrize("statement", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_only_the_damaged_state_is_missing(
    driver: SQLiteDriver, path: Path, statement: str, limit: int
) -> None:
    await put_some(driver, "alpha", "bad", "good")
    damage(path, statement)
    for flows in (None, ("wait",)):
        found = await pages(driver, DueQuery("idle", flows, limit=limit))
        assert ids(found) == ["alpha", "good"]
        (bad,) = [bad for page in found for bad in page.damaged]
        assert bad.error
        assert (bad.id in ("bad", "\udcff"), bad.due) == (True, FIRST)
        assert all(len(page.due) + len(page.damaged) <= limit for page in found)


@pytest.mark.parametrize("value", TIMES.values(), ids=TIMES)
async def test_a_damaged_time_is_reported_with_what_stalls(
    driver: SQLiteDriver, path: Path, value: str
) -> None:
    """It may be a state that stalls. Its next revision mends it."""
    _, bad = await put_some(driver, "a", "bad")
    damage(path, f"UPDATE latest SET due = {value} WHERE {BAD}")
    assert ids(await pages(driver, DueQuery("idle"))) == ["a"]
    stalled = await driver.get_due(DueQuery("stall"))
    assert [(found.id, found.due) for found in stalled.damaged] == [("bad", None)]
    await commit_one(driver, Writes("next", (bad,)))
    assert ids(await pages(driver, DueQuery("idle"))) == ["a", "bad"]
    assert not (await driver.get_due(DueQuery("stall"))).damaged


async def test_a_heartbeat_leaves_idle_what_is_idle(driver: SQLiteDriver) -> None:
    (state,) = await put_some(driver, "a")
    assert await driver.beat([Heartbeat("a", state.rev, 60.0, "note")]) == [True]
    assert ids(await pages(driver, DueQuery("idle"))) == ["a"]
    assert ids(await pages(driver, DueQuery("stall", everything=True))) == []
    (found,) = await driver.get_liveness(["a"])
    assert found is not None
    assert (found.stalls_at, found.note) == (None, "note")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "more", "flow"),
    [
        ("stall", Status.PAUSED, "wait"),
        ("stall", Status.PAUSED, ""),
        ("idle", Status.ACTIVE, "wait"),
    ],
)
async def test_pages_of_one_kind_cost_the_other_nothing(
    driver: SQLiteDriver, path: Path, asked: DueKind, more: Status, flow: str
) -> None:
    status = {"stall": Status.ACTIVE, "idle": Status.PAUSED}[asked]
    await put_some(driver, *(f"{n}" for n in range(20)), status=status)
    queries = [
        DueQuery(asked, flows, everything=True, limit=limit, others=True)
        for flows in (None, ("wait",), ("other",))
        for limit in (7, 100)
    ]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        reads: list[Callable[[], object]] = [
            partial(get_due, connection, query, datetime.now(UTC)) for query in queries
        ]
        costs = [steps(connection, read) for read in reads]
        for n in range(0, 20_000, 1_000):
            await put_some(driver, *(f"more {n + k}" for k in range(1_000)), flow=flow, status=more)
        for read, cost in zip(reads, costs, strict=True):
            assert steps(connection, read) - cost < 60
