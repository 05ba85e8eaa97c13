"""Long runs with exact checks: counters by compare-and-set, histories, clusters under fire."""

import asyncio
import random
from pathlib import Path
from time import monotonic

from flowstate import (
    Commit,
    Driver,
    Engine,
    FlowRegistry,
    GetState,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.drivers.sqlite import SQLiteDriver

__all__ = ["soak", "soak_cluster", "soak_postgres", "soak_redis"]

COUNTERS = 50
JOBS_PER_SECOND = 40
GRACE = 300.0


async def soak(minutes: float, folder: Path, tasks: int = 1_000) -> None:
    """Run rounds of 1,000 tasks with 20 increments each on every driver until the time is up."""
    end = monotonic() + 60 * minutes
    rounds = 0
    while rounds == 0 or monotonic() < end:
        drivers: list[Driver] = [MemoryDriver(), SQLiteDriver(folder / f"soak-{rounds}.db")]
        for driver in drivers:
            start = monotonic()
            await _round(driver, tasks, 20)
            name = type(driver).__name__
            print(f"round {rounds} on {name}: exact, {monotonic() - start:.1f} s", flush=True)
        rounds += 1


async def soak_cluster(minutes: float, folder: Path) -> None:
    """Kill and stop workers on SQLite, and check that each job was done once."""
    await _burn(str(folder / "cluster.db"), minutes, folder)


async def soak_postgres(minutes: float, folder: Path, commits: int = 100_000) -> None:
    """Let processes commit and others watch, and check what they saw; then as on SQLite."""
    from tests.history import check_history  # noqa: PLC0415 - needs an extra
    from tests.servers import PostgresServer  # noqa: PLC0415

    with PostgresServer() as server:
        start = monotonic()
        revisions = await check_history(server.url(), "soak", commits)
        took = monotonic() - start
        print(f"history on Postgres: {revisions:,} revisions, exact, {took:.1f} s", flush=True)
        await _burn(server.url(), minutes, folder)


async def soak_redis(minutes: float, folder: Path, commits: int = 100_000) -> None:
    """As on Postgres."""
    from tests.history import check_history  # noqa: PLC0415 - needs an extra
    from tests.redis_servers import DURABLE, RedisServer  # noqa: PLC0415

    with RedisServer(DURABLE) as server:
        start = monotonic()
        revisions = await check_history(server.url(), "soak", commits)
        took = monotonic() - start
        print(f"history on Redis: {revisions:,} revisions, exact, {took:.1f} s", flush=True)
        await _burn(server.url(), minutes, folder)


async def _burn(url: str, minutes: float, folder: Path) -> None:
    from tests.recovery.fire import check_under_fire  # noqa: PLC0415 - needs an extra

    def say(progress: str) -> None:
        print(f"under fire: {progress}", flush=True)

    seconds = 60 * minutes
    say(
        await check_under_fire(
            url,
            "fire",
            folder,
            jobs=int(JOBS_PER_SECOND * seconds),
            seconds=seconds,
            grace=GRACE,
            say=say,
        )
    )


async def _round(driver: Driver, tasks: int, increments: int) -> None:
    async with Engine(driver, FlowRegistry()) as engine:
        for number in range(COUNTERS):
            ctx = StateContext(State(f"c{number}", annotations={"value": "0"}))
            await engine.do(Commit(Pause(ctx)))
        expected = COUNTERS + tasks * increments
        watchers = [asyncio.create_task(_watch(engine, expected)) for _ in range(5)]
        await asyncio.gather(*(_increment(engine, increments) for _ in range(tasks)))
        lists = await asyncio.gather(*watchers)
        log = [state.rev async for state in engine.states()]
        latest = [state async for state in engine.states(latest_only=True)]
        total = sum(int(state.annotations["value"]) for state in latest)
        if total != tasks * increments or log != list(range(1, expected + 1)):
            raise AssertionError(f"{total} increments in {len(log)} revisions")
        if any(seen != log for seen in lists):
            raise AssertionError("a watcher saw something else than the log")


async def _increment(engine: Engine, times: int) -> None:
    for _ in range(times):
        while True:
            found = await engine.do(GetState(f"c{random.randrange(COUNTERS)}"))
            ctx = StateContext(found)
            ctx.set_annotation("value", str(int(found.annotations["value"]) + 1))
            try:
                await engine.do(Commit(Pause(ctx)))
            except RevisionMismatchError:
                continue
            break


async def _watch(engine: Engine, count: int) -> list[int]:
    revs: list[int] = []
    async with engine.watch() as states:
        async for state in states:
            revs.append(state.rev)
            if len(revs) == count:
                break
    return revs
