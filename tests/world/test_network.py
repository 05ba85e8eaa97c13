"""What a network does: connections that carry nothing any more, that are cut, or that stall."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from redis import Redis

from flowstate import (
    Commit,
    CommitUnknownError,
    DriverError,
    Engine,
    FlowRegistry,
    Pause,
    State,
    StateContext,
)
from flowstate.driver import Driver
from flowstate.testing.faults import Proxy
from tests.support import through_proxy
from tests.world.places import Place

TIMEOUT = 1.0
LIMIT = 10.0
FAILED = (DriverError, CommitUnknownError)


pytestmark = pytest.mark.parametrize("place", ["postgres", "redis"], indirect=True)


def pause(id: str) -> Commit:
    return Commit(Pause(StateContext(State(id))))


@contextlib.asynccontextmanager
async def through(place: Place) -> AsyncIterator[tuple[Proxy, Driver]]:
    """Return a proxy, and a driver that goes through it."""
    async with through_proxy(place.where) as (proxy, url):
        yield proxy, Place(place.kind, url, place.name).driver(timeout=TIMEOUT)


async def until_it_commits(engine: Engine, id: str) -> float:
    """Return after how many seconds a commit works again; none of them may take long."""
    began = time.monotonic()
    for number in range(100):
        try:
            async with asyncio.timeout(3 * TIMEOUT + 1.0):
                await engine.do(pause(f"{id}-{number}"))
        except FAILED:
            continue
        return time.monotonic() - began
    raise AssertionError("it never works again")


async def test_connections_that_carry_nothing_any_more(place: Place) -> None:
    """A router has forgotten them: no error comes, and new connections work."""
    async with (
        through(place) as (proxy, driver),
        Engine(driver, FlowRegistry()) as engine,
        Engine(place.driver(), FlowRegistry()) as other,
        engine.watch() as states,
    ):
        await engine.do(pause("before"))
        assert (await anext(states)).id == "before"
        proxy.forget()
        await other.do(pause("meanwhile"))
        async with asyncio.timeout(LIMIT):
            while True:
                with contextlib.suppress(DriverError):
                    assert (await anext(states)).id == "meanwhile"
                    break
        proxy.forget()
        assert await until_it_commits(engine, "after") < LIMIT


async def test_a_stall_of_everything(place: Place) -> None:
    """Each call ends within the timeout, and all goes on afterwards, with nothing done twice."""
    async with (
        through(place) as (proxy, driver),
        Engine(driver, FlowRegistry()) as engine,
        engine.watch() as states,
    ):
        await engine.do(pause("before"))
        assert (await anext(states)).id == "before"
        proxy.stall()
        calls: list[Any] = [engine.do(pause(f"{n}")) for n in range(20)]
        calls += [engine.get_state("before"), engine.get_states(), engine.head()]
        began = time.monotonic()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert time.monotonic() - began < 3 * TIMEOUT + 1.0
        assert {isinstance(each, FAILED) for each in outcomes} == {True}
        proxy.go_on()
        await until_it_commits(engine, "after")
        log = [state.id async for state in engine.states()]
        assert len(set(log)) == len(log)
        seen = [log[0]]
        async with asyncio.timeout(LIMIT):
            while seen != log:
                with contextlib.suppress(DriverError):
                    seen.append((await anext(states)).id)
                    assert seen == log[: len(seen)]


async def test_idle_connections_that_the_server_cuts(place: Place) -> None:
    """No caller notices."""
    async with Engine(place.driver(timeout=5.0), FlowRegistry()) as engine, engine.watch() as watch:
        for number in range(5):
            await engine.do(pause(f"{number}"))
            assert (await anext(watch)).id == f"{number}"
            await asyncio.gather(*(engine.get_state(f"{number}") for _ in range(4)))
            cut_idle(place)
            async with asyncio.timeout(LIMIT):
                await asyncio.gather(*(engine.get_state(f"{number}") for _ in range(4)))


def cut_idle(place: Place) -> None:
    if place.kind == "redis":
        with Redis.from_url(place.where) as client:
            for each in client.client_list():
                if each["name"] == "flowstate":
                    client.client_kill_filter(_id=each["id"])
        return
    with psycopg.connect(place.where, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND query LIKE %s",
            (f"%{place.name}%",),
        )


async def test_an_engine_opens_and_closes_while_all_stalls(place: Place) -> None:
    async with through(place) as (proxy, driver):
        async with Engine(driver, FlowRegistry(), shutdown_timeout=0.5) as engine:
            await engine.do(pause("a"))
            proxy.stall()
            late = [asyncio.ensure_future(engine.do(pause(f"{n}"))) for n in range(5)]
            await asyncio.sleep(0.05)  # reason: they are on their way
            began = time.monotonic()
        assert time.monotonic() - began < LIMIT
        for outcome in await asyncio.gather(*late, return_exceptions=True):
            assert isinstance(outcome, Exception)
        began = time.monotonic()
        with pytest.raises(DriverError):
            await (
                Place(place.kind, proxy.url(place.where), place.name)
                .driver(timeout=TIMEOUT)
                .__aenter__()
            )
        assert time.monotonic() - began < 3 * TIMEOUT + 1.0
        proxy.go_on()
        async with Engine(driver, FlowRegistry()) as again:
            assert await again.head() >= 1
