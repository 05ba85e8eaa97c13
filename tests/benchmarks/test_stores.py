"""What benchmarks measure on: stores that are filled fast hold what commits would have written."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, closing
from typing import Any

import psycopg
import pytest
from msgspec.structs import replace
from psycopg.sql import SQL, Identifier
from redis import Redis

from benchmarks.flows import registry
from benchmarks.setting import Setting
from benchmarks.stores.engines import Engines
from benchmarks.stores.filling import GROUPS, KINDS, commit_all, writes
from benchmarks.stores.store import Address
from flowstate import Commit, Driver, End, Engine, State, StateContext, Status, Transit
from flowstate.driver import DueQuery, Heartbeat, StateQuery
from flowstate.ground.frozen import FrozenDict
from flowstate.ground.limits import MAX_REV
from flowstate.recovery_rules import SHORTEST
from tests.benchmarks.support import SHARED, STORES, engines_on
from tests.redis.support import check_keys
from tests.redis_servers import GivenRedis

pytestmark = [pytest.mark.repository]

# More than what is written at once, and than it takes until groups and kinds come again.
STATES = 2_130
SCRIPTS = ("eval", "evalsha")
# Postgres tells other processes now and then.
STATEMENTS_OF_THREE_BATCHES = {
    "sqlite": range(18, 40),
    "postgres": range(3, 7),
    "redis": range(3, 4),
}
ROWS = {
    "sqlite": (
        """SELECT log.rev, log.id, previous, log.status, delayed_until, token, body, latest.rev,
        latest.status, latest.labels, flow, beat_at, note,
        due - CASE WHEN due > 0 THEN coalesce(delayed_until, committed_at) ELSE 0 END
        FROM log LEFT JOIN latest USING (id) ORDER BY log.rev""",
        "SELECT * FROM label ORDER BY key, value, rev",
        "SELECT * FROM latest_label ORDER BY key, value, rev",
        "SELECT * FROM delay ORDER BY id",
    ),
    "postgres": (
        """SELECT log.rev, log.id, previous, log.status, delayed_until, token, body::text,
        latest.rev, latest.status, labelled, delayed, stalls_after,
        stalls_at - coalesce(delayed_until, committed_at), beat_at, note
        FROM {0}.log LEFT JOIN {0}.latest USING (id) ORDER BY log.rev""",
        "SELECT * FROM {0}.label ORDER BY key, value, rev",
        "SELECT * FROM {0}.latest_label ORDER BY key, value, rev",
        "SELECT id, state_id, rev, due, body::text FROM {0}.delay ORDER BY id",
    ),
}


async def filled_twice(engines: Engines, stack: AsyncExitStack) -> tuple[Driver, Driver]:
    """Return one store that was filled fast, and one whose states were committed."""
    fast, slow = (engines.store.driver(place) for place in ("fast", "slow"))
    await stack.enter_async_context(fast)
    await stack.enter_async_context(slow)
    await engines.store.fill("fast", STATES)
    await commit_all(slow, map(writes, range(STATES)))
    return fast, slow


async def everything(driver: Driver, **filters: Any) -> list[State]:
    """Return all revisions, without the time of their commit, page by page."""
    found: list[State] = []
    query = StateQuery(limit=500, **filters)
    while True:
        page = await driver.get_states(query)
        found += [replace(state, committed_at=None) for state in page.states]
        if not page.more:
            return found
        query = replace(query, after=page.scanned_to)


async def head_of(driver: Driver) -> int:
    return (await driver.get_states(StateQuery(after=MAX_REV, limit=1))).head


async def delays(driver: Driver) -> list[Any]:
    page = await driver.get_due(DueQuery("delay", everything=True, limit=STATES))
    assert not page.more
    assert not page.damaged
    return [replace(delay, state=replace(delay.state, committed_at=None)) for delay in page.due]


async def liveness(driver: Driver, number: int) -> list[Any]:
    """Return all that is known of a state, and after what it stalls."""
    (found,) = await driver.get_liveness([f"s{number}"])
    state = await driver.get_state(f"s{number}")
    assert found is not None
    assert state is not None
    assert state.committed_at is not None
    start = state.delayed_until or state.committed_at
    after = None if found.stalls_at is None else found.stalls_at - start
    return [found.rev, after, found.beat_at, found.note, found.delay_due]


async def stalled(driver: Driver) -> list[State]:
    found: list[State] = []
    query = DueQuery("stall", limit=500)
    while True:
        page = await driver.get_due(query)
        found += [replace(each.state, committed_at=None) for each in page.due]
        if not page.more:
            return sorted(found, key=lambda state: state.rev)
        query = replace(query, after=page.end)


async def assert_alike(
    one: Driver, other: Driver, read: Callable[..., Awaitable[Any]], *about: Any, **filters: Any
) -> Any:
    """Compare what is read from both stores, and return it."""
    found = await read(one, *about, **filters)
    assert found == await read(other, *about, **filters)
    return found


async def assert_same_states(fast: Driver, slow: Driver) -> None:
    assert await head_of(fast) == await head_of(slow)
    assert await assert_alike(fast, slow, everything)
    for labels in (FrozenDict({"group": str(group)}) for group in (0, 7, GROUPS - 1)):
        for filters in ({}, {"latest_only": True}, {"status": Status.PAUSED}):
            assert await assert_alike(fast, slow, everything, labels=(labels,), **filters)
    for status in Status:
        assert await assert_alike(fast, slow, everything, status=status, latest_only=True)
    assert await assert_alike(fast, slow, delays)


@pytest.mark.parametrize("name", STORES)
async def test_what_is_filled_fast_reads_as_what_is_committed(setting: Setting, name: str) -> None:
    async with AsyncExitStack() as stack:
        fast, slow = await filled_twice(engines_on(setting, name), stack)
        await assert_same_states(fast, slow)
        assert len(await everything(fast, latest_only=True)) == STATES
        assert len(await delays(fast)) == STATES // len(KINDS)
        for number in range(len(KINDS)):
            await assert_alike(fast, slow, liveness, number)
        times = [state.committed_at for state in (await fast.get_states(StateQuery())).states]
        assert times == sorted(times)  # type: ignore[type-var]
        assert await stalled(fast) == []


@pytest.mark.parametrize("name", STORES)
async def test_what_is_filled_fast_goes_on_as_what_is_committed(
    setting: Setting, name: str
) -> None:
    """Labels and delays of the old revisions go, and what stands still for too long stalls."""
    async with AsyncExitStack() as stack:
        stores = await filled_twice(engines_on(setting, name), stack)
        for driver in stores:
            async with Engine(driver, registry()) as engine:
                for number in range(3 * len(KINDS)):
                    ctx = StateContext(await engine.get_state(f"s{number}"))
                    await engine.do(Commit(Transit(ctx, "first") if number % 2 else End(ctx)))
            beats = [Heartbeat(f"s{n}", n + 1, SHORTEST, "x") for n in range(100, 130)]
            assert all(await driver.beat(beats))
        await assert_same_states(*stores)
        found: list[State] = []
        while len(found) < 6:  # reason: the stores tell the time themselves
            found = await assert_alike(*stores, stalled) if found else await stalled(stores[1])
        assert [state.id for state in found] == [f"s{n}" for n in (100, 101, 110, 111, 120, 121)]


def rows_of(address: Address) -> list[list[Any]]:
    if address.store == "sqlite":
        with closing(sqlite3.connect(address.where)) as file:
            return [file.execute(query).fetchall() for query in ROWS["sqlite"]]
    with psycopg.connect(address.where) as connection:
        schema = Identifier(address.name)
        return [
            connection.execute(SQL(query).format(schema)).fetchall() for query in ROWS["postgres"]
        ]


@pytest.mark.parametrize("name", ["sqlite", "postgres"])
async def test_filling_writes_the_very_rows(setting: Setting, name: str) -> None:
    engines = engines_on(setting, name)
    async with AsyncExitStack() as stack:
        await filled_twice(engines, stack)
        fast, slow = (rows_of(engines.store.address(place)) for place in ("fast", "slow"))
    assert fast == slow
    assert [len(rows) for rows in fast] == [STATES, STATES, STATES, STATES // len(KINDS)]


async def test_filling_redis_writes_keys_that_agree(setting: Setting) -> None:
    store = engines_on(setting, "redis").store
    async with store.driver("fast"):
        await store.fill("fast", STATES)
    address = store.address("fast")
    check_keys(GivenRedis(address.where), address.name)


@pytest.mark.parametrize("name", SHARED)
async def test_every_statement_of_a_driver_is_counted(setting: Setting, name: str) -> None:
    """But none of those that ran before, in the background."""
    store = engines_on(setting, name).store
    async with store.driver("counted") as other:
        reading = asyncio.create_task(read_on(other))
        with store.counting() as counter:
            async with store.driver("counted") as driver:
                await head_of(driver)
                before = counter.count
                for _ in range(7):
                    await driver.get_state("nothing")
                assert counter.count - before == 7
                await commit_all(driver, map(writes, range(30)), size=10)
                counted = counter.count - before - 7
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert counted in STATEMENTS_OF_THREE_BATCHES[name]


async def read_on(driver: Driver) -> None:
    while True:
        await driver.get_state("nothing")


async def test_the_count_is_what_redis_has_received(setting: Setting) -> None:
    store = engines_on(setting, "redis").store
    with store.counting() as counter, Redis.from_url(store.address("told").where) as client:
        async with store.driver("told") as driver:
            await head_of(driver)

            def received() -> int:
                found: Any = client.info("commandstats")
                return sum(found.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in SCRIPTS)

            counted, told = counter.count, received()
            await commit_all(driver, map(writes, range(500)), size=25)
            # One whose script the server does not know yet is sent twice.
            assert counter.count - counted == received() - told >= 20
