"""Watches of one engine share a reader of the log; each is right wherever it starts."""

import asyncio

from flowstate import Commit, Engine, FlowRegistry, Pause, State, StateContext
from flowstate.drivers.memory import MemoryDriver


async def test_a_watch_that_is_ahead_of_the_shared_reader_waits_for_what_is_new() -> None:
    async with Engine(MemoryDriver(), FlowRegistry()) as engine, engine.watch() as first:
        await engine.do(Commit(Pause(StateContext(State("1")))))
        assert (await anext(first)).rev == 1  # From here on the reader exists.
        # Neither this commit nor this read of the store gives the reader a turn of its own.
        await engine.do(Commit(Pause(StateContext(State("2")))))
        async with engine.watch(since_rev=1) as second:
            assert (await anext(second)).rev == 2
            third = asyncio.create_task(engine.do(Commit(Pause(StateContext(State("3"))))))
            assert (await anext(second)).rev == 3
            await third
            assert [(await anext(first)).rev for _ in range(2)] == [2, 3]
