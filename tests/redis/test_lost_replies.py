"""The connection is cut before the reply to a commit, and what is found out afterwards."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest
from msgspec.structs import replace

from flowstate import CommitUnknownError, RevisionMismatchError, State, Status, Transition
from flowstate.driver import Claim, Drop, DueQuery, NewDelay, Verdict, Writes
from flowstate.drivers.redis import RedisDriver
from flowstate.ground.frozen import EMPTY
from flowstate.testcases.support import encoded, timer
from flowstate.testing.faults import Proxy
from tests.redis_servers import RedisLike, RedisServer
from tests.support import commit_one, put, read_log, through_proxy


@pytest.fixture
async def other(redis_server: RedisLike, redis_namespace: str) -> AsyncIterator[RedisDriver]:
    """A driver that nothing happens to."""
    async with RedisDriver(redis_server.url(), namespace=redis_namespace) as driver:
        yield driver


@pytest.fixture
async def cut_off(
    redis_server: RedisLike, redis_namespace: str, other: RedisDriver
) -> AsyncIterator[tuple[Proxy, RedisDriver]]:
    """A driver behind a proxy."""
    async with (
        through_proxy(redis_server.url()) as (proxy, url),
        RedisDriver(url, namespace=redis_namespace, timeout=5.0) as driver,
    ):
        yield proxy, driver


@contextlib.asynccontextmanager
async def lost(
    cut_off: tuple[Proxy, RedisDriver], batch: Sequence[Writes]
) -> AsyncIterator["asyncio.Future[Sequence[Verdict]]"]:
    """Commit, lose the reply, and be without a server until the block ends."""
    proxy, driver = cut_off
    await driver.commit([put("known", "known", 7)])  # The server knows the script from now on.
    cut = proxy.cut_before_reply(batch[-1].token.encode())
    committing = asyncio.ensure_future(driver.commit(batch))
    await cut.wait()
    proxy.refuse()
    yield committing
    await proxy.accept()
    await asyncio.wait([committing])


def pair(token: str) -> Writes:
    states = [State(id, transition=Transition("next")) for id in ("a", "b")]
    return encoded(Writes(token, tuple(states)))


async def test_it_happened(cut_off: tuple[Proxy, RedisDriver], other: RedisDriver) -> None:
    batch = [put("one", "c"), put("stale", "d", 7), pair("two")]
    async with lost(cut_off, batch) as committing:
        pass
    one, stale, two = committing.result()
    assert isinstance(stale, RevisionMismatchError)
    assert isinstance(one, tuple)
    assert isinstance(two, tuple)
    assert await read_log(other) == [*one, *two]


async def test_it_happened_and_the_state_went_on(
    cut_off: tuple[Proxy, RedisDriver], other: RedisDriver
) -> None:
    async with lost(cut_off, [pair("two")]) as committing:
        await commit_one(other, put("x", "a", 1))
        await commit_one(other, put("y", "a", 3))
    (two,) = committing.result()
    assert isinstance(two, tuple)
    assert [state.rev for state in two] == [1, 2]


@pytest.mark.parametrize("moved_on", ["ab", "b"])
async def test_it_happened_and_was_compacted(
    cut_off: tuple[Proxy, RedisDriver], other: RedisDriver, moved_on: str
) -> None:
    """It cannot be told any more, so it must not be called refused."""
    async with lost(cut_off, [pair("two"), put("stale", "c", 7), put("lone", "d")]) as committing:
        for id in moved_on:
            await commit_one(other, put(f"x{id}", id, 1 if id == "a" else 2))
        await other.compact(10)
    two, stale, lone = committing.result()
    assert isinstance(two, CommitUnknownError)
    assert isinstance(stale, RevisionMismatchError)
    assert isinstance(lone, tuple)


async def test_the_server_cannot_be_asked(redis_server: RedisLike, redis_namespace: str) -> None:
    async with (
        through_proxy(redis_server.url()) as (proxy, url),
        RedisDriver(url, namespace=redis_namespace, timeout=0.3) as driver,
    ):
        await commit_one(driver, put("zero", "a"))
        batch = [put("one", "b"), delay("two", due=timedelta(days=1)), put("three", "c")]
        async with lost((proxy, driver), batch) as committing:
            verdicts = await committing
        assert [type(verdict) for verdict in verdicts] == [CommitUnknownError] * 3
        assert [state.rev for state in await read_log(driver)] == [1, 2, 3]


async def test_its_disks_were_not_waited_for(private_redis: RedisServer) -> None:
    """A second attempt, which writes nothing, is told at once that all is on disk."""
    async with (
        through_proxy(private_redis.url()) as (proxy, url),
        RedisDriver(url, namespace="waited", wait_aof=(1, 0)) as driver,
    ):
        async with lost((proxy, driver), [put("one", "a"), put("stale", "b", 7)]) as committing:
            pass
        one, stale = committing.result()
        assert isinstance(one, CommitUnknownError)
        assert isinstance(stale, RevisionMismatchError)
        assert [state.rev for state in await read_log(driver)] == [1]


def delay(token: str, *, due: timedelta) -> Writes:
    """Return writes of one delay alone."""
    state = State("a", 1, transition=Transition("next"))
    new = NewDelay(state, "next", EMPTY, None, due, commit=False, body="")
    return encoded(Writes(token, checks=(("a", 1),), delays=(new,)))


async def test_a_delay_is_there(cut_off: tuple[Proxy, RedisDriver], other: RedisDriver) -> None:
    await commit_one(other, put("first", "a"))
    async with lost(cut_off, [delay("one", due=timedelta(0))]) as committing:
        pass
    assert committing.result() == [()]
    assert [each.id for each in (await other.get_due(DueQuery("delay"))).due] == ["one.0"]


@pytest.mark.parametrize("ended", ["dropped", "replaced"])
async def test_a_delay_may_have_fired(
    cut_off: tuple[Proxy, RedisDriver], other: RedisDriver, ended: str
) -> None:
    """To apply it again would fire it twice."""
    await commit_one(other, put("first", "a"))
    async with lost(cut_off, [delay("one", due=timedelta(0))]) as committing:
        if ended == "dropped":
            claim, drop = Claim("one.0", "holder", 60.0), Drop("one.0", "holder")
            await commit_one(other, Writes("fired", claims=(claim,), drops=(drop,)))
        else:
            await commit_one(other, put("fired", "a", 1))
    (verdict,) = committing.result()
    assert isinstance(verdict, CommitUnknownError)
    assert not (await other.get_due(DueQuery("delay", everything=True))).due


async def test_claims_and_drops_are_made_again(
    cut_off: tuple[Proxy, RedisDriver], other: RedisDriver
) -> None:
    await commit_one(other, put("first", "a"))
    await commit_one(other, delay("one", due=timedelta(0)))
    claim, drop = Claim("one.0", "holder", 60.0), Drop("one.0", "holder")
    async with lost(cut_off, [Writes("claim", claims=(claim,))]) as committing:
        pass
    assert committing.result() == [()]
    async with lost(cut_off, [Writes("drop", drops=(drop,))]) as committing:
        pass
    assert committing.result() == [()]


def ended(token: str, id: str, rev: int) -> Writes:
    """Return writes that forget a state."""
    return encoded(Writes(token, (State(id, rev, status=Status.ENDED),), forgets=(0,)))


@pytest.mark.parametrize("meanwhile", ["nothing", "begun", "begun and forgotten", "compacted"])
async def test_it_was_forgotten(
    cut_off: tuple[Proxy, RedisDriver], other: RedisDriver, meanwhile: str
) -> None:
    await commit_one(other, put("first", "a"))
    async with lost(cut_off, [ended("forget", "a", 1), ended("stale", "b", 1)]) as committing:
        if meanwhile.startswith("begun"):
            await commit_one(other, put("again", "a"))
        if meanwhile == "begun and forgotten":
            await commit_one(other, ended("once more", "a", 3))
        if meanwhile == "compacted":
            await commit_one(other, put("late", "c"))
            await other.compact(3)
    forgotten, stale = committing.result()
    if meanwhile == "compacted":
        assert isinstance(forgotten, CommitUnknownError)
        assert isinstance(stale, CommitUnknownError)
        return
    assert isinstance(forgotten, tuple)
    assert [state.rev for state in forgotten] == [2]
    assert isinstance(stale, RevisionMismatchError)


@pytest.mark.parametrize("steps", [0, 3])
async def test_it_happened_and_was_forgotten(
    cut_off: tuple[Proxy, RedisDriver], other: RedisDriver, steps: int
) -> None:
    """The id is free again, and what began it before must not begin it once more."""
    async with lost(cut_off, [put("one", "a")]) as committing:
        for rev in range(1, 1 + steps):
            await commit_one(other, put(f"step {rev}", "a", rev))
        await commit_one(other, ended("forget", "a", 1 + steps))
    (one,) = committing.result()
    assert isinstance(one, tuple)
    assert [state.rev for state in one] == [1]
    assert await other.get_state("a") is None
    assert len(await read_log(other)) == 2 + steps


@pytest.mark.parametrize("goes_on", [False, True])
async def test_it_began_again(
    cut_off: tuple[Proxy, RedisDriver], other: RedisDriver, *, goes_on: bool
) -> None:
    """What was forgotten is in front of it in the log, although it expected nothing there."""
    await commit_one(other, put("first", "a"))
    await commit_one(other, ended("forget", "a", 1))
    async with lost(cut_off, [put("again", "a"), put("late", "b")]) as committing:
        if goes_on:
            await commit_one(other, put("next", "a", 3))
    again, late = committing.result()
    assert isinstance(again, tuple)
    assert isinstance(late, tuple)
    assert [state.rev for state in (*again, *late)] == [3, 4]


async def test_it_did_not_happen_and_was_forgotten(
    cut_off: tuple[Proxy, RedisDriver], other: RedisDriver
) -> None:
    """What the attempt did not do, the next one does, also where the id was in use before."""
    proxy, driver = cut_off
    await commit_one(other, put("first", "a"))
    await commit_one(other, ended("forget", "a", 1))
    proxy.refuse()
    proxy.cut()
    committing = asyncio.ensure_future(driver.commit([put("one", "a")]))
    await asyncio.wait([committing], timeout=0.05)
    await proxy.accept()
    (one,) = await committing
    assert isinstance(one, tuple)
    assert [state.rev for state in one] == [3]


@pytest.mark.parametrize("ends", ["stays", "fires"])
async def test_a_timer_is_set_once(
    cut_off: tuple[Proxy, RedisDriver], other: RedisDriver, ends: str
) -> None:
    timers = (timer("t", timedelta(0)),)
    writes = encoded(Writes("one", (State("a", transition=Transition("next")),), timers=timers))
    async with lost(cut_off, [writes]) as committing:
        if ends == "fires":
            fired = State("a", 1, transition=Transition("next"))
            await commit_one(other, Writes("fire", (fired,), drops=(Drop("t", ""),)))
    (verdict,) = committing.result()
    assert isinstance(verdict, tuple)
    due = (await other.get_due(DueQuery("delay", everything=True))).due
    assert [each.id for each in due] == (["t"] if ends == "stays" else [])


async def test_a_token_of_another_commit_proves_nothing(other: RedisDriver) -> None:
    """Forked processes may have drawn the same one."""
    committed = await commit_one(other, pair("two"))
    same = pair("two")
    different = replace(same, bodies=(same.bodies[0], '{"v":1,"id":"b","labels":{"a":"b"}}'))
    found = await other._opened().find_replays([same, different, pair("three")])
    assert list(found) == [committed, None, None]
