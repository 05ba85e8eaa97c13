"""One process of the job: takes whatever is still active in the store, and finishes it.

It does not know, and need not know, whether a process before it was killed. Run by ``__main__``:
``python -m examples.ingest.worker DATABASE [--workers N] [--crash]``.
"""

import argparse
import asyncio
import os
import signal
import sys
import warnings
from itertools import count
from pathlib import Path

from rich.console import Console

from examples.ingest.flows import FILES, JOB_ID, finish, flows
from examples.ingest.progress import progress
from flowstate import Command, Engine, Execute, State, StateContext, Status
from flowstate.drivers.sqlite import SQLiteDriver

__all__ = ["work"]

STALLED_SECONDS = 60.0


async def work(engine: Engine, console: Console, *, crash: bool) -> None:
    """Finish the job that the store holds, or with ``crash`` about half of it."""
    job = await engine.get_state(JOB_ID)
    if job.status is Status.ACTIVE:
        ctx = StateContext(job)
        await engine.execute(ctx)
        job = ctx.committed
    total = int(job.annotations["files"])
    head = await engine.head()
    listed = engine.states(labels=FILES, latest_only=True, status=Status.ACTIVE)
    active = [state async for state in listed]
    _tell(console, total, active)
    if not active:
        return
    if crash:
        _crash_after(len(active) // 2, head)
    async with asyncio.TaskGroup() as group:
        group.create_task(_follow(engine, console, total, head, {state.id for state in active}))
        for state in active:
            await engine.do(Execute(StateContext(state)))


def _tell(console: Console, total: int, active: list[State]) -> None:
    """Print how far the log has come. A file has left ``start`` when a process has taken it."""
    started = sum(state.transition.to != "start" for state in active)
    if started == 0 and len(active) == total:
        console.print(f"{total:,} files to measure.")
        return
    console.print(
        f"The log has {total:,} files: {total - len(active):,} done, "
        f"{started:,} in flight (redone from their last commit), {len(active) - started:,} left."
    )


async def _follow(
    engine: Engine, console: Console, total: int, since_rev: int, active: set[str]
) -> None:
    """Show how many files have ended, as the log tells it, until all that were active have.

    Raises:
        TimeoutError: nothing has ended for long, so an execution must have failed.
    """
    with progress(console, f"process {os.getpid()}", total, total - len(active)) as show:
        async with engine.watch(labels=FILES, status=Status.ENDED, since_rev=since_rev) as ended:
            while active:
                state = await asyncio.wait_for(anext(ended), STALLED_SECONDS)
                active.discard(state.id)
                show(total - len(active))


def _crash_after(files: int, since_rev: int) -> None:
    """Let the flow ``finish`` kill this process, once so many files have ended."""
    calls = count()

    async def finish_or_die(ctx: StateContext, engine: Engine) -> Command[None]:
        if next(calls) >= files:
            async with engine.watch(
                labels=FILES, status=Status.ENDED, since_rev=since_rev
            ) as ended:
                for _ in range(files):
                    await anext(ended)
            os.kill(os.getpid(), signal.SIGKILL)
        return finish(ctx, engine)

    flows.set("finish", finish_or_die, replace=True)


async def main() -> None:
    """Work on the store that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m examples.ingest.worker")
    parser.add_argument("database", type=Path)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--crash", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore", SyntaxWarning)  # About the files that are measured.
    warnings.simplefilter("ignore", DeprecationWarning)
    driver = SQLiteDriver(options.database)
    async with Engine(driver, flows, max_executions=options.workers) as engine:
        await work(engine, Console(soft_wrap=True, highlight=False), crash=options.crash)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(130)  # What is not finished is still active; the next process goes on with it.
