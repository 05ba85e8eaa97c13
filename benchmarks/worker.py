"""A process of its own that commits when it is told to.

``python -m benchmarks.worker ROLE STORE WHERE NAME [--tasks N] [--pace N]`` reads how many commits
are wanted, line by line, and answers each with the seconds of CPU that they took.
"""

import argparse
import asyncio
import secrets
import sys
from time import monotonic, monotonic_ns, process_time

from benchmarks.flows import registry
from benchmarks.stores.store import Address
from benchmarks.suites.commits import commit_together
from benchmarks.suites.workers import BEGAN
from flowstate import Commit, Engine, State, StateContext, Transit

__all__ = ["main"]

WARM_UP = 10  # Commits of each task.


async def _commit(engine: Engine, tasks: int, count: int) -> None:
    await commit_together(engine, count, tasks, secrets.token_hex(8))


async def _write(engine: Engine, tasks: int, pace: float, count: int) -> None:
    """Commit so often in a second, and say in each revision when that began."""
    name = secrets.token_hex(8)
    contexts = [StateContext(State(f"{name}-{task}")) for task in range(tasks)]
    start = monotonic()

    async def keep_time(ctx: StateContext, first: int) -> None:
        for number in range(first, count, tasks):
            await asyncio.sleep(max(0.0, start + number / pace - monotonic()))
            await engine.do(Commit(Transit(ctx, "first", {BEGAN: str(monotonic_ns())})))

    await asyncio.gather(*(keep_time(ctx, first) for first, ctx in enumerate(contexts)))


async def _work(arguments: argparse.Namespace) -> None:
    address = Address(arguments.store, arguments.where, arguments.name)
    async with Engine(address.driver(), registry()) as engine:
        await _commit(engine, arguments.tasks, WARM_UP * arguments.tasks)
        while line := await asyncio.to_thread(sys.stdin.readline):
            cpu = process_time()
            if arguments.role == "committer":
                await _commit(engine, arguments.tasks, int(line))
            else:
                await _write(engine, arguments.tasks, arguments.pace, int(line))
            print(process_time() - cpu, flush=True)


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["committer", "writer"])
    parser.add_argument("store")
    parser.add_argument("where")
    parser.add_argument("name")
    parser.add_argument("--tasks", type=int, default=1)
    parser.add_argument("--pace", type=float, default=100.0)
    asyncio.run(_work(parser.parse_args()))


if __name__ == "__main__":
    main()
