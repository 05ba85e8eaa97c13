"""How long it takes until another process hears of a commit."""

import asyncio
import contextlib
import statistics
import sys
import time

from flowstate.drivers.redis import RedisDriver
from tests.redis_servers import RedisLike
from tests.support import commit_one, put

WATCHER = """
import asyncio, sys, time
from flowstate import Engine, FlowRegistry
from flowstate.drivers.redis import RedisDriver

async def main():
    driver = RedisDriver(sys.argv[1], namespace=sys.argv[2])
    async with Engine(driver, FlowRegistry()) as engine, engine.watch(since_rev=0) as states:
        async for state in states:
            print(time.monotonic(), flush=True)

asyncio.run(main())
"""
COMMITS = 50
LIMIT = 0.25  # Seconds, for the middle one; it would be a second or more by polling.


async def test_other_processes_hear_of_a_commit(
    redis_server: RedisLike, redis_namespace: str
) -> None:
    url = redis_server.url()
    words = "-c", WATCHER, url, redis_namespace
    watcher = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=asyncio.subprocess.PIPE
    )
    assert watcher.stdout is not None
    try:
        async with RedisDriver(url, namespace=redis_namespace) as driver:
            await commit_one(driver, put("first", "first"))
            await watcher.stdout.readline()
            took = []
            for number in range(COMMITS):
                await commit_one(driver, put(f"{number}", f"{number}"))
                acknowledged = time.monotonic()
                took.append(float(await watcher.stdout.readline()) - acknowledged)
    finally:
        with contextlib.suppress(ProcessLookupError):
            watcher.kill()
        await watcher.communicate()
    assert statistics.median(took) < LIMIT
    print(f"median {1000 * statistics.median(took):.1f} ms, worst {1000 * max(took):.1f} ms")  # noqa: T201
