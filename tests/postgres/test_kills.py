"""Servers killed and connections cut under load: no answer of a commit turns out to be wrong."""

import asyncio
import random

import pytest

from flowstate.drivers.postgres import PostgresDriver
from tests.load import MARKER, Load
from tests.servers import PostgresServer
from tests.support import through_proxy

pytestmark = pytest.mark.slow

KILLS = 10
AFTER_A_KILL = 50
CUTS = 200


async def test_server_killed(private_postgres: PostgresServer) -> None:
    driver = PostgresDriver(private_postgres.url(), schema="killed")
    async with Load(driver) as load:
        for _ in range(KILLS):
            await load.more(AFTER_A_KILL)
            await asyncio.to_thread(private_postgres.kill)
            await asyncio.to_thread(private_postgres.start)
    assert load.outcomes["acknowledged"] >= KILLS * AFTER_A_KILL


async def test_connections_cut(private_postgres: PostgresServer) -> None:
    chance = random.Random(1)
    async with through_proxy(private_postgres.url()) as (proxy, url):
        driver = PostgresDriver(url, schema="cut")
        async with Load(driver) as load:
            for number in range(CUTS):
                await load.more(2)
                if number % 3 == 0:
                    await proxy.cut_after(chance.randint(1, 2_000)).wait()
                elif number % 3 == 1:
                    await proxy.cut_before_reply(MARKER).wait()
                else:
                    proxy.cut()
    assert load.outcomes["acknowledged"] >= 2 * CUTS
