"""What is due on Redis: batches, many at the same time, times far away, and what it costs."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace
from redis import Redis

from flowstate import ClaimLostError, State, Status
from flowstate.driver import (
    Claim,
    Drop,
    DueKind,
    DueQuery,
    Heartbeat,
    NewDelay,
    StateQuery,
    Writes,
)
from flowstate.drivers.redis import RedisDriver
from flowstate.ground.frozen import FrozenDict
from flowstate.recovery_rules import RETRY_AFTER, WAIT
from flowstate.state import Transition
from flowstate.testcases.support import encoded
from tests.redis.support import check_keys, liveness_of
from tests.redis_servers import RedisLike, RedisServer
from tests.support import commit_one

LAST = datetime.max.replace(tzinfo=UTC)
AT_ONCE = 0.001
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture
async def driver(redis_server: RedisLike, redis_namespace: str) -> AsyncIterator[RedisDriver]:
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
        yield driver


def active(id: str, rev: int = 0, seconds: float = AT_ONCE, to: str = "next") -> State:
    retry_after = FrozenDict({RETRY_AFTER: f"{seconds}"})
    return State(id, rev, annotations=retry_after, transition=Transition(to))


def ended(id: str, rev: int) -> State:
    return State(id, rev, status=Status.ENDED)


def writes(*states: State) -> Writes:
    return encoded(Writes(secrets.token_hex(), states))


def delays_of(state: State, *dues: datetime, to: str = "next", put: int | None = None) -> Writes:
    delays = [
        NewDelay(state, to, FrozenDict(), due, None, commit=True, body="", put=put) for due in dues
    ]
    puts = () if put is None else (state,)
    return encoded(Writes(secrets.token_hex(), puts, delays=tuple(delays)))


async def stalls_at(driver: RedisDriver, id: str) -> datetime:
    found = (await liveness_of(driver, id)).stalls_at
    assert found is not None
    return found


async def ids_in_pages(driver: RedisDriver, limit: int, *, move_on: bool = False) -> list[str]:
    """Return what stalls, page by page; with ``move_on`` none of a page is there any more."""
    query, found = DueQuery("stall", limit=limit), list[str]()
    while True:
        page = await driver.get_due(query)
        assert len(page.due) <= limit
        found += [each.id for each in page.due]
        if move_on and page.due:
            await commit_one(driver, writes(*(ended(d.id, d.state.rev) for d in page.due)))
        if not page.more:
            return found
        query = replace(query, after=page.end)


async def test_only_the_last_put_of_a_batch_counts(
    redis_server: RedisLike, redis_namespace: str, driver: RedisDriver
) -> None:
    batch = [
        writes(active("ends")),
        writes(active("slows down")),
        writes(active("hurries", seconds=3600)),
        writes(active("moves", to="first")),
        writes(ended("ends", 1)),
        writes(active("slows down", 2, 3600)),
        writes(active("hurries", 3)),
        writes(active("moves", 4, to="second")),
        writes(active("refused", 7)),
    ]
    verdicts = await driver.commit(batch)
    assert [isinstance(verdict, tuple) for verdict in verdicts] == [True] * 8 + [False]
    await asyncio.sleep(2 * AT_ONCE)  # reason: the server's clock is to pass it
    assert await ids_in_pages(driver, 100) == ["hurries", "moves"]
    page = await driver.get_due(DueQuery("stall", flows=("first", "second"), others=True))
    assert [(each.id, each.to) for each in page.due] == [("moves", "second")]
    assert list(page.others) == ["next"]
    assert (await liveness_of(driver, "ends")).stalls_at is None
    assert await driver.get_liveness(["refused"]) == [None]
    check_keys(redis_server, redis_namespace)


async def test_claims_and_drops_of_a_batch_see_what_came_before(
    redis_server: RedisLike, redis_namespace: str, driver: RedisDriver
) -> None:
    first, second = (
        delays_of(active("a"), LONG_AGO, LONG_AGO, put=0),
        delays_of(active("b"), LONG_AGO, put=0),
    )
    await driver.commit([first, second])
    ids = [f"{first.token}.0", f"{first.token}.1", f"{second.token}.0"]
    verdicts = await driver.commit(
        [
            Writes("1", claims=(Claim(ids[0], "one", 60.0),)),
            Writes("2", claims=(Claim(ids[0], "other", 60.0), Claim(ids[1], "other", 60.0))),
            Writes("3", claims=(Claim(ids[1], "other", 60.0),), drops=(Drop(ids[1], "other"),)),
            Writes("4", claims=(Claim(ids[1], "one", 60.0),)),
            writes(active("b", 2)),
            Writes("6", claims=(Claim(ids[2], "one", 60.0),), drops=(Drop(ids[0], "other"),)),
            Writes("7", drops=(Drop(ids[2], ""), Drop(ids[0], "other"))),
        ]
    )
    refused = [i for i, verdict in enumerate(verdicts, 1) if isinstance(verdict, ClaimLostError)]
    assert refused == [2, 4, 6]
    page = await driver.get_due(DueQuery("delay", everything=True))
    assert [each.id for each in page.due] == [ids[0]]
    check_keys(redis_server, redis_namespace)


async def test_more_states_in_a_batch_than_a_call_takes(driver: RedisDriver) -> None:
    """Lua cannot take as many arguments as a batch may have states."""
    ids = [[f"{number}-{place:03}" for place in range(128)] for number in range(64)]
    await driver.commit([writes(*map(active, some)) for some in ids])
    await asyncio.sleep(2 * AT_ONCE)  # reason: the server's clock is to pass that time
    flat = [id for some in ids for id in some]
    beats = [Heartbeat(id, rev, None, "") for rev, id in enumerate(flat, 1)]
    assert set(await driver.beat(beats)) == {True}
    assert len(await driver.get_liveness(flat)) == len(flat)
    assert await ids_in_pages(driver, 1_000) == sorted(flat)
    revs = {id: rev for rev, id in enumerate(flat, 1)}
    batch = [writes(*(ended(id, revs[id]) for id in some)) for some in ids]
    assert all(isinstance(verdict, tuple) for verdict in await driver.commit(batch))
    assert await ids_in_pages(driver, 1_000) == []


@pytest.mark.parametrize("move_on", [False, True])
@pytest.mark.parametrize("limit", [1, 7, 128])
async def test_many_at_the_same_time(driver: RedisDriver, limit: int, *, move_on: bool) -> None:
    """In the order of their ids, across flows."""
    ids = [f"{start}{number}" for number in range(40) for start in ("", "é", "\U0001f600", "a\n")]
    ids += ["é", "e", "E", "eé", "\uffff"]
    states = [active(id, to="xyz"[place % 3]) for place, id in enumerate(ids)]
    await driver.commit([writes(*states[:90]), writes(*states[90:])])
    assert len({await stalls_at(driver, id) for id in ids}) == 1
    await asyncio.sleep(2 * AT_ONCE)  # reason: the server's clock is to pass it
    assert await ids_in_pages(driver, limit, move_on=move_on) == sorted(ids)


async def test_times_at_both_ends(driver: RedisDriver) -> None:
    """Every microsecond from the year 1 to the end of the year 9999, and nothing later."""
    first = datetime.min.replace(tzinfo=UTC)
    odd = datetime(2300, 1, 1, 0, 0, 0, 123_457, tzinfo=UTC)
    for due in (first, odd, LAST):
        await commit_one(driver, delays_of(active(f"{due}"), due, put=0))
        expected = min(due, LAST - timedelta(seconds=AT_ONCE)) + timedelta(seconds=AT_ONCE)
        assert await stalls_at(driver, f"{due}") == expected
    await driver.beat([Heartbeat(f"{odd}", 2, 253_000_000_000.0, "")])
    assert await stalls_at(driver, f"{odd}") == LAST
    page = await driver.get_due(DueQuery("stall", after=(LAST, "")))
    assert (page.more, page.next_at) == (False, LAST)
    page = await driver.get_due(DueQuery("delay", everything=True))
    assert [each.due for each in page.due] == [first, odd, LAST]


@pytest.mark.parametrize("copy", [State("a", 1), active("a", 1, 7200), ended("a", 1)])
async def test_the_stored_rules_count_for_a_delay(driver: RedisDriver, copy: State) -> None:
    """The state of the delay is a working copy, which may have been changed."""
    stored = replace(active("a", seconds=60), transition=Transition("x", FrozenDict({WAIT: "90"})))
    await commit_one(driver, writes(stored))
    due = datetime(2100, 1, 1, tzinfo=UTC)
    await commit_one(driver, delays_of(copy, due))
    assert await stalls_at(driver, "a") == due + timedelta(seconds=90)
    await commit_one(driver, delays_of(copy, due - timedelta(days=1)))
    assert await stalls_at(driver, "a") == due + timedelta(seconds=90)


async def test_delays_that_move_nothing(
    redis_server: RedisLike, redis_namespace: str, driver: RedisDriver
) -> None:
    due = datetime(2100, 1, 1, tzinfo=UTC)
    await commit_one(driver, writes(active("a", seconds=60)))
    await commit_one(driver, writes(ended("held", 0)))
    await driver.commit([delays_of(active("a", 1), due), writes(active("a", 1, 60))])
    await driver.commit([delays_of(active("a", 1), due), delays_of(active("held", 2), due)])
    await commit_one(driver, delays_of(active("not stored", 1), due))
    assert await stalls_at(driver, "a") < due
    assert (await liveness_of(driver, "held")).stalls_at is None
    assert await driver.get_liveness(["not stored"]) == [None]
    check_keys(redis_server, redis_namespace)


async def test_the_time_of_a_heartbeat_rises_while_the_clock_is_behind(
    redis_server: RedisLike, redis_namespace: str, driver: RedisDriver
) -> None:
    """Its deadline counts from the clock all the same, so that the two show the difference."""
    await commit_one(driver, writes(active("a")))
    ahead = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    with Redis.from_url(redis_server.url()) as client:
        client.hset(f"{{{redis_namespace}}}:beats", "a", f"1 {int(ahead.timestamp())}000000 ")
    for number in (1, 2):
        await driver.beat([Heartbeat("a", 1, 60.0, "")])
        found = await liveness_of(driver, "a")
        assert found.beat_at == ahead + timedelta(microseconds=number)
        assert found.stalls_at is not None
        assert timedelta(seconds=50) < found.stalls_at - found.now <= timedelta(seconds=60)


async def test_nothing_is_left_of_what_is_over(
    redis_server: RedisLike, redis_namespace: str, driver: RedisDriver
) -> None:
    await commit_one(driver, writes(active("a"), active("b"), active("c")))
    await commit_one(driver, delays_of(active("a", 1), LONG_AGO, LAST, to="other"))
    await driver.beat([Heartbeat(id, rev, 1.0, "x") for rev, id in enumerate("abc", 1)])
    check_keys(redis_server, redis_namespace)
    await commit_one(driver, writes(ended("a", 1), active("b", 2)))
    await driver.compact(10)
    check_keys(redis_server, redis_namespace)
    await commit_one(driver, writes(ended("b", 5), ended("c", 3)))
    await driver.compact(10)
    with Redis.from_url(redis_server.url(), decode_responses=True) as client:
        keys = client.keys(f"{{{redis_namespace}}}:*")
    kinds = {key.split(":")[1] for key in keys}
    assert kinds == {"meta", "log", "status", "latest", "latest_status", "alarm"}


async def fastest(ask: Callable[[], Awaitable[object]]) -> float:
    """Return the seconds that it takes; the least of many, since others use this machine too."""
    took = []
    for _ in range(40):
        started = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - started)
    return min(took)


def fill(client: "Redis", kind: DueKind, flow: str, start: int, stop: int) -> None:
    """Let things be due that nothing else is known of."""
    for first in range(start, stop, 10_000):
        members = range(first, min(first + 10_000, stop))
        due = "063082281600000000"
        client.zadd(f"{{flowstate}}:due:{kind}:{flow}", {f"{due}x{n:07}": 0 for n in members})
    client.zadd(f"{{flowstate}}:flows:{kind}", {flow: 0})


@pytest.mark.parametrize("kind", ["delay", "stall"])
async def test_a_page_costs_the_same_however_many_are_due(kind: DueKind) -> None:
    """Of other flows, or of the same; a scan would take 100 times as long."""
    took = []
    with RedisServer() as server, server.client() as client:
        async with RedisDriver(server.url()) as driver:
            for start, stop in ((0, 1_000), (1_000, 100_000)):
                fill(client, kind, "mine", start, stop)
                fill(client, kind, "other", start, stop)
                places = [None, (LONG_AGO, f"x{stop // 2:07}"), (LONG_AGO, "y"), (LAST, "")]
                queries = [
                    DueQuery(kind, flows=flows, after=after, limit=3, others=flows is not None)
                    for after in places
                    for flows in (("mine",), ("none",), None)
                ]

                async def ask(queries: list[DueQuery] = queries) -> None:
                    for query in queries:
                        assert len((await driver.get_due(query)).damaged) <= query.limit

                took.append(await fastest(ask))
    assert took[1] < 8 * took[0]


async def test_delays_of_one_state(driver: RedisDriver) -> None:
    """Each costs the same, however many there are."""
    (state,) = await commit_one(driver, writes(active("a")))
    took = []
    for _ in range(5):
        started = time.perf_counter()
        await commit_one(driver, delays_of(state, *[LAST] * 1_000))
        took.append(time.perf_counter() - started)
    assert took[-1] < 8 * min(took)
    assert await fastest(lambda: driver.get_liveness(["a"])) < took[0] / 2
    await commit_one(driver, writes(active("a", 1)))
    assert not (await driver.get_due(DueQuery("delay", everything=True))).due


async def test_a_page_by_label_and_status_costs_what_it_returns(driver: RedisDriver) -> None:
    labels = FrozenDict({"queue": "mail"})
    await commit_one(driver, writes(State("p", status=Status.PAUSED, labels=labels)))
    queries = [
        StateQuery(labels=(labels,), status=Status.PAUSED, latest_only=latest_only, limit=1)
        for latest_only in (True, False)
    ]
    took = []
    for start in (0, 100):
        for number in range(start, start + (10 if start == 0 else 90)):
            states = [replace(ended(f"{number}-{n}", 0), labels=labels) for n in range(128)]
            await commit_one(driver, writes(*states))

        async def ask() -> None:
            for query in queries:
                assert [state.id for state in (await driver.get_states(query)).states] == ["p"]

        took.append(await fastest(ask))
    assert took[1] < 4 * took[0]


async def test_the_newest_match_of_several_labels(driver: RedisDriver) -> None:
    """Also where no revision has all of them, and where the last one that has is far back."""
    both = FrozenDict({"a": "1", "b": "1"})
    await commit_one(driver, writes(replace(ended("both", 0), labels=both)))
    query = StateQuery(labels=(both,), since_latest=True)
    for number in range(200):
        label = FrozenDict({"ab"[number // 100]: "1"})
        states = [replace(ended(f"{number}-{n}", 0), labels=label) for n in range(128)]
        await commit_one(driver, writes(*states))
    assert [state.id for state in (await driver.get_states(query)).states] == ["both"]
    assert await fastest(lambda: driver.get_states(query)) < 0.02
    for number in range(200):
        states = [
            replace(ended(f"x{number}-{n}", 0), labels=FrozenDict({"ab"[n % 2]: "1"}))
            for n in range(128)
        ]
        await commit_one(driver, writes(*states))
    assert [state.id for state in (await driver.get_states(query)).states] == ["both"]
    none = replace(query, labels=(FrozenDict({"a": "1", "b": "2"}),))
    assert not (await driver.get_states(none)).states
