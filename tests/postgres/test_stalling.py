"""What is special here about stalled states and heartbeats: locks, durability, damage, delays."""

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import pytest
from psycopg import AsyncConnection

from flowstate import RevisionMismatchError, State, Status, StoreBusyError
from flowstate.driver import (
    DueQuery,
    Heartbeat,
    NewDelay,
    Verdict,
    Writes,
)
from flowstate.drivers.postgres import PostgresDriver, heartbeats
from flowstate.drivers.postgres.queries import Queries
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.recovery_rules import RETRY_AFTER
from flowstate.state import Transition
from flowstate.testcases.support import encoded
from tests.postgres.steps import commit, commit_on, liveness_of
from tests.servers import Postgres, PostgresServer

Connection = AsyncConnection[Any]
WORK = Transition("work")
DAY = timedelta(days=1)
SECONDS = 1.5
OPTIONS = "SELECT reloptions FROM pg_class WHERE oid = 'latest'::regclass"
SIZE = "SELECT pg_table_size('latest') + pg_indexes_size('latest')"
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


@pytest.fixture
async def driver(postgres: Postgres, postgres_schema: str) -> AsyncIterator[PostgresDriver]:
    async with PostgresDriver(postgres.url(), schema=postgres_schema) as driver:
        yield driver


@pytest.fixture
async def connection(postgres: Postgres, postgres_schema: str) -> AsyncIterator[Connection]:
    """Of another program, which gives up rather than wait for long."""
    async with await AsyncConnection.connect(postgres.url(), autocommit=True) as connection:
        await connection.execute(f"SET search_path = {postgres_schema}".encode())
        await connection.execute("SET lock_timeout = '10s'")
        yield connection


async def one(connection: Connection, query: LiteralString) -> Any:
    """Return the only value that a query finds."""
    ((value,),) = await (await connection.execute(query)).fetchall()
    return value


async def put(driver: PostgresDriver, *states: State) -> tuple[State, ...]:
    (verdict,) = await commit(driver, Writes(secrets.token_hex(16), states))
    assert isinstance(verdict, tuple), verdict
    return verdict


def new(*ids: str, retry_after: float = 60.0) -> list[State]:
    rules = FrozenDict({RETRY_AFTER: str(retry_after)})
    return [State(id, annotations=rules, transition=WORK) for id in ids]


def beats_for(states: Sequence[State], seconds: float | None = 60.0) -> list[Heartbeat]:
    return [Heartbeat(state.id, state.rev, seconds, "") for state in states]


async def stalls_at(driver: PostgresDriver, id: str) -> datetime:
    time = (await liveness_of(driver, id)).stalls_at
    assert time is not None
    return time


# Locks


async def test_a_heartbeat_holds_no_row_while_it_waits_for_another(
    driver: PostgresDriver, connection: Connection, postgres_schema: str
) -> None:
    """Otherwise the open transaction and the heartbeats would wait for each other."""
    a, b = await put(driver, *new("a", "b"))
    async with connection.transaction():
        await commit_on(connection, postgres_schema, Writes("by hand", (b,)))
        beating = asyncio.create_task(driver.beat(beats_for([a, b])))
        while (await liveness_of(driver, "a")).beat_at is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # reason: the server does not tell
        await connection.execute("SET LOCAL lock_timeout = '1ms'")
        await connection.execute("SELECT FROM latest WHERE id = 'a' FOR UPDATE")
        assert not beating.done()
    assert await beating == [True, False]


@pytest.mark.parametrize("is_committed", [True, False])
async def test_a_heartbeat_waits_for_the_commit_that_decides(
    driver: PostgresDriver, connection: Connection, postgres_schema: str, is_committed: bool
) -> None:
    (a,) = await put(driver, *new("a"))
    async with connection.transaction(force_rollback=not is_committed):
        await commit_on(connection, postgres_schema, Writes("by hand", (a,)))
        beating = asyncio.create_task(driver.beat(beats_for([a])))
        await asyncio.sleep(0.1)  # reason: long enough to answer wrongly
        assert not beating.done()
    assert await beating == [not is_committed]


