"""The connection is cut before the reply to a commit, and what is found out afterwards."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest

from flowstate import CommitUnknownError, RevisionMismatchError, State, Status, Transition
from flowstate.driver import Verdict, Writes
from flowstate.drivers.postgres import PostgresDriver
from flowstate.testcases.support import encoded
from flowstate.testing.faults import Proxy
from tests.servers import Postgres
from tests.support import commit_one, put, read_log, through_proxy


@pytest.fixture
async def other(postgres: Postgres, postgres_schema: str) -> AsyncIterator[PostgresDriver]:
    """A driver that nothing happens to."""
    async with PostgresDriver(postgres.url(), schema=postgres_schema) as driver:
        yield driver


@pytest.fixture
async def cut_off(
    postgres: Postgres, postgres_schema: str, other: PostgresDriver
) -> AsyncIterator[tuple[Proxy, PostgresDriver]]:
    """A driver behind a proxy."""
    async with (
        through_proxy(postgres.url()) as (proxy, url),
        PostgresDriver(url, schema=postgres_schema, timeout=5.0) as driver,
    ):
        yield proxy, driver


@contextlib.asynccontextmanager
async def lost(
    cut_off: tuple[Proxy, PostgresDriver], batch: Sequence[Writes]
) -> AsyncIterator["asyncio.Future[Sequence[Verdict]]"]:
    """Commit, lose the reply, and be without a server until the block ends."""
    proxy, driver = cut_off
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


async def test_it_happened(cut_off: tuple[Proxy, PostgresDriver], other: PostgresDriver) -> None:
    batch = [put("one", "c"), put("stale", "d", 7), pair("two")]
    async with lost(cut_off, batch) as committing:
        pass
    one, stale, two = committing.result()
    assert isinstance(stale, RevisionMismatchError)
    assert isinstance(one, tuple)
    assert isinstance(two, tuple)
    assert await read_log(other) == [*one, *two]


async def test_it_happened_and_the_state_went_on(
    cut_off: tuple[Proxy, PostgresDriver], other: PostgresDriver
) -> None:
    async with lost(cut_off, [pair("two")]) as committing:
        await commit_one(other, put("x", "a", 1))
        await commit_one(other, put("y", "a", 3))
    (two,) = committing.result()
    assert isinstance(two, tuple)
    assert [state.rev for state in two] == [1, 2]


@pytest.mark.parametrize("moved_on", ["ab", "b"])
async def test_it_happened_and_was_compacted(
    cut_off: tuple[Proxy, PostgresDriver], other: PostgresDriver, moved_on: str
) -> None:
    """There is no way to tell any more; it must not be called refused."""
    async with lost(cut_off, [pair("two"), put("stale", "c", 7), put("lone", "d")]) as committing:
        for id in moved_on:
            await commit_one(other, put(f"x{id}", id, 1 if id == "a" else 2))
        await other.compact(10)
    two, stale, lone = committing.result()
    assert isinstance(two, CommitUnknownError)
    assert isinstance(stale, RevisionMismatchError)
    assert isinstance(lone, tuple)


def forget(token: str, rev: int, id: str = "a") -> Writes:
    state = State(id, rev, status=Status.ENDED, transition=Transition("next", cause="forget"))
    return encoded(Writes(token, (state,), forgets=(0,)))


@pytest.mark.parametrize("begins_again", [False, True])
async def test_it_happened_and_the_state_was_forgotten(
    cut_off: tuple[Proxy, PostgresDriver], other: PostgresDriver, begins_again: bool
) -> None:
    """Whatever has become of the id, the commit is neither refused nor done twice."""
    async with lost(cut_off, [pair("two")]) as committing:
        await commit_one(other, forget("x", 1))
        if begins_again:
            await commit_one(other, put("y", "a"))
            await commit_one(other, forget("z", 4))
            await commit_one(other, put("again", "a"))
    (two,) = committing.result()
    assert isinstance(two, tuple)
    assert [state.rev for state in two] == [1, 2]
    assert len(await read_log(other)) == (6 if begins_again else 3)


@pytest.mark.parametrize("begins_again", [False, True])
async def test_it_was_forgotten(
    cut_off: tuple[Proxy, PostgresDriver], other: PostgresDriver, begins_again: bool
) -> None:
    await commit_one(other, put("begin", "a"))
    async with lost(cut_off, [forget("gone", 1)]) as committing:
        if begins_again:
            await commit_one(other, put("again", "a"))
    (gone,) = committing.result()
    assert isinstance(gone, tuple)
    assert [state.rev for state in gone] == [2]
    assert (await other.get_state("a") is not None) == begins_again


async def test_it_began_again(cut_off: tuple[Proxy, PostgresDriver], other: PostgresDriver) -> None:
    await commit_one(other, put("begin", "a"))
    await commit_one(other, forget("gone", 1))
    async with lost(cut_off, [put("again", "a"), put("stale", "a")]) as committing:
        await commit_one(other, put("on", "a", 3))
    again, stale = committing.result()
    assert isinstance(again, tuple)
    assert [state.rev for state in again] == [3]
    assert isinstance(stale, RevisionMismatchError)


async def test_it_was_forgotten_and_compacted(
    cut_off: tuple[Proxy, PostgresDriver], other: PostgresDriver
) -> None:
    """Nothing is left that would tell."""
    await commit_one(other, put("begin", "a"))
    async with lost(cut_off, [put("on", "a", 1), put("stale", "none", 7)]) as committing:
        await commit_one(other, forget("gone", 2))
        await commit_one(other, put("last", "b"))
        await other.compact(10)
    on, stale = committing.result()
    assert isinstance(on, CommitUnknownError)
    assert isinstance(stale, RevisionMismatchError)


async def test_nobody_can_be_asked(postgres: Postgres, postgres_schema: str) -> None:
    async with (
        through_proxy(postgres.url()) as (proxy, url),
        PostgresDriver(url, schema=postgres_schema, timeout=0.3) as driver,
    ):
        async with lost((proxy, driver), [put("one", "a"), put("two", "b")]) as committing:
            verdicts = await committing
        assert [type(verdict) for verdict in verdicts] == [CommitUnknownError] * 2
        assert [state.rev for state in await read_log(driver)] == [1, 2]
        (again,) = await driver.commit([put("one", "a")])
        assert isinstance(again, RevisionMismatchError)  # Another call is another commit.
