"""Timers on Redis: every key after every kind of commit, and heads that cannot be read."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import msgpack
from redis import Redis

from flowstate import ClaimLostError, State, Status
from flowstate.driver import Claim, Drop, DueQuery, NewDelay, NewTimer, Writes
from flowstate.drivers.redis import RedisDriver
from flowstate.ground.frozen import EMPTY
from flowstate.state import Transition
from flowstate.testcases.support import encoded, timer
from tests.redis.support import check_keys
from tests.redis_servers import RedisLike
from tests.support import commit_one

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
DIGITS = "063082281600000000"
HOUR = timedelta(hours=1)
ALL = DueQuery("delay", everything=True)
HEADS = [
    b"",
    b"\xc1",
    b'{"v":1,"id":"\xff"}',
    msgpack.encode([-1, [], None]),
    msgpack.encode([DIGITS, "a", -2, "work", "", []]),
    msgpack.encode([DIGITS, "a", -0.5, "work", "", []]),
]


@pytest.fixture
async def driver(redis_server: RedisLike, redis_namespace: str) -> AsyncIterator[RedisDriver]:
    """Of a store whose keys are looked at in the end."""
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
        yield driver
        check_keys(redis_server, redis_namespace)


@pytest.fixture
def client(redis_server: RedisLike) -> Iterator["Redis"]:
    with Redis.from_url(redis_server.url()) as client:
        yield client


async def put(driver: RedisDriver, state: State, *timers: NewTimer, **writes: Any) -> State:
    token = f"put-{state.id}-{state.rev}"
    (committed,) = await commit_one(driver, Writes(token, (state,), timers=timers, **writes))
    return committed


async def ids(driver: RedisDriver) -> list[str]:
    return [each.id for each in (await driver.get_due(ALL)).due]


def working(id: str, rev: int = 0) -> State:
    return State(id, rev, transition=Transition("next"))


async def test_the_keys_of_a_life(
    driver: RedisDriver, redis_server: RedisLike, redis_namespace: str
) -> None:
    state = await put(driver, working("a"), timer("t", HOUR), timer("u", LONG_AGO, to="other"))
    check_keys(redis_server, redis_namespace)
    await commit_one(driver, Writes("claim", claims=(Claim("u", "holder", 60.0),)))
    check_keys(redis_server, redis_namespace)
    delay = NewDelay(state, "next", EMPTY, None, HOUR, commit=True, body="", put=0)
    state = await put(driver, state, timer("t", LONG_AGO, to="other"), delays=(delay,))
    check_keys(redis_server, redis_namespace)
    assert await ids(driver) == ["t", "u", "put-a-1.0"]
    state = await put(driver, state, drops=(Drop("u", "holder"), Drop("t", "another")))
    assert await ids(driver) == ["t"]
    last = State("a", state.rev, status=Status.ENDED)
    await put(driver, last, drops=(Drop("t", ""),), forgets=(0,))
    assert await ids(driver) == []


async def test_a_batch_that_sets_and_drops(driver: RedisDriver) -> None:
    """Each commit sees what the ones before it have made of a timer."""
    state = await put(driver, working("a"), timer("t", LONG_AGO), timer("u", HOUR))
    batch = [
        Writes("1", claims=(Claim("t", "one", 60.0),)),
        Writes("2", drops=(Drop("t", "one"), Drop("u", ""))),
        Writes("3", claims=(Claim("t", "one", 60.0),)),
        Writes("4", (state,), timers=(timer("t", HOUR, to="x"),)),
        Writes("5", drops=(Drop("t", "one"),)),
        Writes("6", drops=(Drop("t", ""),)),
        Writes("7", (working("b"),), timers=(timer("v", LONG_AGO),)),
        Writes("8", claims=(Claim("v", "two", 60.0),)),
        Writes("9", (working("b", 3),), timers=(timer("w", HOUR),)),
    ]
    verdicts = await driver.commit([*map(encoded, batch)])
    lost = [type(verdict) is ClaimLostError for verdict in verdicts]
    assert lost == [n == 3 for n in range(1, 10)]
    assert sorted(await ids(driver)) == ["v", "w"]


@pytest.mark.parametrize("ends", ["set again", "dropped", "dropped with another put"])
@pytest.mark.parametrize("head", HEADS, ids=repr)
async def test_a_damaged_head(
    driver: RedisDriver, client: "Redis", redis_namespace: str, head: bytes, ends: str
) -> None:
    """It is named, and gone when its state sets the timer again, or drops it."""
    state = await put(driver, working("a"), timer("s", LONG_AGO), timer("t", LONG_AGO, to="old"))
    other = await put(driver, working("b"), timer("u", LONG_AGO))
    client.hset(f"{{{redis_namespace}}}:delay_heads", "t", head)
    page = await driver.get_due(DueQuery("delay", flows=("old", "work")))
    assert [each.id for each in page.due] == ["s", "u"]
    assert [(bad.id, bad.due) for bad in page.damaged] == [("t", LONG_AGO)]
    with pytest.raises(ClaimLostError):
        await commit_one(driver, Writes("claim", claims=(Claim("t", "one", 60.0),)))
    await put(driver, other, drops=(Drop("t", ""),))
    state = await put(driver, state)
    assert len((await driver.get_due(ALL)).damaged) == 1
    if ends == "set again":
        await put(driver, state, timer("t", HOUR, to="new"))
    else:
        drops = (Drop("nothing", ""), Drop("t", "" if ends == "dropped" else "one"))
        await commit_one(driver, Writes("drop", (working("z"), state), drops=drops))
    page = await driver.get_due(ALL)
    left = ["s", "u", "t"] if ends == "set again" else ["s", "u"]
    assert ([each.id for each in page.due], list(page.damaged)) == (left, [])


async def test_a_damaged_head_in_a_batch(
    driver: RedisDriver, client: "Redis", redis_namespace: str
) -> None:
    """Once it is set again it is a timer like any other, also for the rest of the batch."""
    state = await put(driver, working("a"), timer("t", LONG_AGO), timer("u", LONG_AGO))
    for id in ("t", "u"):
        client.hset(f"{{{redis_namespace}}}:delay_heads", id, b"")
    drop = (Drop("t", "one"), Drop("u", "one"))
    batch = [
        Writes("1", (state,), timers=(timer("t", HOUR),), drops=(Drop("u", ""),)),
        Writes("2", (working("a", 2),), drops=drop),
        Writes("3", (working("a", 3),), timers=(timer("u", HOUR),)),
        Writes("4", (working("a", 4),), drops=drop),
    ]
    verdicts = await driver.commit([*map(encoded, batch)])
    assert all(isinstance(verdict, tuple) for verdict in verdicts)
    page = await driver.get_due(ALL)
    assert ([each.id for each in page.due], list(page.damaged)) == (["t", "u"], [])


async def test_a_state_without_a_latest_revision(
    driver: RedisDriver, client: "Redis", redis_namespace: str
) -> None:
    """A timer that was left behind shows a state without a revision; damage shows as damage."""
    state = await put(driver, working("a"), timer("t", LONG_AGO))
    await put(driver, State("a", state.rev, status=Status.ENDED), forgets=(0,))
    (found,) = (await driver.get_due(ALL)).due
    assert (found.state, found.timer) == (State("a"), "alarm")
    again = await put(driver, working("a"))
    (found,) = (await driver.get_due(ALL)).due
    assert found.state == again
    latest = f"{{{redis_namespace}}}:latest"
    stored: Any = client.hget(latest, "a")
    client.hset(latest, "a", "nonsense")
    page = await driver.get_due(ALL)
    assert ([bad.id for bad in page.damaged], list(page.due)) == (["t"], [])
    client.hset(latest, "a", stored)


async def test_puts_of_states_without_timers_read_none(
    driver: RedisDriver, client: "Redis"
) -> None:
    """Nor do puts of those with timers, as long as they set and drop none."""

    async def commands(*states: State) -> dict[str, int]:
        client.config_resetstat()
        await driver.commit([encoded(Writes(f"{s.id}-{s.rev}", (s,))) for s in states])
        stats: Any = client.info("commandstats")
        return {name: each["calls"] for name, each in stats.items() if "config" not in name}

    plain = await put(driver, working("plain"))
    held = await put(driver, working("held"), *(timer(f"t{n}", HOUR) for n in range(64)))
    first = await commands(working("plain", plain.rev))
    second = await commands(working("held", held.rev))
    assert first == second
    assert "cmdstat_zrange" in first