async def test_an_outdated_heartbeat_waits_for_nobody(
    driver: PostgresDriver, connection: Connection, postgres_schema: str
) -> None:
    (old,) = await put(driver, *new("a"))
    (latest,) = await put(driver, old)
    async with connection.transaction():
        await commit_on(connection, postgres_schema, Writes("by hand", (latest,)))
        assert await driver.beat(beats_for([old])) == [False]


async def test_a_heartbeat_does_not_wait_for_ever(
    postgres: Postgres, postgres_schema: str, connection: Connection
) -> None:
    async with PostgresDriver(postgres.url(), schema=postgres_schema, timeout=0.3) as driver:
        a, b = await put(driver, *new("a", "b"))
        async with connection.transaction():
            await connection.execute("SELECT FROM latest WHERE id = 'b' FOR UPDATE")
            with pytest.raises(StoreBusyError, match="'b'"):
                await driver.beat(beats_for([a, b]))
        assert await driver.beat(beats_for([a, b])) == [True, True]


async def test_the_time_of_a_heartbeat_rises_while_the_clock_is_behind(
    driver: PostgresDriver, connection: Connection
) -> None:
    """Its deadline counts from the clock all the same, so that the two show the difference."""
    (a,) = await put(driver, *new("a"))
    await driver.beat(beats_for([a]))
    await connection.execute("UPDATE latest SET beat_at = beat_at + interval '1 hour'")
    ahead = (await liveness_of(driver, "a")).beat_at
    assert ahead is not None
    for number in (1, 2):
        await driver.beat(beats_for([a]))
        found = await liveness_of(driver, "a")
        assert found.beat_at == ahead + timedelta(microseconds=number)
        assert found.stalls_at is not None
        assert timedelta(seconds=50) < found.stalls_at - found.now <= timedelta(seconds=60)


class Load:
    """Commits and heartbeats of the same states, taken in all orders."""

    def __init__(self, states: Sequence[State]) -> None:
        self._latest = {state.id: state for state in states}
        self._end = time.monotonic() + SECONDS
        self.done = {"commits": 0, "transactions": 0, "heartbeats": 0}

    def _goes_on(self) -> bool:
        return time.monotonic() < self._end or not all(self.done.values())

    def _some(self, chance: random.Random) -> tuple[State, ...]:
        return tuple(self._latest[id] for id in chance.sample(sorted(self._latest), 8))

    def _note(self, kind: str, verdict: Verdict) -> None:
        if isinstance(verdict, tuple):
            self._latest.update({state.id: state for state in verdict})
            self.done[kind] += 1

    async def commit(self, driver: PostgresDriver, chance: random.Random) -> None:
        while self._goes_on():
            writes = Writes(secrets.token_hex(16), self._some(chance))
            (verdict,) = await commit(driver, writes)
            self._note("commits", verdict)

    async def commit_rows(
        self, driver: PostgresDriver, connection: Connection, chance: random.Random
    ) -> None:
        while self._goes_on():
            writes = Writes(secrets.token_hex(16), self._some(chance))
            with contextlib.suppress(RevisionMismatchError):
                async with driver.transaction(connection) as tx:
                    tx.add(encoded(writes), lambda verdict: self._note("transactions", verdict))

    async def beat(self, driver: PostgresDriver, chance: random.Random) -> None:
        while self._goes_on():
            answers = await driver.beat(beats_for(self._some(chance)))
            self.done["heartbeats"] += len(answers)


@pytest.mark.alone  # Where others compute, its tasks win so seldom that it takes minutes.
async def test_heartbeats_and_commits_of_many_states_never_deadlock(
    driver: PostgresDriver, postgres: Postgres, postgres_schema: str, connection: Connection
) -> None:
    """They take the same rows in all orders, in three drivers and in transactions of a user."""
    before = await one(connection, DEADLOCKS)
    load = Load(await put(driver, *new(*map(str, range(12)))))
    others = [PostgresDriver(postgres.url(), schema=postgres_schema) for _ in range(2)]
    async with others[0], others[1], asyncio.TaskGroup() as group:
        for number, each in enumerate((driver, *others)):
            group.create_task(load.commit(each, random.Random(number)))
            group.create_task(load.beat(each, random.Random(10 + number)))
        group.create_task(load.commit_rows(driver, connection, random.Random(20)))
    assert await one(connection, DEADLOCKS) == before


