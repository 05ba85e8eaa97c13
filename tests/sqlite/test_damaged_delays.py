"""A delay that cannot be read is reported as damaged, and the others are read as ever."""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from flowstate import (
    Command,
    Commit,
    DamagedDelay,
    Delay,
    Delayer,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    Pause,
    State,
    StateContext,
    Status,
)
from flowstate.driver import DuePage, DueQuery
from flowstate.drivers.sqlite import SQLiteDriver

HOUR = timedelta(hours=1)
REAL_SECONDS = 20  # A fake clock that jumps on and on is not stopped by pytest.
BAD = "state_id = 'bad'"
DAMAGES = {
    "no JSON": f"UPDATE delay SET body = '{{' WHERE {BAD}",
    "no UTF-8": f"UPDATE delay SET body = CAST(x'7bff' AS TEXT) WHERE {BAD}",
    "newer": f"UPDATE delay SET body = json_set(body, '$.v', 2) WHERE {BAD}",
    "other types": f"UPDATE delay SET body = json_set(body, '$.to', 7) WHERE {BAD}",
    "blob": f"UPDATE delay SET body = x'00' WHERE {BAD}",
    "own state": f"""UPDATE delay SET body = '{{"v":1,"to":"due","state":{{}}}}' WHERE {BAD}""",
    "newer state": "UPDATE log SET body = json_set(body, '$.v', 2) WHERE id = 'bad'",
    "state is no UTF-8": "UPDATE log SET body = CAST(x'7bff' AS TEXT) WHERE id = 'bad'",
    "time of the state": "UPDATE log SET committed_at = 'x' WHERE id = 'bad'",
    "no state": "DELETE FROM log WHERE id = 'bad'",
    "another's state": f"UPDATE delay SET rev = rev - 1 WHERE {BAD}",
    "revision": f"UPDATE delay SET rev = 'x' WHERE {BAD}",
    "state id": f"UPDATE delay SET state_id = CAST(x'ff' AS TEXT) WHERE {BAD}",
    "split time": f"UPDATE delay SET due = due + 0.5 WHERE {BAD}",
    "no flow": f"UPDATE delay SET flow = '' WHERE {BAD}",
    "blob as flow": f"UPDATE delay SET flow = x'00' WHERE {BAD}",
}
TIMES = {
    "too late": f"UPDATE delay SET due = 9223372036854775807 WHERE {BAD}",
    "too early": f"UPDATE delay SET due = -9223372036854775807 WHERE {BAD}",
    "text": f"UPDATE delay SET due = 'x' WHERE {BAD}",
    "blob": f"UPDATE delay SET due = x'00' WHERE {BAD}",
}


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def engine(tmp_path: Path, clock: FakeClock) -> Engine:
    """An engine that is not open yet."""
    flows = FlowRegistry()

    @flows.flow("due")
    def due(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx))

    return Engine(SQLiteDriver(tmp_path / "store.db", clock=clock), flows, clock=clock)


async def store(engine: Engine, **after: timedelta) -> None:
    """Store a state in front, and states that are delayed."""
    await engine.do(Commit(Pause(StateContext(State("first")))))
    for id, time in after.items():
        await engine.do(Commit(Delay(StateContext(State(id)), "due", after=time)))


def damage(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        for statement in statements:
            assert other.execute(statement).rowcount


def ids(delayed: Sequence[DamagedDelay]) -> list[str]:
    return [damaged.state_id for damaged in delayed]


async def pages(engine: Engine, limit: int) -> list[DuePage]:
    """Return all delays, as a delayer would read them."""
    query = DueQuery("delay", ("due",), everything=True, limit=limit)
    found = [await engine.driver.get_due(query)]
    while found[-1].more:
        assert found[-1].end is not None  # Else it would begin again.
        found.append(await engine.driver.get_due(replace(query, after=found[-1].end)))
    return found


@pytest.mark.parametrize("statement", DAMAGES.values(), ids=DAMAGES)
async def test_only_the_damaged_delay_is_missing(
    engine: Engine, tmp_path: Path, clock: FakeClock, statement: str
) -> None:
    async with engine:
        await store(engine, bad=HOUR, good=2 * HOUR)
        damage(tmp_path / "store.db", statement)
        page = await engine.get_delayed_states()
    assert [delay.state.id for delay in page.delayed] == ["good"]
    (damaged,) = page.damaged
    assert damaged.due is not None
    assert timedelta(0) <= damaged.due - (clock.now() + HOUR) <= timedelta(microseconds=1)
    assert damaged.error


@pytest.mark.parametrize("statement", TIMES.values(), ids=TIMES)
@pytest.mark.parametrize("everything", [True, False])
async def test_a_damaged_time_is_reported_on_the_first_page(
    engine: Engine, tmp_path: Path, clock: FakeClock, statement: str, *, everything: bool
) -> None:
    async with engine:
        await store(engine, bad=HOUR, good=timedelta(0), better=timedelta(0))
        damage(tmp_path / "store.db", statement)
        query = DueQuery("delay", everything=everything, limit=1)
        first = await engine.driver.get_due(query)
        second = await engine.driver.get_due(DueQuery("delay", limit=1, after=first.end))
    assert [(damaged.state_id, damaged.due) for damaged in first.damaged] == [("bad", None)]
    assert (first.more, second.more, ids(second.damaged)) == (True, False, [])
    assert second.next_at is None
    assert {d.state.id for page in (first, second) for d in page.due} == {"good", "better"}


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_pages_go_on_past_damaged_delays(engine: Engine, tmp_path: Path, limit: int) -> None:
    async with engine:
        await store(engine, **{name: HOUR * n for n, name in enumerate("aBCDeFgHI", 1)})
        damage(tmp_path / "store.db", "UPDATE delay SET body = '' WHERE state_id < 'a'")
        found = await pages(engine, limit)
    assert [delay.state.id for page in found for delay in page.due] == ["a", "e", "g"]
    assert [id for page in found for id in ids(page.damaged)] == ["B", "C", "D", "F", "H", "I"]
    assert all(len(page.due) + len(page.damaged) <= limit for page in found)
    assert len(found) == -(-9 // limit)


@pytest.mark.parametrize("statement", [*DAMAGES.values(), *TIMES.values()], ids=[*DAMAGES, *TIMES])
async def test_the_others_fire_on_time(
    engine: Engine,
    tmp_path: Path,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    statement: str,
) -> None:
    start = clock.now()
    async with engine:
        await store(engine, bad=timedelta(0), good=timedelta(seconds=3), late=timedelta(seconds=9))
        damage(tmp_path / "store.db", statement)
        async with (
            asyncio.timeout(REAL_SECONDS),
            Delayer(engine, batch=1),
            engine.watch(status=Status.ENDED) as ended,
        ):
            fired = [await anext(ended), await anext(ended)]
    found = [(s.id, s.committed_at and (s.committed_at - start).seconds) for s in fired]
    assert found == [("good", 3), ("late", 9)]
    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [record.name for record in failures] == ["flowstate.delayer"]


async def test_the_next_commit_drops_a_damaged_delay(engine: Engine, tmp_path: Path) -> None:
    async with engine:
        await store(engine, bad=HOUR)
        damage(tmp_path / "store.db", DAMAGES["newer"])
        ctx = StateContext(await engine.get_state("bad"))
        await engine.do(Commit(Pause(ctx)))
        page = await engine.get_delayed_states()
    assert (list(page.delayed), list(page.damaged)) == ([], [])
