"""Pages of one state, and counts, on Redis: long chains, broken ones, and what they cost."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from redis import Redis

from flowstate import CompactedError, State, Status, StoreCorruptError
from flowstate.driver import StateQuery, Writes
from flowstate.drivers.redis import RedisDriver
from flowstate.drivers.redis.scripts import Scripts
from flowstate.ground.frozen import EMPTY, FrozenDict
from flowstate.testcases.support import encoded
from tests.redis_servers import RedisLike
from tests.support import commit_one

LONG = 2_500  # Revisions: more than one script looks at.
OWN = StateQuery(id="a", limit=1_000)


@pytest.fixture
async def driver(redis_server: RedisLike, redis_namespace: str) -> AsyncIterator[RedisDriver]:
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
        yield driver


@pytest.fixture
def client(redis_server: RedisLike) -> Iterator["Redis"]:
    with Redis.from_url(redis_server.url()) as client:
        yield client


@pytest.fixture
def prefix(redis_namespace: str) -> str:
    return f"{{{redis_namespace}}}:"


async def grow(driver: RedisDriver, revs: int, first: int = 0) -> None:
    """Commit so many revisions of "a": all of an empty store, or after revision ``first``."""
    rev = first
    while rev < first + revs:
        batch = [
            encoded(Writes(f"t{rev + n}", (State("a", rev + n),)))
            for n in range(min(64, first + revs - rev))
        ]
        assert all(isinstance(verdict, tuple) for verdict in await driver.commit(batch))
        rev += len(batch)


async def revs_in_pages(
    driver: RedisDriver, query: StateQuery = OWN
) -> tuple[list[int], list[int]]:
    """Return which revisions were found, and which were damaged."""
    found: list[int] = []
    damaged: list[int] = []
    while True:
        page = await driver.get_states(query)
        found += [state.rev for state in page.states]
        damaged += [bad.rev for bad in page.damaged]
        if not page.more:
            assert page.scanned_to == page.head
            return found, damaged
        query = replace(query, after=page.scanned_to)


@pytest.mark.parametrize("limit", [7, 999, 1_000, 5_000])
async def test_a_long_chain(driver: RedisDriver, limit: int) -> None:
    await grow(driver, LONG)
    page = await driver.get_states(replace(OWN, limit=limit))
    assert [state.rev for state in page.states] == list(range(1, min(limit, LONG) + 1))
    assert page.more == (limit < LONG)
    after = replace(OWN, limit=limit, after=LONG - 20)
    assert await revs_in_pages(driver, after) == (list(range(LONG - 19, LONG + 1)), [])
    nothing = replace(OWN, status=Status.ENDED)
    assert await revs_in_pages(driver, nothing) == ([], [])


async def test_matches_at_the_upper_end(driver: RedisDriver) -> None:
    """Scripts that find no more keep what the ones before them have found."""
    await grow(driver, LONG)
    for rev in (LONG, LONG + 1, LONG + 2):
        await commit_one(driver, Writes(f"{rev}", (State("a", rev, status=Status.ENDED),)))
    expected = [LONG + 1, LONG + 2, LONG + 3]
    for limit in (1, 2, 3, 4):
        query = replace(OWN, status=Status.ENDED, limit=limit)
        assert await revs_in_pages(driver, query) == (expected, [])


async def between(driver: RedisDriver, action: Any) -> tuple[list[int], list[int]]:
    """Read all of it; after the first script that reads it do something."""
    scripts, run = driver._opened().scripts, Scripts.run
    done = False

    async def run_and_act(self: Scripts, name: str, *arguments: Any) -> Any:
        nonlocal done
        answer = await run(self, name, *arguments)
        if name == "history" and not done:
            done = True
            await action()
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(scripts), "run", run_and_act)
        found = await revs_in_pages(driver, replace(OWN, limit=LONG))
    assert done
    return found


async def test_what_is_committed_between_two_scripts(driver: RedisDriver) -> None:
    """It is above the cursor that the page returns, so the next page has it."""
    await grow(driver, LONG)
    found, damaged = await between(driver, lambda: grow(driver, 10, LONG))
    assert (found, damaged) == (list(range(1, LONG + 1)), [])
    page = await driver.get_states(replace(OWN, after=LONG))
    assert [state.rev for state in page.states] == list(range(LONG + 1, LONG + 11))


@pytest.mark.parametrize("floor", [500, 1_990, 2_490])
async def test_what_is_compacted_between_two_scripts(driver: RedisDriver, floor: int) -> None:
    """It is gone, and not damaged; a reader that wants all of it hears of that."""
    await grow(driver, LONG)
    found, damaged = await between(driver, lambda: driver.compact(floor))
    assert (found, damaged) == (list(range(floor, LONG + 1)), [])
    with pytest.raises(CompactedError):
        await driver.get_states(replace(OWN, gaps_below=0))


DAMAGE: list[tuple[dict[bytes, bytes | None] | None, list[int]]] = [
    (None, [3]),  # The entry is gone.
    ({b"i": b"other"}, [3]),
    ({b"i": None}, [3]),
    ({b"p": None}, []),
    ({b"p": b"x"}, []),
    ({b"p": b"99"}, []),
    ({b"s": None}, [3]),
    ({b"c": b"x"}, [3]),
    ({b"l": b"\xc1"}, []),
    ({b"b": b"{}"}, [3]),
]


@pytest.mark.parametrize(("fields", "damaged"), DAMAGE)
async def test_a_broken_chain(
    driver: RedisDriver,
    client: "Redis",
    prefix: str,
    fields: dict[bytes, bytes | None] | None,
    damaged: list[int],
) -> None:
    """What cannot be read hides nothing of what was before it."""
    for rev in range(0, 6, 2):  # Its revisions are 1, 3, and 5.
        await commit_one(driver, Writes(f"t{rev}", (State("a", max(rev - 1, 0)), State(f"{rev}"))))
    rewrite(client, f"{prefix}log", fields)
    missing = [3] if damaged and (fields is None or b"s" not in fields) else []
    assert await revs_in_pages(driver) == (
        [rev for rev in (1, 3, 5) if rev not in damaged],
        missing,
    )
    for query, expected in ((replace(OWN, after=4), [5]), (replace(OWN, latest_only=True), [5])):
        assert await revs_in_pages(driver, query) == (expected, [])
    await driver.compact(4)
    assert await revs_in_pages(driver) == ([5], [])


@pytest.mark.parametrize("compacted", [False, True])
async def test_a_latest_revision_that_is_lost(
    driver: RedisDriver, client: "Redis", prefix: str, *, compacted: bool
) -> None:
    await grow(driver, 3)
    if compacted:
        await commit_one(driver, Writes("x", (State("x"), State("y"))))
        await driver.compact(5)
    rewrite(client, f"{prefix}log", None)
    earlier = [] if compacted else [1, 2]
    assert await revs_in_pages(driver) == (earlier, [3])
    assert await revs_in_pages(driver, replace(OWN, latest_only=True)) == ([], [3])
    page = await driver.get_states(replace(OWN, since_latest=True))
    assert ([bad.rev for bad in page.damaged], list(page.states)) == ([3], [])


def rewrite(client: Any, log: str, fields: dict[bytes, bytes | None] | None) -> None:
    """Write the log again, with other fields in revision 3, or without it."""
    entries = client.xrange(log)
    client.delete(log)
    for id, entry in entries:
        if id != b"3-0" or fields is not None:
            new = {**entry, **(fields or {})} if id == b"3-0" else entry
            client.xadd(log, {k: v for k, v in new.items() if v is not None}, id=id)


async def test_a_damaged_latest_revision(driver: RedisDriver, client: "Redis", prefix: str) -> None:
    """The log tells what was there, and nothing which of it is the latest."""
    await grow(driver, 3)
    await commit_one(driver, Writes("x", (State("x"),)))
    client.hset(f"{prefix}latest", "a", "nonsense")
    assert await revs_in_pages(driver) == ([1, 2, 3], [])
    with pytest.raises(StoreCorruptError):
        await driver.get_states(replace(OWN, latest_only=True))


async def test_its_cost_follows_its_revisions(driver: RedisDriver, client: "Redis") -> None:
    """Those above the cursor, and not the log, nor what other states there are."""

    async def commands(query: StateQuery) -> int:
        client.config_resetstat()
        await driver.get_states(query)
        stats: Any = client.info("commandstats")
        return sum(each["calls"] for name, each in stats.items() if "range" in name)

    await grow(driver, 20)
    before = await commands(OWN), await commands(replace(OWN, after=15))
    others = [
        encoded(Writes(f"o{n}", tuple(State(f"{n} {k}") for k in range(100)))) for n in range(50)
    ]
    await driver.commit(others)
    after = await commands(OWN), await commands(replace(OWN, after=15))
    assert after == before == (40, 10)


X, Y = FrozenDict({"x": "1"}), FrozenDict({"y": "1"})
BOTH = FrozenDict({**X, **Y})


async def test_counts_of_more_than_a_script_looks_at(driver: RedisDriver) -> None:
    """Of two labels it counts in several scripts, of one it asks for the size of an index."""
    labels = (X, Y, BOTH, EMPTY)
    for number in range(12):
        puts = [
            tuple(State(f"{number}-{n}-{k}", 0, labels[(n + k) % 4]) for k in range(128))
            for n in range(64)
        ]
        await driver.commit([encoded(Writes(f"{number}-{n}", some)) for n, some in enumerate(puts)])
    quarter = 12 * 64 * 128 // 4
    for wanted, expected in (
        ((X,), 2),
        ((BOTH,), 1),
        ((X, Y), 3),
        ((Y, BOTH, X), 3),
        ((BOTH, X), 2),
        ((BOTH, FrozenDict({"z": "1"})), 1),
        ((), 4),
    ):
        assert await driver.count(StateQuery(labels=wanted)) == expected * quarter
    assert await driver.count(StateQuery(labels=(BOTH,), status=Status.PAUSED)) == 0


async def test_a_count_in_an_index(driver: RedisDriver, client: "Redis") -> None:
    await grow(driver, 3)
    await commit_one(driver, Writes("x", (State("x", 0, X), State("y", 0, X))))
    for query in (StateQuery(), StateQuery(labels=(X,)), StateQuery(status=Status.ACTIVE)):
        client.config_resetstat()
        assert await driver.count(query)
        stats: Any = client.info("commandstats")
        assert "cmdstat_zcard" in stats
        assert not [name for name in stats if "range" in name]
