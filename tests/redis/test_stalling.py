"""What stalls on Redis: batches, many at the same time, times far away, and what it costs."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from flowstate import Clock, State, Status
from flowstate.driver import Heartbeat, Liveness, NewDelay, StalledQuery, Writes
from flowstate.drivers.redis import RedisDriver
from flowstate.frozen import FrozenDict
from flowstate.stalling import RETRY_AFTER, WAIT
from flowstate.state import Transition
from flowstate.testcases import Capabilities, Case, run, stalling
from tests.redis.support import check_keys
from tests.redis_servers import RedisLike, RedisServer
from tests.support import commit_one

CAPABILITIES = Capabilities(shared=True, durable=True, fake_clock=False, any_loop=False)
LAST = datetime.max.replace(tzinfo=UTC)
ROUNDING = timedelta(microseconds=32)
AT_ONCE = 0.001


@pytest.fixture
async def driver(redis_server: RedisLike, redis_namespace: str) -> AsyncIterator[RedisDriver]:
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
        yield driver


def active(id: str, rev: int = 0, seconds: float = AT_ONCE) -> State:
    retry_after = FrozenDict({RETRY_AFTER: f"{seconds}"})
    return State(id, rev, annotations=retry_after, transition=Transition("next"))


def ended(id: str, rev: int) -> State:
    return State(id, rev, status=Status.ENDED)


def writes(*states: State) -> Writes:
    return Writes(secrets.token_hex(), states)


def delay_of(state: State, due: datetime) -> Writes:
    delay = NewDelay(state, "next", FrozenDict(), due, None, commit=True)
    return Writes(secrets.token_hex(), delays=(delay,))


async def liveness(driver: RedisDriver, id: str) -> Liveness:
    found = await driver.get_liveness(id)
    assert found is not None
    return found


async def stalls_at(driver: RedisDriver, id: str) -> datetime:
    found = (await liveness(driver, id)).stalls_at
    assert found is not None
    return found


async def ids_in_pages(driver: RedisDriver, limit: int, *, move_on: bool = False) -> list[str]:
    """Return what stalls, page by page; with ``move_on`` none of a page is there any more."""
    query, found = StalledQuery(limit=limit), list[str]()
    while True:
        page = await driver.get_stalled(query)
        assert len(page.states) <= limit
        found += [state.id for state in page.states]
        if move_on and page.states:
            await commit_one(driver, writes(*(ended(s.id, s.rev) for s in page.states)))
        if not page.more:
            return found
        query = StalledQuery(page.end, limit)


async def test_only_the_last_put_of_a_batch_counts(
    redis_server: RedisLike, redis_namespace: str, driver: RedisDriver
) -> None:
    batch = [
        writes(active("ends")),
        writes(active("slows down")),
        writes(active("hurries", seconds=3600)),
        writes(ended("ends", 1)),
        writes(active("slows down", 2, 3600)),
        writes(active("hurries", 3)),
        writes(active("refused", 7)),
    ]
    verdicts = await driver.commit(batch)
    assert [isinstance(verdict, tuple) for verdict in verdicts] == [True] * 6 + [False]
    await asyncio.sleep(2 * AT_ONCE)  # reason: the server's clock is to pass it
    assert await ids_in_pages(driver, 100) == ["hurries"]
    assert (await liveness(driver, "ends")).stalls_at is None
    assert await driver.get_liveness("refused") is None
    check_keys(redis_server, redis_namespace)


async def test_more_states_in_a_batch_than_a_call_takes(driver: RedisDriver) -> None:
    """Lua cannot take as many arguments as a batch may have states."""
    ids = [[f"{number}-{place:03}" for place in range(128)] for number in range(64)]
    await driver.commit([writes(*map(active, some)) for some in ids])
    await asyncio.sleep(2 * AT_ONCE)  # reason: the server's clock is to pass it
    flat = [id for some in ids for id in some]
    beats = [Heartbeat(id, rev, None, "") for rev, id in enumerate(flat, 1)]
    assert set(await driver.beat(beats)) == {True}
    assert await ids_in_pages(driver, 1_000) == sorted(flat)
    verdicts = await driver.commit([writes(*map(ended_at, some)) for some in numbered(ids)])
    assert all(isinstance(verdict, tuple) for verdict in verdicts)
    assert await ids_in_pages(driver, 1_000) == []


def numbered(ids: list[list[str]]) -> list[list[tuple[str, int]]]:
    return [
        [(id, 128 * number + place) for place, id in enumerate(some, 1)]
        for number, some in enumerate(ids)
    ]


def ended_at(place: tuple[str, int]) -> State:
    return ended(*place)


@pytest.mark.parametrize("move_on", [False, True])
@pytest.mark.parametrize("limit", [1, 7, 128])
async def test_many_at_the_same_time(driver: RedisDriver, limit: int, *, move_on: bool) -> None:
    ids = [f"{start}{number}" for number in range(40) for start in ("", "é", "\U0001f600", "a\n")]
    ids += ["é", "e", "E", "eé", "\uffff"]
    await driver.commit([writes(*map(active, ids[:90])), writes(*map(active, ids[90:]))])
    assert len({await stalls_at(driver, id) for id in ids}) == 1
    await asyncio.sleep(2 * AT_ONCE)  # reason: the server's clock is to pass it
    assert await ids_in_pages(driver, limit, move_on=move_on) == sorted(ids)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize(
    "case",
    [stalling.stalled_first_in_front, stalling.heartbeat_postpones],
    ids=lambda case: case.name,
)
async def test_clients_of_every_kind(
    redis_server: RedisLike,
    redis_namespace: str,
    case: Case,
    protocol: int,
    *,
    decode: bool,
) -> None:
    url = redis_server.url()
    async with AsyncRedis.from_url(url, decode_responses=decode, protocol=protocol) as client:

        def make(clock: Clock) -> RedisDriver:
            return RedisDriver(client, namespace=redis_namespace)

        await run(case, make, CAPABILITIES)


async def test_times_that_a_double_cannot_hold(driver: RedisDriver) -> None:
    """They are rounded, keep their order, and pages go on after them."""
    long = 365_000 * 86_400.0
    (state,) = await commit_one(driver, writes(active("late", seconds=long)))
    assert state.committed_at is not None
    expected = state.committed_at + timedelta(seconds=long)
    assert abs(await stalls_at(driver, "late") - expected) < ROUNDING
    for due in (datetime(2300, 1, 1, tzinfo=UTC), LAST):
        (waits,) = await commit_one(driver, writes(active(f"{due}")))
        await commit_one(driver, delay_of(waits, due))
        expected = min(due, LAST - timedelta(seconds=AT_ONCE)) + timedelta(seconds=AT_ONCE)
        assert abs(await stalls_at(driver, f"{due}") - expected) < ROUNDING
    await driver.beat([Heartbeat("late", 1, 253_000_000_000.0, "")])
    last = await stalls_at(driver, "late")
    assert LAST - last < ROUNDING
    page = await driver.get_stalled(StalledQuery((last, "late")))
    assert (list(page.states), page.more, page.next_at, page.end) == ([], False, None, None)
    page = await driver.get_stalled(StalledQuery((last, f"{LAST}")))
    assert page.next_at == last


async def test_a_delay_of_long_ago(driver: RedisDriver) -> None:
    """Before 1970, as the first time that there is."""
    state = active("old", seconds=60)
    due = datetime.min.replace(tzinfo=UTC)
    delay = NewDelay(state, "next", FrozenDict(), due, None, commit=True, put=0)
    await commit_one(driver, Writes("t", (state,), delays=(delay,)))
    assert await stalls_at(driver, "old") == due + timedelta(seconds=60)
    page = await driver.get_stalled(StalledQuery())
    assert page.end == (due + timedelta(seconds=60), "old")
    assert [state.id for state in page.states] == ["old"]


async def test_the_earliest_delay_counts(driver: RedisDriver) -> None:
    state = active("a", seconds=60)
    dues = [datetime(2100, 1, day, tzinfo=UTC) for day in (3, 2, 4)]
    delays = [NewDelay(state, "next", FrozenDict(), due, None, commit=True, put=0) for due in dues]
    await commit_one(driver, Writes("t", (state,), delays=tuple(delays)))
    assert await stalls_at(driver, "a") == dues[1] + timedelta(seconds=60)


@pytest.mark.parametrize("copy", [State("a", 1), active("a", 1, 7200), ended("a", 1)])
async def test_the_stored_rules_count_for_a_delay(driver: RedisDriver, copy: State) -> None:
    """The state of the delay is a working copy, which may have been changed."""
    stored = replace(active("a", seconds=60), transition=Transition("x", FrozenDict({WAIT: "90"})))
    await commit_one(driver, writes(stored))
    due = datetime(2100, 1, 1, tzinfo=UTC)
    await commit_one(driver, delay_of(copy, due))
    assert await stalls_at(driver, "a") == due + timedelta(seconds=90)
    await commit_one(driver, delay_of(copy, due - timedelta(days=1)))
    assert await stalls_at(driver, "a") == due + timedelta(seconds=90)


async def test_delays_that_move_nothing(
    redis_server: RedisLike, redis_namespace: str, driver: RedisDriver
) -> None:
    due = datetime(2100, 1, 1, tzinfo=UTC)
    await commit_one(driver, writes(active("a", seconds=60)))
    await commit_one(driver, writes(ended("held", 0)))
    await driver.commit([delay_of(active("a", 1), due), writes(active("a", 1, 60))])
    await driver.commit([delay_of(active("a", 1), due), delay_of(active("held", 2), due)])
    await commit_one(driver, delay_of(active("nobody", 1), due))
    assert await stalls_at(driver, "a") < due
    assert (await liveness(driver, "held")).stalls_at is None
    assert await driver.get_liveness("nobody") is None
    check_keys(redis_server, redis_namespace)


async def test_nothing_is_left_of_what_is_over(
    redis_server: RedisLike, redis_namespace: str, driver: RedisDriver
) -> None:
    await commit_one(driver, writes(active("a"), active("b"), active("c")))
    await driver.beat([Heartbeat(id, rev, 1.0, "x") for rev, id in enumerate("abc", 1)])
    check_keys(redis_server, redis_namespace)
    await commit_one(driver, writes(ended("a", 1), active("b", 2)))
    check_keys(redis_server, redis_namespace)
    await driver.compact(10)
    with Redis.from_url(redis_server.url(), decode_responses=True) as client:
        assert client.hkeys(f"{{{redis_namespace}}}:beats") == ["c"]
        assert client.zrange(f"{{{redis_namespace}}}:stalls", 0, -1) == ["b", "c"]
    await commit_one(driver, writes(ended("b", 5), ended("c", 3)))
    with Redis.from_url(redis_server.url()) as client:
        assert not client.exists(*(f"{{{redis_namespace}}}:{key}" for key in ("beats", "stalls")))


def fill(client: "Redis", key: str, start: int, stop: int, score: float) -> None:
    """Let states that nobody looks at stall."""
    for first in range(start, stop, 10_000):
        members = range(first, min(first + 10_000, stop))
        client.zadd(key, {f"x{number:07}": score for number in members})


async def fastest(driver: RedisDriver, queries: Sequence[StalledQuery]) -> float:
    """Return the seconds for a page; the least of many, since others use this machine too."""
    took = []
    for _ in range(40):
        started = time.perf_counter()
        for query in queries:
            page = await driver.get_stalled(query)
            assert len(page.damaged) <= query.limit
        took.append(time.perf_counter() - started)
    return min(took)


async def test_a_page_costs_the_same_however_many_are_active() -> None:
    """Also from the middle of those that stall at one time; a scan would take 100 times as long."""
    one_time = datetime(1970, 1, 2, tzinfo=UTC)
    took = []
    with RedisServer() as server, server.client() as client:
        async with RedisDriver(server.url()) as driver:
            for start, stop in ((0, 1_000), (1_000, 100_000)):
                fill(client, "{flowstate}:stalls", start, stop, 86_400e6)
                fill(client, "{flowstate}:stalls", start + 1_000_000, stop + 1_000_000, 9e15)
                places = [None, (one_time, f"x{stop // 2:07}"), (one_time, "y"), (LAST, "")]
                took.append(await fastest(driver, [StalledQuery(place, 3) for place in places]))
    assert took[1] < 8 * took[0]
