"""Cancelled at every await while the network is slow: no connection gives a wrong answer after."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from queue import Queue

import pytest

from flowstate import Clock, RevisionMismatchError
from flowstate.driver import DueQuery, StateQuery
from flowstate.drivers.redis import RedisDriver
from flowstate.testcases import Capabilities, Case, run
from flowstate.testcases.cancelling import CASES, cancelled_everywhere
from flowstate.testing.faults import Proxy
from tests.redis.support import head_of
from tests.redis_servers import RedisLike
from tests.support import commit_one, put, read_log, through_proxy

DELAY = 0.001
IDS = [f"state-{number}" for number in range(50)]


@pytest.fixture
async def slow(redis_server: RedisLike) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy that takes its time, and the URL that leads through it."""
    async with through_proxy(redis_server.url()) as (proxy, url):
        proxy.delay = DELAY
        yield proxy, url


@pytest.fixture
async def driver(slow: tuple[Proxy, str], redis_namespace: str) -> AsyncIterator[RedisDriver]:
    async with RedisDriver(slow[1], namespace=redis_namespace) as driver:
        yield driver
        heads = await asyncio.gather(*(head_of(driver) for _ in range(16)))
        assert len(set(heads)) == 1
    await asyncio.wait_for(slow[0].until_open(0), 5.0)


@pytest.fixture
def slow_elsewhere(redis_server: RedisLike) -> Iterator[str]:
    """The URL through a slow proxy in another thread: the cases look for tasks that are left."""
    ready: Queue[tuple[str, Callable[[], object]]] = Queue()

    async def serve() -> None:
        async with through_proxy(redis_server.url()) as (proxy, url):
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
async def test_conformance(slow_elsewhere: str, redis_namespace: str, case: Case) -> None:
    def make(clock: Clock) -> RedisDriver:
        return RedisDriver(slow_elsewhere, namespace=redis_namespace)

    capabilities = Capabilities(shared=True, durable=True, fake_clock=False, any_loop=False)
    await run(case, make, capabilities)


async def test_every_answer_is_to_its_own_question(driver: RedisDriver) -> None:
    """Some reads are cancelled at any time; the others get what they asked for."""
    chance = random.Random(1)
    await driver.commit([put(id, id) for id in IDS])

    async def ask(id: str) -> None:
        state = await driver.get_state(id)
        assert state is not None
        assert state.id == id

    for _ in range(20):
        asked = [asyncio.create_task(ask(chance.choice(IDS))) for _ in range(20)]
        for task in asked[::2]:
            asyncio.get_running_loop().call_later(chance.uniform(0, 0.03), task.cancel)
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        for outcome in outcomes:
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)
        assert outcomes[1::2] == [None] * 10
    assert [state.id for state in await read_log(driver)] == IDS


async def test_reads_cancelled_at_every_await(driver: RedisDriver) -> None:
    await commit_one(driver, put("1", "a"))
    for read in (
        lambda: driver.get_state("a"),
        lambda: driver.get_states(StateQuery()),
        lambda: driver.get_due(DueQuery("delay")),
        lambda: driver.get_liveness(["a"]),
        lambda: driver.compact(1),
    ):

        async def work(name: str, read: object = read) -> None:
            await read()  # type: ignore[operator]

        async def verify(name: str) -> None:
            assert await head_of(driver) == 1

        await cancelled_everywhere(work, verify)


async def test_commits_cancelled_at_every_await(driver: RedisDriver) -> None:
    """The engine never cancels one. The answer of the next one tells what became of it."""
    count = 0

    async def work(name: str) -> None:
        await commit_one(driver, put(name, name))

    async def verify(name: str) -> None:
        nonlocal count
        (verdict,) = await driver.commit([put(f"{name} again", name)])
        assert isinstance(verdict, tuple | RevisionMismatchError)
        count += 1
        assert await head_of(driver) == count

    await cancelled_everywhere(work, verify)
    assert [state.rev for state in await read_log(driver)] == list(range(1, count + 1))


async def test_opening_cancelled_at_every_await(
    slow: tuple[Proxy, str], redis_namespace: str
) -> None:
    proxy, url = slow

    async def work(name: str) -> None:
        async with RedisDriver(url, namespace=redis_namespace):
            pass

    async def verify(name: str) -> None:
        pass

    await cancelled_everywhere(work, verify)
    await asyncio.wait_for(proxy.until_open(0), 5.0)
