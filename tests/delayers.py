"""Processes that fire delays and are killed meanwhile: did each delay fire, and only once?

``python delayers.py URL PLACE NAME`` is such a process. The place is a schema on Postgres, a
namespace on Redis, and nothing for SQLite, where the URL is the path of the file.
"""

import asyncio
import contextlib
import itertools
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    End,
    Engine,
    FlowRegistry,
    State,
    StateContext,
)
from flowstate.driver import Driver

__all__ = ["check_killed_delayers"]

PROCESSES = 4
KILLS = 10
TIMEOUT = 30.0  # For the store to be free; the machine may be busy.
AT_ONCE = 100
LONGEST_PAUSE = 0.05


def driver_on(url: str, place: str) -> Driver:
    # Imported here, because every process needs one of them, and many start.
    if url.startswith("redis"):
        from flowstate.drivers.redis import RedisDriver  # noqa: PLC0415

        return RedisDriver(url, namespace=place, timeout=TIMEOUT)
    if url.startswith("postgres"):
        from flowstate.drivers.postgres import PostgresDriver  # noqa: PLC0415

        return PostgresDriver(url, schema=place, timeout=TIMEOUT)
    from flowstate.drivers.sqlite import SQLiteDriver  # noqa: PLC0415

    return SQLiteDriver(url, timeout=TIMEOUT)


def engine_on(url: str, place: str, name: str = "") -> Engine:
    flows = FlowRegistry()

    @flows.flow("due")
    def due(ctx: StateContext, engine: Engine) -> Command[None]:
        return Commit(End(ctx, {"by": name}))

    return Engine(driver_on(url, place), flows)


async def fire(url: str, place: str, name: str) -> None:
    """Fire delays until killed."""
    async with engine_on(url, place, name) as engine, Delayer(engine):
        await asyncio.Event().wait()


async def check_killed_delayers(url: str, place: str, count: int) -> None:
    """Let processes fire so many delays that are due, and kill one after the other."""
    async with engine_on(url, place) as engine:
        ids = [f"delayed-{number}" for number in range(count)]
        for start in range(0, count, AT_ONCE):
            contexts = [StateContext(State(id)) for id in ids[start : start + AT_ONCE]]
            await engine.do(Commit(*(Delay(ctx, "due", after=timedelta(0)) for ctx in contexts)))
        async with contextlib.AsyncExitStack() as started:
            log = await fire_and_kill(engine, started, (url, place), count)
        assert list((await engine.get_delayed_states()).delayed) == []
        assert await engine.head() <= 3 * count
    assert [state.rev for state in log] == list(range(count + 1, count + 1 + len(log)))
    fired = Counter(state.id for state in log if state.transition.cause == "delay")
    assert fired == Counter(ids)
    # Those that a killed process had fired and not ended are left to recovery.
    ended = [state for state in log if state.transition.cause == "end"]
    assert len(log) == count + len(ended)
    assert max(Counter(state.id for state in ended).values()) == 1
    assert len({state.transition.annotations["by"] for state in ended}) > 1


async def fire_and_kill(
    engine: Engine, started: contextlib.AsyncExitStack, words: tuple[str, ...], count: int
) -> list[State]:
    """Return what processes commit until they have fired so many delays."""
    chance = random.Random(count)
    names = map(str, itertools.count())
    running = [
        await started.enter_async_context(process(*words, next(names))) for _ in range(PROCESSES)
    ]
    log: list[State] = []
    async with engine.watch(since_rev=count) as states:
        for fired in range(1, count + 1):
            log.append(await anext(states))
            while log[-1].transition.cause != "delay":
                log.append(await anext(states))
            if fired % (count // (KILLS + 1)) == 0 and fired < count - KILLS:
                await asyncio.sleep(chance.uniform(0, LONGEST_PAUSE))
                victim = running.pop(chance.randrange(PROCESSES))
                assert victim.returncode is None
                victim.kill()
                running.append(await started.enter_async_context(process(*words, next(names))))
    assert [each.returncode for each in running] == [None] * PROCESSES
    assert next(names) == f"{PROCESSES + KILLS}"
    return log


@contextlib.asynccontextmanager
async def process(*words: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a process that fires delays, and kill it at the end if it still runs."""
    started = await asyncio.create_subprocess_exec(sys.executable, __file__, *words)
    try:
        yield started
    finally:
        if started.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                started.kill()
        await started.wait()


if __name__ == "__main__":
    asyncio.run(fire(*sys.argv[1:]))
