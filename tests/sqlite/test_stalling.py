"""When states stall, in a file: what delays change, damaged rows, and other processes."""

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from flowstate import FakeClock, State, StoreBusyError, Transition
from flowstate.driver import DuePage, DueQuery, Heartbeat, Liveness, NewDelay, Writes
from flowstate.drivers.sqlite import SQLiteDriver
from flowstate.drivers.sqlite.lock import WriterLock
from flowstate.ground.frozen import EMPTY
from flowstate.recovery_rules import DISABLED, RETRY_AFTER
from tests.sqlite.support import commit, commit_one, put, worker

HOUR = timedelta(hours=1)
LAST = datetime.max.replace(tzinfo=UTC)
BAD = "id = 'bad'"
DAMAGES = {
    "no JSON": f"UPDATE log SET body = '{{' WHERE {BAD}",
    "no UTF-8": f"UPDATE log SET body = CAST(x'7bff' AS TEXT) WHERE {BAD}",
    "newer": f"UPDATE log SET body = json_set(body, '$.v', 2) WHERE {BAD}",
    "blob": f"UPDATE log SET body = x'00' WHERE {BAD}",
    "time": f"UPDATE log SET committed_at = 'x' WHERE {BAD}",
    "time is no UTF-8": f"UPDATE log SET committed_at = CAST(x'ff' AS TEXT) WHERE {BAD}",
    "split time": f"UPDATE log SET delayed_until = 1.5 WHERE {BAD}",
    "late time": f"UPDATE log SET committed_at = 9223372036854775807 WHERE {BAD}",
    "no state": f"DELETE FROM log WHERE {BAD}",
    "another's state": f"UPDATE latest SET rev = 1 WHERE {BAD}",
    "revision": f"UPDATE latest SET rev = 'x' WHERE {BAD}",
    "revision is no UTF-8": f"UPDATE latest SET rev = CAST(x'ff' AS TEXT) WHERE {BAD}",
    "id in the log": f"UPDATE log SET id = CAST(x'ff' AS TEXT) WHERE {BAD}",
    "id": f"UPDATE latest SET id = CAST(x'ff' AS TEXT) WHERE {BAD}",
}
TIMES = {
    "text": "'x'",
    "no UTF-8": "CAST(x'ff' AS TEXT)",
    "blob": "x'00'",
    "too early": "-9223372036854775807",
    "too late": "9223372036854775807",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def driver(path: Path, clock: FakeClock) -> AsyncIterator[SQLiteDriver]:
    async with SQLiteDriver(path, timeout=0.1, clock=clock) as driver:
        yield driver


async def put_one(driver: SQLiteDriver, id: str, **annotations: str) -> State:
    names = {"after": RETRY_AFTER, "off": DISABLED}
    found = {names[name]: value for name, value in annotations.items()}
    (state,) = await commit_one(driver, put(id, id, annotations=found))
    return state


async def liveness(driver: SQLiteDriver, id: str) -> Liveness:
    (found,) = await driver.get_liveness([id])
    assert found is not None
    return found


async def stalls_in(driver: SQLiteDriver, id: str) -> timedelta | None:
    found = await liveness(driver, id)
    return None if found.stalls_at is None else found.stalls_at - found.now


def alone(state: State, after: timedelta, name: str = "alone") -> Writes:
    delay = NewDelay(state, "next", EMPTY, None, after, commit=True, body="")
    return Writes(name, checks=((state.id, state.rev),), delays=(delay,))


def damage(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            assert other.execute(statement).rowcount


async def pages(driver: SQLiteDriver, limit: int, *flows: str) -> list[DuePage]:
    query = DueQuery("stall", flows or None, limit=limit)
    found = [await driver.get_due(query)]
    while found[-1].more:
        assert found[-1].end is not None
        found.append(await driver.get_due(replace(query, after=found[-1].end)))
    return found


def ids(found: list[DuePage]) -> list[str]:
    return [due.id for page in found for due in page.due]


# Delays and the ends of time


async def test_a_delay_counts_by_the_rules_that_were_committed(driver: SQLiteDriver) -> None:
    state = await put_one(driver, "a", after="60")
    changed = replace(state, annotations={RETRY_AFTER: "9000", DISABLED: ""})
    await commit_one(driver, alone(changed, HOUR))
    assert await stalls_in(driver, "a") == HOUR + timedelta(seconds=60)
    assert await commit_one(driver, alone(state, HOUR / 2, "earlier")) == ()
    assert await stalls_in(driver, "a") == HOUR + timedelta(seconds=60)


async def test_a_delay_of_what_never_stalls_changes_nothing(driver: SQLiteDriver) -> None:
    state = await put_one(driver, "a", off="")
    await commit_one(driver, alone(replace(state, annotations={}), HOUR))
    assert await stalls_in(driver, "a") is None


@pytest.mark.parametrize(
    ("expected", "after"),
    [({"after": "60"}, HOUR + timedelta(seconds=60)), ({"off": ""}, None)],
)
async def test_a_delay_in_the_batch_of_its_revision(
    driver: SQLiteDriver, expected: dict[str, str], after: timedelta | None
) -> None:
    first = await put_one(driver, "a", **expected)
    again = put("again", "a", first.rev, annotations=first.annotations)
    (ahead,) = again.puts
    verdicts = await commit(driver, again, alone(replace(ahead, rev=first.rev + 1), HOUR))
    assert all(isinstance(verdict, tuple) for verdict in verdicts)
    assert await stalls_in(driver, "a") == after


async def test_a_revision_in_the_same_batch_supersedes_the_delay(driver: SQLiteDriver) -> None:
    state = await put_one(driver, "a", after="60")
    verdicts = await commit(driver, alone(state, HOUR), put("next", "a", state.rev))
    assert all(isinstance(verdict, tuple) for verdict in verdicts)
    assert await stalls_in(driver, "a") == timedelta(minutes=2)


async def test_times_end_with_the_calendar(driver: SQLiteDriver) -> None:
    longest = str(365_000 * 86_400)
    state = await put_one(driver, "a", after=longest)
    assert (await liveness(driver, "a")).stalls_at is not None
    await commit_one(driver, alone(state, HOUR))
    await driver.beat([Heartbeat("a", state.rev, 9_000_000_000_000.0, "")])
    delay = NewDelay(State("b"), "next", EMPTY, LAST, None, commit=True, body="", put=0)
    (late,) = await commit_one(
        driver, Writes("b", (State("b", transition=Transition("next")),), delays=(delay,))
    )
    assert late.delayed_until == LAST
    assert (await liveness(driver, "b")).stalls_at == LAST


async def test_a_clock_that_steps_back_delays_nothing(
    driver: SQLiteDriver, path: Path, clock: FakeClock
) -> None:
    ahead = FakeClock(clock.now() + HOUR)
    async with SQLiteDriver(path, clock=ahead) as other:
        (first,) = await commit_one(other, put("1", "a"))
    (second,) = await commit_one(driver, put("2", "b"))
    assert second.committed_at == first.committed_at
    assert await stalls_in(driver, "b") == timedelta(minutes=2)


# Heartbeats


async def test_heartbeats_within_one_moment_differ(driver: SQLiteDriver, clock: FakeClock) -> None:
    state = await put_one(driver, "a")
    found = []
    for _ in range(3):
        assert await driver.beat([Heartbeat("a", state.rev, 60.0, "")]) == [True]
        found.append((await liveness(driver, "a")).beat_at)
    assert found == [clock.now() + timedelta(microseconds=n) for n in range(3)]
    assert await stalls_in(driver, "a") == timedelta(seconds=60)


async def test_heartbeats_of_odd_ids(driver: SQLiteDriver) -> None:
    ids = ['"', "\\", "\\u0041", "\n\t\x01", "é\u2028\U0001f600", "$.a[0]", "1", "null", " "]
    states = [await put_one(driver, id) for id in ids]
    beats = [Heartbeat(state.id, state.rev, 60.0, state.id) for state in states]
    assert await driver.beat(beats) == [True] * len(ids)
    assert [(await liveness(driver, id)).note for id in ids] == ids
    swapped = [replace(beat, rev=len(ids) - place) for place, beat in enumerate(beats)]
    assert await driver.beat(swapped) == [place == len(ids) // 2 for place in range(len(ids))]


async def test_heartbeats_wait_for_other_writers_and_give_up(
    driver: SQLiteDriver, path: Path
) -> None:
    state = await put_one(driver, "a")
    lock = WriterLock(str(path), 10.0)
    lock.open()
    with contextlib.closing(lock):
        with lock, pytest.raises(StoreBusyError):
            await driver.beat([Heartbeat("a", state.rev, 60.0, "")])
        assert (await liveness(driver, "a")).beat_at is None
        assert await driver.beat([Heartbeat("a", state.rev, 60.0, "")]) == [True]


# Damage


@pytest.mark.parametrize("statement", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_only_the_damaged_state_is_missing(
    driver: SQLiteDriver, clock: FakeClock, path: Path, statement: str, limit: int
) -> None:
    for id in ("alpha", "bad", "good"):
        await put_one(driver, id)
    await clock.sleep(300.0)
    damage(path, statement)
    for found in (await pages(driver, limit), await pages(driver, limit, "next")):
        assert ids(found) == ["alpha", "good"]
        (bad,) = [bad for page in found for bad in page.damaged]
        assert bad.error
        assert bad.id in ("bad", "\udcff")
        assert all(len(page.due) + len(page.damaged) <= limit for page in found)


@pytest.mark.parametrize("value", TIMES.values(), ids=TIMES)
async def test_a_damaged_time_is_reported_on_the_first_page(
    driver: SQLiteDriver, clock: FakeClock, path: Path, value: str
) -> None:
    for id in ("a", "bad", "good"):
        await put_one(driver, id)
    await clock.sleep(300.0)
    damage(path, f"UPDATE latest SET due = {value} WHERE {BAD}")
    first, second = await pages(driver, 1)
    assert [ids([page]) for page in (first, second)] == [["a"], ["good"]]
    assert [(bad.id, bad.due) for bad in first.damaged] == [("bad", None)]
    assert (list(second.damaged), second.next_at) == ([], None)
    assert await driver.beat([Heartbeat("bad", 2, 0.0, "")]) == [True]  # That mends it.
    assert ids(await pages(driver, 100)) == ["a", "good", "bad"]


async def test_a_split_time_is_passed_by(
    driver: SQLiteDriver, clock: FakeClock, path: Path
) -> None:
    for id in ("a", "bad", "good"):
        await put_one(driver, id)
        await clock.sleep(1.0)
    damage(path, f"UPDATE latest SET due = due + 0.5 WHERE {BAD}")
    await clock.sleep(300.0)
    found = await pages(driver, 1)
    assert ids(found) == ["a", "good"]
    assert [bad.id for page in found for bad in page.damaged] == ["bad"]


@pytest.mark.parametrize("column", ["rev", "due", "beat_at", "note"])
@pytest.mark.parametrize("value", [*TIMES.values(), "1.5"], ids=[*TIMES, "split"])
async def test_a_damaged_row_takes_no_other_heartbeat_with_it(
    driver: SQLiteDriver, path: Path, column: str, value: str
) -> None:
    states = [await put_one(driver, id) for id in ("a", "bad", "good")]
    damage(path, f"UPDATE latest SET {column} = {value} WHERE {BAD}")
    answers = await driver.beat([Heartbeat(s.id, s.rev, 60.0, "note") for s in states])
    assert answers == [True, column != "rev", True]
    assert (await liveness(driver, "good")).note == "note"
    if column != "rev":  # The heartbeat mended it.
        assert (await liveness(driver, "bad")).note == "note"


@pytest.mark.parametrize("column", ["rev", "due", "beat_at", "note"])
@pytest.mark.parametrize("value", ["CAST(x'ff' AS TEXT)", "x'00'"])
async def test_damaged_liveness_hides_no_other(
    driver: SQLiteDriver, path: Path, column: str, value: str
) -> None:
    good = [await put_one(driver, id) for id in ("a", "bad", "good")]
    damage(path, f"UPDATE latest SET {column} = {value} WHERE {BAD}")
    first, bad, last = await driver.get_liveness(["a", "bad", "good"])
    assert [found and found.rev for found in (first, last)] == [good[0].rev, good[2].rev]
    assert (bad is None) == (column == "rev")


@pytest.mark.parametrize("value", ["''", "x'00'"])
@pytest.mark.parametrize("flows", [(), ("next",), ("other",)])
async def test_a_damaged_flow_is_on_the_pages_of_all_flows(
    driver: SQLiteDriver, clock: FakeClock, path: Path, value: str, flows: tuple[str, ...]
) -> None:
    for id in ("a", "bad"):
        await put_one(driver, id)
    await clock.sleep(300.0)
    damage(path, f"UPDATE latest SET flow = {value} WHERE {BAD}")
    found = await pages(driver, 100, *flows)
    assert ids(found) == ([] if "other" in flows else ["a"])
    assert [bad.id for page in found for bad in page.damaged] == ["bad"]


# Other processes


async def test_two_processes(path: Path) -> None:
    async with SQLiteDriver(path, timeout=30.0) as driver, worker("beat", path) as other:
        state = await put_one(driver, "a", after="0.001")
        other.tell(f"a {state.rev} 3600 elsewhere")
        assert await other.line() == "True"
        found = await liveness(driver, "a")
        assert (found.rev, found.note) == (state.rev, "elsewhere")
        assert not (await driver.get_due(DueQuery("stall"))).due
        (newer,) = await commit_one(driver, put("newer", "a", state.rev))
        other.tell(f"a {state.rev} 3600 outdated")
        assert await other.line() == "False"
        assert await driver.beat([Heartbeat("a", newer.rev, 0.0, "here")]) == [True]
        other.tell("stalled")
        assert await other.line() == "a"
        assert (await liveness(driver, "a")).note == "here"
