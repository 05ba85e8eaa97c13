"""Cancelled at every await while the network is slow: no connection gives a wrong answer after."""

import asyncio
import gc
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from queue import Queue

import pytest

from flowstate import (
    Clock,
    Commit,
    Engine,
    FlowRegistry,
    State,
    StateContext,
    Transit,
)
from flowstate.driver import DueQuery, Heartbeat, StateQuery
from flowstate.drivers.postgres import PostgresDriver
from flowstate.testcases import Capabilities, Case, run
from flowstate.testcases.cancelling import CASES, CancelAt, cancelled_everywhere
from flowstate.testing.faults import Proxy
from tests.postgres.steps import head_of
from tests.servers import Postgres
from tests.support import commit_one, put, read_log, through_proxy

DELAY = 0.001
IDS = [f"state-{number}" for number in range(50)]


async def no_connection_left(proxy: Proxy) -> None:
    gc.collect()  # An attempt to connect that was cancelled ends with the last of its frames.
    await asyncio.wait_for(proxy.until_open(0), 5.0)


@pytest.fixture
async def slow(postgres: Postgres) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy that takes its time, and the URL that leads through it."""
    async with through_proxy(postgres.url()) as (proxy, url):
        proxy.delay = DELAY
        yield proxy, url


@pytest.fixture(params=[1, 8])
async def driver(
    slow: tuple[Proxy, str], postgres_schema: str, request: pytest.FixtureRequest
) -> AsyncIterator[PostgresDriver]:
    """A driver with one connection, or more than enough; none is lost in the end."""
    size: int = request.param
    async with PostgresDriver(slow[1], schema=postgres_schema, pool_size=size) as driver:
        yield driver
        # Each of them can be had, all at once, and knows nothing of what came before.
        heads = await asyncio.gather(*(head_of(driver) for _ in range(2 * size)))
        assert len(set(heads)) == 1
    await no_connection_left(slow[0])


@pytest.fixture
def slow_elsewhere(postgres: Postgres) -> Iterator[str]:
    """The URL through a slow proxy in another thread: the cases look for tasks that are left."""
    ready: Queue[tuple[str, Callable[[], object]]] = Queue()

    async def serve() -> None:
        async with through_proxy(postgres.url()) as (proxy, url):
            proxy.delay = DELAY
            over, loop = asyncio.Event(), asyncio.get_running_loop()
            ready.put((url, lambda: loop.call_soon_threadsafe(over.set)))
            await over.wait()
            await proxy.until_open(0)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    url, stop = ready.get(timeout=10.0)
    yield url
    stop()
    thread.join()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_conformance(slow_elsewhere: str, postgres_schema: str, case: Case) -> None:
    def make(clock: Clock) -> PostgresDriver:
        return PostgresDriver(slow_elsewhere, schema=postgres_schema)

    capabilities = Capabilities(shared=True, durable=True, fake_clock=False, any_loop=False)
    await run(case, make, capabilities)


async def test_every_answer_is_to_its_own_question(driver: PostgresDriver) -> None:
    """Some reads are cancelled at any time; the others get what they asked for."""
    chance = random.Random(1)
    await driver.commit([put(id, id) for id in IDS])

    async def ask(id: str) -> None:
        state = await driver.get_state(id)
        assert state is not None
        assert state.id == id

    for _ in range(20):
        asked = [asyncio.create_task(ask(chance.choice(IDS))) for _ in range(20)]
        doomed = asked[::2]
        for task in doomed:
            asyncio.get_running_loop().call_later(chance.uniform(0, 0.03), task.cancel)
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        for outcome in outcomes:
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)
        assert outcomes[1::2] == [None] * 10
    assert [state.id for state in await read_log(driver)] == IDS


async def test_reads_cancelled_at_every_await(driver: PostgresDriver) -> None:
    await commit_one(driver, put("1", "a"))
    for read in (
        lambda: head_of(driver),
        lambda: driver.get_state("a"),
        lambda: driver.get_states(StateQuery()),
        lambda: driver.get_due(DueQuery("delay")),
        lambda: driver.beat([Heartbeat("x", 1, None, "")]),
        lambda: driver.get_liveness(["a"]),
        lambda: driver.compact(1),
    ):

        async def work(name: str, read: object = read) -> None:
            await read()  # type: ignore[operator]

        async def verify(name: str) -> None:
            assert await head_of(driver) == 1

        await cancelled_everywhere(work, verify)


async def test_commits_cancelled_at_every_await(driver: PostgresDriver) -> None:
    """The engine never cancels one; one that was cancelled is stored once or not at all."""
    count = 0

    async def work(name: str) -> None:
        await commit_one(driver, put(name, name))

    async def verify(name: str) -> None:
        nonlocal count
        await driver.commit([put(f"{name} again", name)])  # Refused if it has happened already.
        state = await driver.get_state(name)
        count += 1
        assert state is not None
        assert state.rev == count

    await cancelled_everywhere(work, verify)
    assert [state.rev for state in await read_log(driver)] == list(range(1, count + 1))


async def test_opening_cancelled_at_every_await(
    slow: tuple[Proxy, str], postgres_schema: str
) -> None:
    proxy, url = slow
    before = asyncio.all_tasks()

    async def work(name: str) -> None:
        async with PostgresDriver(url, schema=postgres_schema):
            pass

    async def verify(name: str) -> None:
        assert [task for task in asyncio.all_tasks() - before if "pool" in repr(task)] == []

    await cancelled_everywhere(work, verify)
    await no_connection_left(proxy)


async def test_a_watch_and_its_commits_are_cancelled_while_connections_are_cut(
    slow: tuple[Proxy, str], driver: PostgresDriver
) -> None:
    chance = random.Random(1)
    flows = FlowRegistry()
    flows.declare("next")
    seen: list[int] = []
    async with Engine(driver, flows) as engine, engine.watch(since_rev=0) as states:
        contexts = [StateContext(State(f"state-{number}")) for number in range(60)]
        for number, ctx in enumerate(contexts):
            work = CancelAt(
                engine.do(Commit(Transit(ctx, "next"))), chance.randint(1, 4), later=True
            )
            watching = asyncio.create_task(CancelAt(states.__anext__(), 2, later=False).outcome())
            committing = asyncio.create_task(work.outcome())
            if number % 10 == 5:
                slow[0].cut_before_reply()
            await asyncio.wait([committing, watching], timeout=0.02)
            watching.cancel()
            await asyncio.wait([committing, watching])
            committing.result()
        await engine.do(Commit(Transit(StateContext(State("last")), "next")))
        told = sorted(ctx.committed.rev for ctx in contexts if ctx.committed.rev)
        log = await read_log(driver)
        assert [state.rev for state in log] == [*told, len(told) + 1]
        async with engine.watch(since_rev=states.cursor) as others:
            while not seen or seen[-1] < len(log):
                seen.append((await anext(others)).rev)
        assert seen == list(range(states.cursor + 1, len(log) + 1))