# What a heartbeat costs


async def test_heartbeats_do_not_wait_for_the_disk_and_commits_do(
    connection: Connection, driver: PostgresDriver, postgres_schema: str
) -> None:
    (a,) = await put(driver, *new("a"))
    async with connection.transaction():
        await connection.execute(
            Queries(postgres_schema).beat.encode(), (["a"], [a.rev], [1], ["note"])
        )
        assert await one(connection, "SHOW synchronous_commit") == "off"
    assert await one(connection, "SHOW synchronous_commit") == "on"
    await connection.execute(
        Queries(postgres_schema).beat.encode(), (["a"], [a.rev], [1], ["note"])
    )
    assert await one(connection, "SHOW synchronous_commit") == "on"


async def test_heartbeats_beyond_one_statement(
    driver: PostgresDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heartbeats, "CHUNK", 3)
    states = await put(driver, *new(*map(str, range(10))))
    beats = [
        Heartbeat(state.id, state.rev + place % 2, 60.0, str(place))
        for place, state in enumerate(states)
    ]
    assert await driver.beat(beats) == [True, False] * 5
    assert (await liveness_of(driver, "8")).note == "8"


async def test_heartbeats_leave_little_behind(private_postgres: PostgresServer) -> None:
    """The tables are vacuumed early, and what a vacuum frees is used again.

    The server is its own, because a vacuum spares what the oldest transaction might still see.
    """
    async with (
        PostgresDriver(private_postgres.url()) as driver,
        await AsyncConnection.connect(private_postgres.url(), autocommit=True) as connection,
    ):
        await connection.execute("SET search_path = flowstate")
        assert set(await one(connection, OPTIONS)) == {
            "autovacuum_vacuum_scale_factor=0.02",
            "autovacuum_vacuum_cost_delay=0",
        }
        await connection.execute("ALTER TABLE latest SET (autovacuum_enabled = false)")
        states = await put(driver, *new(*map(str, range(1_000))))
        sizes: list[int] = []
        for _ in range(10):
            await driver.beat(beats_for(states))
            await driver.beat(beats_for(states))
            await connection.execute("VACUUM (INDEX_CLEANUP ON) latest")
            sizes.append(await one(connection, SIZE))
    assert sizes[-1] < 1.5 * sizes[2], sizes


# What is stored


async def test_a_damaged_state_fails_no_other(
    driver: PostgresDriver, connection: Connection
) -> None:
    states = await put(driver, *new("0", "1", "2", "3", "4", "5"))
    for place, state in enumerate(states):  # So that they stall in the order of their ids.
        await driver.beat([Heartbeat(state.id, state.rev, place / 1e4, "")])
    await connection.execute("""UPDATE log SET body = '{"v": 1}' WHERE id = '1'""")
    await connection.execute("""UPDATE log SET body = '{"v": 99, "id": "2"}' WHERE id = '2'""")
    await connection.execute("DELETE FROM log WHERE id = '3'")
    await connection.execute("""UPDATE log SET body = '{"v": 1, "id": "x"}' WHERE id = '5'""")
    await asyncio.sleep(0.01)  # reason: until all have stalled
    whole = await driver.get_due(DueQuery("stall"))
    assert [stalled.state for stalled in whole.due] == [states[0], states[4]]
    assert [bad.id for bad in whole.damaged] == ["1", "2", "3", "5"]
    assert all(bad.error for bad in whole.damaged)
    assert whole.end is not None
    assert whole.end[1] == "5"
    after: tuple[datetime, str] | None = None
    found: list[str] = []
    more: list[bool] = []
    for _ in range(3):
        page = await driver.get_due(DueQuery("stall", after=after, limit=2))
        found += sorted([each.id for each in page.due] + [bad.id for bad in page.damaged])
        more.append(page.more)
        after = page.end
    assert found == ["0", "1", "2", "3", "4", "5"]
    assert more == [True, True, False]


