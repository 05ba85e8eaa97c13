"""Whatever has happened to the server: a closed driver leaves no task and no connection."""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import AsyncIterator

import pytest

from flowstate import (
    Commit,
    DriverClosedError,
    DriverError,
    Engine,
    EngineStoppedError,
    FlowRegistry,
    State,
    StateContext,
    Transit,
)
from flowstate.drivers.postgres import PostgresDriver
from flowstate.testing.faults import Proxy
from tests.postgres.steps import changed_to, head_of
from tests.servers import Postgres
from tests.support import commit_one, put, read_log, through_proxy

TIMEOUT = 5.0
LIMIT = 2.0


@contextlib.asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Check that what was started inside ends soon, and all of it."""
    before = asyncio.all_tasks()
    started = time.monotonic()
    yield
    assert time.monotonic() - started < LIMIT
    left = {task for task in asyncio.all_tasks() - before if "Proxy" not in repr(task)}
    assert not left


async def no_connection_left(proxy: Proxy) -> None:
    gc.collect()  # An attempt to connect that was cancelled ends with the last of its frames.
    await asyncio.wait_for(proxy.until_open(0), LIMIT)


@contextlib.asynccontextmanager
async def at_work(url: str, schema: str) -> AsyncIterator[PostgresDriver]:
    """Open a driver which commits, listens, and is waited for; close it at the end."""
    driver = PostgresDriver(url, schema=schema, timeout=TIMEOUT)
    async with driver:
        waiting = [asyncio.ensure_future(changed_to(driver, 9)) for _ in range(2)]
        await commit_one(driver, put("1", "a"))
        await asyncio.gather(*(head_of(driver) for _ in range(20)))
        yield driver
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, DriverClosedError)


async def test_close_soon_says_nothing(
    postgres: Postgres, postgres_schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The clients for Postgres like to warn of what is on its way at that moment."""
    for pause in (0.0, 0.0, 0.001, 0.003, 0.01):
        async with PostgresDriver(postgres.url(), schema=postgres_schema) as driver:
            working = [asyncio.ensure_future(look(driver)) for _ in range(9)]
            working.append(asyncio.ensure_future(changed_to(driver, 9)))  # type: ignore[arg-type]
            await asyncio.sleep(pause)  # reason: another thing is on its way each time
        await asyncio.wait(working, timeout=LIMIT)
        await asyncio.gather(*working, return_exceptions=True)
    assert [each.message for each in caplog.records if each.levelno >= logging.WARNING] == []


async def test_close(postgres: Postgres, postgres_schema: str) -> None:
    async with through_proxy(postgres.url()) as (proxy, url):
        async with nothing_left(), at_work(url, postgres_schema):
            assert proxy.open > 2
        await no_connection_left(proxy)


@pytest.mark.parametrize("reachable", ["refused", "stalled"])
async def test_close_while_the_server_is_away(
    postgres: Postgres, postgres_schema: str, reachable: str
) -> None:
    async with through_proxy(postgres.url()) as (proxy, url):
        async with nothing_left(), at_work(url, postgres_schema):
            if reachable == "refused":
                proxy.refuse()
                proxy.cut()
            else:
                proxy.stall()
        proxy.go_on()
        await no_connection_left(proxy)


async def test_close_while_it_reads_and_commits(postgres: Postgres, postgres_schema: str) -> None:
    flows = FlowRegistry()
    flows.declare("next")
    async with through_proxy(postgres.url()) as (proxy, url), nothing_left():
        driver = PostgresDriver(url, schema=postgres_schema, timeout=TIMEOUT)
        async with Engine(driver, flows) as engine:
            contexts = [StateContext(State(f"state-{number}")) for number in range(20)]
            working = [
                asyncio.ensure_future(engine.do(Commit(Transit(ctx, "next")))) for ctx in contexts
            ]
            working += [asyncio.ensure_future(look(driver)) for _ in range(20)]
            await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
            proxy.cut()
        outcomes = await asyncio.gather(*working, return_exceptions=True)
        for outcome in outcomes:
            assert outcome is None or isinstance(outcome, DriverError | EngineStoppedError)
        async with driver:
            revs = [ctx.committed.rev for ctx in contexts if ctx.committed.rev]
            assert [state.rev for state in await read_log(driver)] == sorted(revs)
    assert len(revs) == outcomes[:20].count(None)


async def look(driver: PostgresDriver) -> None:
    await driver.get_liveness(["x"])


@pytest.mark.parametrize("cut_after", [1, 200, 400, 600, 1_000, 1_400])
async def test_open_fails(postgres: Postgres, postgres_schema: str, cut_after: int) -> None:
    """It tries again when it is cut off at any point, and cleans up if that is of no use."""
    async with through_proxy(postgres.url()) as (proxy, url):
        driver = PostgresDriver(url, schema=postgres_schema, timeout=TIMEOUT)
        async with nothing_left():
            cut = proxy.cut_after(cut_after)
            async with driver:
                assert cut.is_set()
                await commit_one(driver, put("1", "a"))
        proxy.refuse()
        hasty = PostgresDriver(url, schema=postgres_schema, timeout=0.1)
        async with nothing_left():
            with pytest.raises(DriverError):
                await hasty.__aenter__()
        await no_connection_left(proxy)


async def test_open_is_cancelled(postgres: Postgres, postgres_schema: str) -> None:
    async with through_proxy(postgres.url()) as (proxy, url):
        driver = PostgresDriver(url, schema=postgres_schema, timeout=TIMEOUT)
        proxy.stall(requests=False)
        async with nothing_left():
            opening = asyncio.create_task(driver.__aenter__())
            await proxy.until_open(1)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
        proxy.go_on()
        await no_connection_left(proxy)
        async with nothing_left(), driver:
            await commit_one(driver, put("1", "a"))
