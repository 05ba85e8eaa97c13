"""Commits by some processes, watched by others: did every watcher see the log, and nothing else?

``python history.py JOB URL SCHEMA [ARGUMENT...]`` does one of the jobs. On Redis, the schema is
the namespace.
"""

import asyncio
import contextlib
import json
import random
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import count
from typing import Any

import psycopg

from flowstate import Commit, Engine, FlowRegistry, Pause, State, StateContext
from flowstate.driver import Driver
from flowstate.drivers.postgres import PostgresDriver
from flowstate.drivers.redis import RedisDriver

__all__ = ["check_history"]

WRITERS = 4
TASKS = 16  # Of each writer.
WATCHING = 2
TIMEOUT = 60.0
IDS = 10  # Of each task.
MOST_BETWEEN_BREAKS = 1_000

Seen = list[list[Any]]
"""Revision, id and the name of its commit, in the order in which they were seen."""


def states_of(number: int) -> int:
    """Return how many states a commit has: two of five have three."""
    return 3 if number % 5 < 2 else 1


def engine_on(url: str, schema: str) -> Engine:
    driver: Driver
    if on_redis(url):
        driver = RedisDriver(url, namespace=schema, timeout=TIMEOUT)
    else:
        driver = PostgresDriver(url, schema=schema, timeout=TIMEOUT)
    return Engine(driver, FlowRegistry())


def on_redis(url: str) -> bool:
    return url.startswith("redis")


def item(state: State) -> list[Any]:
    return [state.rev, state.id, state.annotations["commit"]]


async def write(url: str, schema: str, name: str, commits: str) -> None:
    """Commit in many tasks, and say by which revisions each commit was acknowledged."""
    numbers = iter(range(int(commits)))
    acknowledged: dict[str, list[int]] = {}

    async def task(engine: Engine, id: str) -> None:
        contexts = [StateContext(State(f"{id}-{i}")) for i in range(IDS)]
        place = count()
        for number in numbers:
            chosen = [contexts[next(place) % IDS] for _ in range(states_of(number))]
            for ctx in chosen:
                ctx.set_annotation("commit", f"{name}-{number}")
            await engine.do(Commit(*map(Pause, chosen)))
            acknowledged[f"{name}-{number}"] = [ctx.committed.rev for ctx in chosen]

    async with engine_on(url, schema) as engine, asyncio.TaskGroup() as group:
        for i in range(TASKS):
            group.create_task(task(engine, f"{name}-{i}"))
    sys.stdout.write(json.dumps(acknowledged))


async def watch(url: str, schema: str, upto: str, seed: str) -> None:
    """Say what two watchers see, one of which begins anew now and then if there is a seed."""
    chance = random.Random(seed) if seed else None
    async with engine_on(url, schema) as engine:
        seen = await asyncio.gather(
            steady(engine, int(upto)),
            broken(url, schema, int(upto), chance) if chance else steady(engine, int(upto)),
        )
    sys.stdout.write(json.dumps(seen))


async def steady(engine: Engine, upto: int) -> Seen:
    seen: Seen = []
    async with engine.watch(since_rev=0) as states:
        async for state in states:
            seen.append(item(state))
            if state.rev >= upto:
                break
    return seen


async def broken(url: str, schema: str, upto: int, chance: random.Random) -> Seen:
    """Watch with a new connection, or only with a new watch, from where the last one ended."""
    seen: Seen = []
    cursor = 0
    while cursor < upto:
        async with engine_on(url, schema) as engine:
            for _ in range(chance.randrange(1, 4)):
                left = chance.randrange(MOST_BETWEEN_BREAKS)
                async with engine.watch(since_rev=cursor) as states:
                    while left and states.cursor < upto:
                        seen.append(item(await anext(states)))
                        left -= 1
                    cursor = states.cursor
    return seen


async def check_history(url: str, schema: str, commits: int) -> int:
    """Make a history of so many commits, and return how many revisions it has.

    On Postgres, a transaction that has nothing to do with it is open all the time.
    """
    share = commits // WRITERS
    total = WRITERS * sum(map(states_of, range(share)))
    async with (
        engine_on(url, schema) as engine,
        contextlib.nullcontext() if on_redis(url) else open_transaction(url),
        contextlib.AsyncExitStack() as started,
    ):
        jobs = [("watch", f"{total}", seed) for seed in ("", "history")]
        jobs += [("write", f"{name}", f"{share}") for name in range(WRITERS)]
        processes = [
            await started.enter_async_context(process(name, url, schema, *words))
            for name, *words in jobs
        ]
        outputs = [json.loads(text) for text in await asyncio.gather(*map(output_of, processes))]
        log = [item(state) async for state in engine.states()]
    acknowledged: dict[str, list[int]] = {}
    for part in outputs[WATCHING:]:
        acknowledged |= part
    stored: dict[str, list[int]] = {}
    for rev, _, name in log:
        stored.setdefault(name, []).append(rev)
    assert [rev for rev, *_ in log] == list(range(1, total + 1))
    assert len(acknowledged) == share * WRITERS
    assert acknowledged == stored
    for seen in [seen for part in outputs[:WATCHING] for seen in part]:
        assert seen == log
    return len(log)


@contextlib.asynccontextmanager
async def open_transaction(url: str) -> AsyncIterator[None]:
    """Hold a transaction open that has written, and check that it was open until the end."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.execute("CREATE TEMPORARY TABLE other AS SELECT 1")
        yield
        cursor = await connection.execute("SELECT pg_current_xact_id_if_assigned() IS NOT NULL")
        assert await cursor.fetchone() == (True,)


@contextlib.asynccontextmanager
async def process(*words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a process for a job, and kill it at the end if it still runs."""
    started = await asyncio.create_subprocess_exec(
        sys.executable, __file__, *words, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
            await started.communicate()


async def output_of(started: asyncio.subprocess.Process) -> bytes:
    output, _ = await started.communicate()
    assert started.returncode == 0
    return output


JOBS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {"watch": watch, "write": write}

if __name__ == "__main__":
    asyncio.run(JOBS[sys.argv[1]](*sys.argv[2:]))
