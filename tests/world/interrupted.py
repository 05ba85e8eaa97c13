"""A program that is interrupted while it commits, and while flows run, also in threads.

It prints the id of each commit that was acknowledged.
"""

import asyncio
import contextlib
import signal
import sys
import time

from flowstate import (
    Command,
    Commit,
    Engine,
    Execute,
    FlowRegistry,
    FlowstateError,
    Noop,
    Pause,
    State,
    StateContext,
    Transit,
)
from flowstate.recovery import Recoverer
from tests.world.places import Place

flows = FlowRegistry()
WRITERS = 8


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@flows.flow("block", blocking=True)
def block(ctx: StateContext, engine: Engine) -> Command[None]:
    time.sleep(60.0)
    return Noop()


@flows.flow("wait")
async def wait(ctx: StateContext, engine: Engine) -> Command[None]:
    await asyncio.sleep(60.0)
    return Noop()


async def write(engine: Engine, name: str) -> None:
    for number in range(1_000_000):
        id = f"{name}-{number}"
        await engine.do(Commit(Pause(StateContext(State(id)))))
        say(id)


async def main(place: Place, how: str) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    if how == "SIGTERM":
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    async with Engine(place.driver(), flows, shutdown_timeout=0.3) as engine, Recoverer(engine):
        for flow in ("block", "wait"):
            ctx = StateContext(State(flow))
            await engine.do(Commit(Transit(ctx, flow)), Execute(ctx))
        writers = [asyncio.create_task(write(engine, f"{n}")) for n in range(WRITERS)]
        try:
            await asyncio.gather(*writers)
        finally:
            # As a program does that stops what it has started.
            for writer in writers:
                writer.cancel()
            for writer in writers:
                with contextlib.suppress(asyncio.CancelledError, FlowstateError):
                    await writer


if __name__ == "__main__":
    *words, how = sys.argv[1:]
    try:
        asyncio.run(main(Place(*words), how))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(3)
