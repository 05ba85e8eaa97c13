"""A cluster of three servers: one namespace is on one of them, whichever that is."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import RedisCluster

from flowstate import Clock, StoreUnavailableError
from flowstate.driver import Seen
from flowstate.drivers.redis import RedisDriver
from flowstate.testcases import ALL, Capabilities, Case, run, select, stalling
from flowstate.testing.faults.ports import LOOPBACK, free_port
from tests.redis_servers import RedisServer
from tests.support import commit_one, put, read_log

pytestmark = pytest.mark.slow

CAPABILITIES = Capabilities(shared=True, durable=True, fake_clock=False, any_loop=False)
CASES = [
    case
    for number, case in enumerate(select(ALL, CAPABILITIES))
    # Not what takes real time: there other event loops take part, and a client belongs to one.
    if case in stalling.CASES or (number % 6 == 0 and not case.real_time)
]
RANGES = [(0, 5460), (5461, 10922), (10923, 16383)]
TIME_LIMIT = 30.0


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[RedisServer]]:
    with contextlib.ExitStack() as stack:
        password = secrets.token_hex()
        nodes = []
        for number, (first, last) in enumerate(RANGES, 1):
            settings = {"cluster-enabled": "yes", "cluster-port": free_port()}
            node = stack.enter_context(RedisServer(settings, password=password))
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number)
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
            nodes.append(node)
        for node in nodes[1:]:
            bus = nodes[0].settings["cluster-port"]
            node.ask("CLUSTER", "MEET", LOOPBACK, nodes[0].port, bus)
        give_up = time.monotonic() + TIME_LIMIT
        while not all(map(knows_all, nodes)):
            assert time.monotonic() < give_up
            time.sleep(0.05)  # reason: they tell each other at their own pace
        yield nodes


def knows_all(node: RedisServer) -> bool:
    with node.client() as client:
        info = str(client.execute_command("CLUSTER INFO")).translate(str.maketrans("", "", "' "))
    wanted = "cluster_state:ok", "cluster_known_nodes:3", "cluster_slots_ok:16384"
    return all(word in info for word in wanted)


@pytest.fixture
async def client(nodes: list[RedisServer]) -> AsyncIterator[RedisCluster]:
    async with RedisCluster.from_url(nodes[0].url()) as client:
        yield client


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_conformance(client: RedisCluster, case: Case) -> None:
    namespace = secrets.token_hex(8)

    def make(clock: Clock) -> RedisDriver:
        return RedisDriver(client, namespace=namespace)

    await run(case, make, CAPABILITIES)


async def test_namespaces_are_spread(client: RedisCluster, nodes: list[RedisServer]) -> None:
    before = [int(str(node.ask("DBSIZE"))) for node in nodes]
    for name in "abcdefghij":
        async with (
            RedisDriver(client, namespace=f"spread-{name}") as driver,
            RedisDriver(client, namespace=f"spread-{name}") as other,
        ):
            waiting = asyncio.ensure_future(driver.changed(await driver.changed(Seen())))
            await commit_one(other, put("1", "a"))
            await asyncio.wait_for(waiting, 5.0)
            assert [state.rev for state in await read_log(driver)] == [1]
    after = [int(str(node.ask("DBSIZE"))) for node in nodes]
    assert all(later > earlier for earlier, later in zip(before, after, strict=True))


async def test_the_settings_of_the_right_node_count(
    client: RedisCluster, nodes: list[RedisServer]
) -> None:
    nodes[1].ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    refused = 0
    for name in "abcdefghij":
        driver = RedisDriver(client, namespace=f"settings-{name}")
        owner = client.get_node_from_key(f"{{settings-{name}}}")
        assert owner is not None
        if owner.port == nodes[1].port:
            refused += 1
            with pytest.raises(StoreUnavailableError, match="allkeys-lru"):
                await driver.__aenter__()
        else:
            async with driver:
                pass
    nodes[1].ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert 0 < refused < 10