async def test_a_delay_by_itself_goes_by_the_rules_that_are_stored(driver: PostgresDriver) -> None:
    """Its own state is a working copy, which may have other rules or be paused already."""
    a, b = await put(driver, *new("a", "b"))
    other_rules = FrozenDict({RETRY_AFTER: "7200"})
    copy = State("a", a.rev, annotations=other_rules, transition=WORK)

    async def delay(state: State, *after: timedelta) -> datetime:
        delays = tuple(
            NewDelay(state, "next", EMPTY, None, each, commit=True, body="") for each in after
        )
        token = secrets.token_hex(16)
        (verdict,) = await commit(driver, Writes(token, delays=delays))
        assert verdict == ()
        page = await driver.get_due(DueQuery("delay", everything=True))
        return max(each.due for each in page.due if each.id.startswith(token))

    untouched = await stalls_at(driver, "b")
    latest_due = await delay(copy, DAY, 2 * DAY, timedelta(hours=1))
    assert await stalls_at(driver, "a") == latest_due + timedelta(seconds=60)
    await delay(copy, DAY)
    assert await stalls_at(driver, "a") == latest_due + timedelta(seconds=60)
    assert await stalls_at(driver, "b") == untouched
    await put(driver, b)
    moved = await stalls_at(driver, "b")
    await delay(b, DAY)  # Of a revision that is no longer the latest.
    assert await stalls_at(driver, "b") == moved


async def test_what_is_forgotten_stalls_no_more(driver: PostgresDriver) -> None:
    """Whatever its status: nothing is there that could be recovered."""
    active, paused = await put(driver, *new("a"), State("b", status=Status.PAUSED))
    await commit(driver, Writes(secrets.token_hex(16), (active, paused), forgets=(0, 1)))
    for kind in ("stall", "idle"):
        page = await driver.get_due(DueQuery(kind, everything=True))
        assert (list(page.due), list(page.damaged), page.next_at) == ([], [], None)


async def test_times_end_with_the_year_9999(driver: PostgresDriver) -> None:
    last = datetime.max.replace(tzinfo=UTC)
    (state,) = new("a", retry_after=365_000 * 86_400.0)
    delay = NewDelay(state, "next", EMPTY, last, None, commit=True, body="", put=0)
    writes = Writes(secrets.token_hex(16), (state,), delays=(delay,))
    (verdict,) = await commit(driver, writes)
    assert isinstance(verdict, tuple)
    assert await stalls_at(driver, "a") == last
    await driver.beat([Heartbeat("a", 1, 1e300, "")])
    assert (await stalls_at(driver, "a")).year > 3000
    (alone,) = await put(driver, *new("b"))
    later = NewDelay(alone, "next", EMPTY, last, None, commit=True, body="")
    await commit(driver, Writes(secrets.token_hex(16), delays=(later,)))
    assert await stalls_at(driver, "b") == last
    assert (await driver.get_due(DueQuery("stall"))).next_at is not None


async def test_the_earliest_delay_of_a_put_counts(driver: PostgresDriver) -> None:
    (state,) = new("a")
    delays = tuple(
        NewDelay(state, "next", EMPTY, None, after, commit=True, body="", put=0)
        for after in (2 * DAY, DAY, 3 * DAY)
    )
    (verdict,) = await commit(driver, Writes(secrets.token_hex(16), (state,), delays=delays))
    assert isinstance(verdict, tuple)
    assert verdict[0].delayed_until is not None
    assert await stalls_at(driver, "a") == verdict[0].delayed_until + timedelta(seconds=60)


async def test_a_state_that_is_put_twice_in_a_batch_has_the_rules_of_the_last(
    driver: PostgresDriver,
) -> None:
    (first,) = new("a", retry_after=60)
    rules = FrozenDict({RETRY_AFTER: "3600"})
    second = State("a", 1, annotations=rules, transition=WORK)
    never = State("b", 0)
    writes = [Writes(secrets.token_hex(16), (state,)) for state in (first, second, never)]
    verdicts = await commit(driver, *writes)
    assert isinstance(verdicts[1], tuple)
    (state,) = verdicts[1]
    assert state.committed_at is not None
    assert await stalls_at(driver, "a") == state.committed_at + timedelta(hours=1)
    assert (await liveness_of(driver, "b")).stalls_at is None
