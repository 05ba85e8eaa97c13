"""From a commit in one process to a watcher in another; run as a program, it is the writer."""

import asyncio
import sys
from pathlib import Path
from statistics import median
from time import monotonic_ns

from benchmarks.workloads import registry
from flowstate import Commit, Engine, State, StateContext, Transit
from flowstate.drivers.sqlite import SQLiteDriver

__all__ = ["between_processes"]

ROOT = Path(__file__).parent.parent
PAUSE = 0.01


async def between_processes(engine: Engine, path: Path, count: int) -> float:
    """Watch what another process commits; the median seconds from the call to the watcher."""
    seconds: list[float] = []
    async with engine.watch(since_rev=await engine.head()) as states:
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.processes", str(path), str(count), cwd=ROOT
        )
        async for state in states:
            # All processes of a machine share the monotonic clock.
            began = int(state.transition.annotations["began"])
            seconds.append((monotonic_ns() - began) / 1e9)
            if len(seconds) == count:
                break
        await writer.wait()
    return median(seconds)


async def write(path: Path, count: int) -> None:
    """Commit now and then, and say in each revision when that began."""
    async with Engine(SQLiteDriver(path), registry()) as engine:
        ctx = StateContext(State("written"))
        for _ in range(count):
            await asyncio.sleep(PAUSE)
            await engine.do(Commit(Transit(ctx, "first", {"began": str(monotonic_ns())})))


if __name__ == "__main__":
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[2])))
