"""Another event loop: uvloop, where there is one."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from flowstate import (
    Command,
    Commit,
    Delay,
    Delayer,
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    InvalidInputError,
    Pause,
    State,
    StateContext,
    Status,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery import Lease, Recoverer
from tests.world.places import Place

uvloop = pytest.importorskip("uvloop")
LIMIT = 15.0
flows = FlowRegistry()


@flows.flow("end")
async def end(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))


@flows.flow("block", blocking=True)
def block(ctx: StateContext, engine: Engine) -> Command[None]:
    return Commit(End(ctx))


def run(main: Callable[[], Any]) -> Any:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(main(), LIMIT))


def test_all_works(any_place: Place) -> None:
    async def main() -> None:
        async with (
            Engine(any_place.driver(), flows) as engine,
            Delayer(engine, poll_interval=0.1),
            Lease(engine, "a") as lease,
            Recoverer(engine),
            engine.watch(status=Status.ENDED) as states,
        ):
            await lease.wait_held()
            for flow in ("end", "block"):
                ctx = StateContext(State(flow))
                await engine.do(Commit(Delay(ctx, flow, timedelta(milliseconds=20))))
            assert {(await anext(states)).id for _ in range(2)} == {"end", "block"}
            commits = [Commit(Pause(StateContext(State(f"{n}")))) for n in range(200)]
            await asyncio.gather(*map(engine.do, commits))
            task = asyncio.create_task(engine.do(Commit(Pause(StateContext(State("cancelled"))))))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])

    run(main)


def test_the_fake_clock_refuses() -> None:
    """It cannot tell there when to jump, so all would wait without an end."""

    async def main() -> None:
        clock = FakeClock()
        with pytest.raises(InvalidInputError, match="autojump"):
            await Engine(MemoryDriver(clock), flows, clock=clock).__aenter__()

    run(main)


def test_the_fake_clock_that_is_advanced_by_hand() -> None:
    async def main() -> None:
        clock = FakeClock(autojump=False)
        async with (
            Engine(MemoryDriver(clock), flows, clock=clock) as engine,
            Delayer(engine),
            engine.watch(status=Status.ENDED) as states,
        ):
            await engine.do(Commit(Delay(StateContext(State("a")), "end", timedelta(days=3))))
            fired = asyncio.ensure_future(anext(states))
            while not fired.done():
                await asyncio.sleep(0)  # reason: the tasks have to sleep first
                clock.advance(3600.0)
            assert (await fired).id == "a"
            assert clock.monotonic() >= timedelta(days=3).total_seconds()

    run(main)
