"""One system in a process of its own: does its work at some concurrency for some seconds.

``python -m benchmarks.peers.workers SYSTEM URL SECONDS CONCURRENCY...`` prints a JSON list of how
many workflows a second it did at each concurrency, and how many milliseconds of CPU each took.
"""

import argparse
import asyncio
import importlib
import json
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.peers.restate import serving
from benchmarks.workloads import registry
from flowstate import Engine, State, StateContext, Transition
from flowstate.drivers.postgres import PostgresDriver

__all__ = ["SYSTEMS"]

WARM_UP = 0.5
ABSURD_TASKS = 150  # For each second.
Figures = list[tuple[float, float]]


class Stopwatch:
    """Counts what is done from its start."""

    def __init__(self, seconds: float) -> None:
        self._start, self._cpu = time.perf_counter(), time.process_time()
        self._end = self._start + seconds
        self.count = 0

    def runs(self) -> bool:
        return time.perf_counter() < self._end

    def figures(self) -> tuple[float, float]:
        """Return how many a second, and milliseconds of this process's CPU for each."""
        seconds, cpu = time.perf_counter() - self._start, time.process_time() - self._cpu
        return self.count / seconds, 1e3 * cpu / max(1, self.count)


async def _tasks(once: Callable[[], Awaitable[Any]], tasks: int, seconds: float) -> Stopwatch:
    """Let so many tasks do it again and again."""
    watch = Stopwatch(seconds)

    async def work() -> None:
        while watch.runs():
            await once()
            watch.count += 1

    await asyncio.gather(*(work() for _ in range(tasks)))
    return watch


async def _measured(
    once: Callable[[], Awaitable[Any]], seconds: float, concurrencies: list[int]
) -> Figures:
    await _tasks(once, max(concurrencies), WARM_UP)
    return [(await _tasks(once, tasks, seconds)).figures() for tasks in concurrencies]


async def flowstate(url: str, seconds: float, concurrencies: list[int]) -> Figures:
    """Chains of three flows with three commits."""
    first = Transition("first")
    async with Engine(PostgresDriver(url), registry()) as engine:

        async def once() -> None:
            await engine.execute(StateContext(State(secrets.token_hex(16), transition=first)))

        return await _measured(once, seconds, concurrencies)


def _launched(url: str) -> Any:
    dbos = importlib.import_module("dbos")
    config = {"name": "peers", "system_database_url": url, "log_level": "ERROR"}
    dbos.DBOS(config=config | {"executor_id": secrets.token_hex(8)})
    return dbos.DBOS


async def dbos_async(url: str, seconds: float, concurrencies: list[int]) -> Figures:
    """Coroutine workflows of three coroutine steps."""
    system = _launched(url)

    @system.step()  # type: ignore[untyped-decorator]
    async def step(number: int) -> int:
        return number

    @system.workflow()  # type: ignore[untyped-decorator]
    async def workflow() -> int:
        return sum([await step(number) for number in range(3)])

    system.launch()
    figures = await _measured(workflow, seconds, concurrencies)
    system.destroy()
    return figures


async def dbos_sync(url: str, seconds: float, concurrencies: list[int]) -> Figures:
    """Workflows of three steps, called by threads."""
    system = _launched(url)

    @system.step()  # type: ignore[untyped-decorator]
    def step(number: int) -> int:
        return number

    @system.workflow()  # type: ignore[untyped-decorator]
    def workflow() -> int:
        return sum(step(number) for number in range(3))

    lock = threading.Lock()

    def measure(threads: int, seconds: float) -> tuple[float, float]:
        watch = Stopwatch(seconds)

        def work() -> None:
            while watch.runs():
                workflow()
                with lock:
                    watch.count += 1

        with ThreadPoolExecutor(threads) as pool:
            for future in [pool.submit(work) for _ in range(threads)]:
                future.result()
        return watch.figures()

    system.launch()
    measure(max(concurrencies), WARM_UP)
    figures = [measure(threads, seconds) for threads in concurrencies]
    system.destroy()
    return figures


async def absurd_async(url: str, seconds: float, concurrencies: list[int]) -> Figures:
    """A worker with coroutine tasks of three steps, that wait in the queue already."""
    absurd = importlib.import_module("absurd_sdk")
    app = absurd.AsyncAbsurd(url, queue_name=secrets.token_hex(8))
    await app.create_queue()
    left = 0

    @app.register_task(name="three")  # type: ignore[untyped-decorator]
    async def three(params: Any, ctx: Any) -> int:
        async def step() -> int:
            return 1

        nonlocal left
        total: int = sum([await ctx.step(str(number), step) for number in range(3)])
        left -= 1
        if not left:
            app.stop_worker()
        return total

    async def measure(tasks: int, count: int) -> tuple[float, float]:
        nonlocal left
        left = count
        for _ in range(count):
            await app.spawn("three", {})
        watch = Stopwatch(0)
        await app.start_worker(concurrency=tasks)
        watch.count = count
        return watch.figures()

    await measure(max(concurrencies), max(concurrencies))
    figures = [await measure(tasks, int(ABSURD_TASKS * seconds)) for tasks in concurrencies]
    await app.close()
    return figures


async def absurd_sync(url: str, seconds: float, concurrencies: list[int]) -> Figures:
    """A worker with threads for tasks of three steps, that wait in the queue already."""
    absurd = importlib.import_module("absurd_sdk")
    app = absurd.Absurd(url, queue_name=secrets.token_hex(8))
    app.create_queue()
    left = 0
    lock = threading.Lock()

    @app.register_task(name="three")  # type: ignore[untyped-decorator]
    def three(params: Any, ctx: Any) -> int:
        nonlocal left
        total: int = sum(ctx.step(str(number), lambda: 1) for number in range(3))
        with lock:
            left -= 1
            if not left:
                app.stop_worker()
        return total

    def measure(threads: int, count: int) -> tuple[float, float]:
        nonlocal left
        left = count
        for _ in range(count):
            app.spawn("three", {})
        watch = Stopwatch(0)
        app.start_worker(concurrency=threads)
        watch.count = count
        return watch.figures()

    measure(max(concurrencies), max(concurrencies))
    figures = [measure(threads, int(ABSURD_TASKS * seconds)) for threads in concurrencies]
    app.close()
    return figures


async def restate(url: str, seconds: float, concurrencies: list[int]) -> Figures:
    """Calls of a service with three steps, which this process serves too."""
    async with serving(url) as call:
        return await _measured(call, seconds, concurrencies)


SYSTEMS = {
    "flowstate": flowstate,
    "DBOS, threads": dbos_sync,
    "DBOS, asyncio": dbos_async,
    "absurd, threads": absurd_sync,
    "absurd, asyncio": absurd_async,
    "Restate": restate,
}


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("system", choices=SYSTEMS)
    parser.add_argument("url")
    parser.add_argument("seconds", type=float)
    parser.add_argument("concurrencies", type=int, nargs="+")
    given = parser.parse_args()
    run = SYSTEMS[given.system](given.url, given.seconds, given.concurrencies)
    print(json.dumps(asyncio.run(run)), flush=True)


if __name__ == "__main__":
    main()
