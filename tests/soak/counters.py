"""Counters that many tasks increment by compare-and-set, while others watch: exact in the end."""

import asyncio
import random

from flowstate import (
    Commit,
    Driver,
    Engine,
    FlowRegistry,
    Pause,
    RevisionMismatchError,
    State,
    StateContext,
)

__all__ = ["count_up"]

COUNTERS = 50
WATCHERS = 5
EACH = 20  # Increments of a task.


async def count_up(driver: Driver, increments: int, seed: int) -> None:
    """Increment so often on an empty store, and check the sums, the log and what was watched.

    Raises:
        AssertionError: an increment was lost or doubled, or a watcher saw another log.
    """
    rng = random.Random(seed)
    tasks = increments // EACH
    async with Engine(driver, FlowRegistry()) as engine:
        for number in range(COUNTERS):
            ctx = StateContext(State(f"c{number}", annotations={"value": "0"}))
            await engine.do(Commit(Pause(ctx)))
        expected = COUNTERS + tasks * EACH
        watchers = [asyncio.create_task(_watch(engine, expected)) for _ in range(WATCHERS)]
        await asyncio.gather(*(_increment(engine, rng) for _ in range(tasks)))
        seen = await asyncio.gather(*watchers)
        log = [state.rev async for state in engine.states()]
        latest = [state async for state in engine.states(latest_only=True)]
    total = sum(int(state.annotations["value"]) for state in latest)
    assert total == tasks * EACH, f"{tasks * EACH} increments make {total}"
    assert log == list(range(1, expected + 1)), f"the log has {len(log)} revisions of {expected}"
    assert all(each == log for each in seen), "a watcher saw something else than the log"


async def _increment(engine: Engine, rng: random.Random) -> None:
    for _ in range(EACH):
        while True:
            ctx = StateContext(await engine.get_state(f"c{rng.randrange(COUNTERS)}"))
            ctx.set_annotation("value", str(int(ctx.current.annotations["value"]) + 1))
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
