"""Other processes: some that commit, and one that a watcher hears; run as a program, it is one."""

import argparse
import asyncio
import secrets
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic, monotonic_ns, perf_counter

from msgspec import Struct

from benchmarks.workloads import commits, registry
from flowstate import Commit, Engine, State, StateContext, Transit
from flowstate.drivers.postgres import PostgresDriver

__all__ = ["Deliveries", "Workers", "deliveries"]

ROOT = Path(__file__).parent.parent.parent
WARM_UP = 10  # Commits of each task.
WRITERS = 50
PER_SECOND = 1_000


class Workers:
    """Processes that stay, and commit when they are told to."""

    def __init__(self, processes: list[Process], tasks: int) -> None:
        self._processes = processes
        self._tasks = tasks

    @classmethod
    async def start(
        cls, stack: AsyncExitStack, url: str, schema: str, processes: int, tasks: int
    ) -> "Workers":
        started = [
            await _start(stack, "worker", url, schema, f"--tasks={tasks}") for _ in range(processes)
        ]
        workers = cls(started, tasks)
        await workers.commits(processes * tasks * WARM_UP)
        return workers

    async def commits(self, count: int) -> float:
        """Let them commit so many together; seconds per commit."""
        each = max(1, count // (len(self._processes) * self._tasks)) * self._tasks
        start = perf_counter()
        await asyncio.gather(*(_ask(process, each) for process in self._processes))
        return (perf_counter() - start) / (each * len(self._processes))


async def _start(stack: AsyncExitStack, *arguments: str) -> Process:
    """Start this module as a program that ends when its input does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.postgres.processes",
        *arguments,
        cwd=ROOT,
        stdin=PIPE,
        stdout=PIPE,
    )
    stack.push_async_callback(process.communicate, b"")
    return process


async def _ask(process: Process, count: int) -> None:
    given, answer = process.stdin, process.stdout
    if given is None or answer is None:
        raise AssertionError
    given.write(f"{count}\n".encode())
    if not await answer.readline():
        raise RuntimeError("a process has ended")


class Deliveries(Struct, frozen=True):
    """From commits in another process to a watcher in this one, in seconds.

    Attributes:
        median: of all.
        worst: the 99th percentile.
        apart: from the start of one commit to that of the next.
    """

    median: float
    worst: float
    apart: float


async def deliveries(url: str, schema: str, count: int) -> Deliveries:
    """Watch what another process commits at a steady rate."""
    began: list[int] = []
    seconds: list[float] = []
    driver = PostgresDriver(url, schema=schema)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(Engine(driver, registry()))
        watch = engine.watch(since_rev=await engine.head())
        states = await stack.enter_async_context(watch)
        writer = await _start(stack, "writer", url, schema)
        asking = asyncio.create_task(_ask(writer, count))
        async for state in states:
            if "began" in state.transition.annotations:
                # All processes of a machine share the monotonic clock.
                began.append(int(state.transition.annotations["began"]))
                seconds.append((monotonic_ns() - began[-1]) / 1e9)
                if len(seconds) == count:
                    break
        await asking
    seconds.sort()
    apart = (max(began) - min(began)) / 1e9 / (count - 1)
    return Deliveries(seconds[count // 2], seconds[count * 99 // 100], apart)


async def work(engine: Engine, tasks: int) -> None:
    """Commit as often as the input says, again and again."""
    name = secrets.token_hex(4)
    number = 0
    while line := await asyncio.to_thread(sys.stdin.readline):
        number += 1
        await commits(engine, int(line), tasks, f"{name}-{number}")
        print("done", flush=True)


async def write(engine: Engine) -> None:
    """Commit at a steady rate, and say in each revision when that began."""
    count = int(await asyncio.to_thread(sys.stdin.readline))
    name = secrets.token_hex(4)
    contexts = [StateContext(State(f"{name}-{n}")) for n in range(WRITERS)]

    async def warm_up(ctx: StateContext) -> None:
        for _ in range(WARM_UP):
            await engine.do(Commit(Transit(ctx, "first")))

    await asyncio.gather(*map(warm_up, contexts))
    start = monotonic()

    async def keep_time(ctx: StateContext, first: int) -> None:
        for number in range(first, count, WRITERS):
            await asyncio.sleep(max(0.0, start + number / PER_SECOND - monotonic()))
            await engine.do(Commit(Transit(ctx, "first", {"began": str(monotonic_ns())})))

    await asyncio.gather(*(keep_time(ctx, first) for first, ctx in enumerate(contexts)))
    print("done", flush=True)


async def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["worker", "writer"])
    parser.add_argument("url")
    parser.add_argument("schema")
    parser.add_argument("--tasks", type=int, default=1)
    arguments = parser.parse_args()
    driver = PostgresDriver(arguments.url, schema=arguments.schema)
    async with Engine(driver, registry()) as engine:
        if arguments.role == "worker":
            await work(engine, arguments.tasks)
        else:
            await write(engine)


if __name__ == "__main__":
    asyncio.run(main())
