"""Jobs for processes of their own: ``python workers.py JOB PATH [ARGUMENT...]``."""

import asyncio
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from typing import Any

from flowstate import (
    Command,
    Commit,
    Engine,
    FlowRegistry,
    FlowstateError,
    Noop,
    RevisionMismatchError,
    State,
    StateContext,
    Transit,
)
from flowstate.driver import DueQuery, Heartbeat
from flowstate.drivers.sqlite import SQLiteDriver


def say(*words: object) -> None:
    """Write a line, at once and in one piece."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def told() -> str:
    """Wait for a line from the process that started this one."""
    line: str = await asyncio.to_thread(sys.stdin.readline)
    return line.strip()


async def stay(ctx: StateContext, engine: Engine) -> Command[None]:
    return Noop()


def engine_on(path: str, **options: Any) -> Engine:
    flows = FlowRegistry()
    flows.set("next", stay)
    return Engine(SQLiteDriver(path, **options), flows)


async def increment_once(engine: Engine, id: str) -> None:
    """Add one to a counter by compare-and-set, however often another task is faster."""
    while True:
        ctx = StateContext(await engine.get_state(id))
        ctx.set_annotation("count", str(int(ctx.current.annotations["count"]) + 1))
        try:
            await engine.do(Commit(Transit(ctx, "next")))
        except RevisionMismatchError:
            continue
        return


async def increment(path: str, counters: str, tasks: str, times: str) -> None:
    """Increment each of the counters, in several tasks."""

    async def task(first: int) -> None:
        for i in range(first, first + int(times)):
            await increment_once(engine, f"counter-{i % int(counters)}")

    async with engine_on(path, timeout=30.0) as engine, asyncio.TaskGroup() as group:
        for i in range(int(tasks)):
            group.create_task(task(i))


async def tail(path: str, upto: str) -> None:
    """Say every revision up to a certain one, as a watcher sees it."""
    async with engine_on(path) as engine, engine.watch(since_rev=0) as states:
        async for state in states:
            say(state.rev, state.id, state.annotations.get("count"))
            if state.rev == int(upto):
                return


async def clock(path: str, count: str) -> None:
    """Say when each of so many revisions was seen, in nanoseconds since the machine started."""
    async with engine_on(path) as engine, engine.watch(since_rev=0) as states:
        say("ready")
        for _ in range(int(count)):
            state = await anext(states)
            say(state.rev, time.monotonic_ns())


async def flood(path: str, tasks: str) -> None:
    """Commit without a pause, until killed."""

    async def task(id: str) -> None:
        ctx = StateContext(State(id))
        while True:
            await engine.do(Commit(Transit(ctx, "next")))

    async with engine_on(path, timeout=30.0) as engine, asyncio.TaskGroup() as group:
        for i in range(int(tasks)):
            group.create_task(task(f"flood-{os.getpid()}-{i}"))
        await wait_for_head(engine, 1)
        say("writing")


async def wait_for_head(engine: Engine, rev: int) -> None:
    async with engine.watch(since_rev=0) as states:
        async for state in states:
            if state.rev >= rev:
                return


async def acknowledge(path: str, run: str, tasks: str) -> None:
    """Commit two states at a time until killed, and say each acknowledged revision."""

    async def task(number: int) -> None:
        for i in itertools.count():
            pair = [StateContext(State(f"{run}-{number}-{i}-{half}")) for half in "ab"]
            await engine.do(Commit(*(Transit(ctx, "next") for ctx in pair)))
            say(*(f"{ctx.committed.rev}={ctx.committed.id}" for ctx in pair))

    async with engine_on(path, timeout=30.0) as engine, asyncio.TaskGroup() as group:
        for number in range(int(tasks)):
            group.create_task(task(number))


async def hold(path: str) -> None:
    """Hold the writer lock, in the middle of a transaction, until told to go on."""
    driver = SQLiteDriver(path)
    async with driver:
        file = driver._opened()._file
        assert file is not None

        def write_and_wait(_connection: object) -> None:
            say("holding")
            sys.stdin.readline()

        await asyncio.to_thread(file.write, write_and_wait)
        say("released")


async def fork(path: str) -> None:
    """Fork a child that outlives this process, which dies in the middle of a transaction."""
    async with SQLiteDriver(path) as driver:
        file = driver._opened()._file
        assert file is not None

        def fork_and_wait(_connection: object) -> None:
            child = os.fork()
            if child == 0:
                time.sleep(60)
                os._exit(0)
            say(child)
            sys.stdin.readline()

        await asyncio.to_thread(file.write, fork_and_wait)


async def beat(path: str) -> None:
    """Say whether each heartbeat that is told counts, or which states have stalled."""
    async with SQLiteDriver(path, timeout=30.0) as driver:
        while line := await told():
            if line == "stalled":
                page = await driver.get_due(DueQuery("stall"))
                say(*(each.id for each in page.due))
            else:
                id, rev, seconds, note = line.split()
                say(*await driver.beat([Heartbeat(id, int(rev), float(seconds), note)]))


async def open_and_close(path: str) -> None:
    """Say the store's id, as soon as told to begin."""
    say("ready")
    await told()
    async with SQLiteDriver(path, timeout=30.0) as driver:
        say(driver.store_id)


async def attempt(path: str, user: str) -> None:
    """Say what opening and committing comes to, as another user."""
    with tempfile.TemporaryDirectory() as folder:  # Loads what the other user may not read.
        async with engine_on(f"{folder}/store.db") as engine:
            await engine.get_states()
    if user != "same":
        os.setuid(int(user))
    try:
        async with engine_on(path) as engine:
            await engine.do(Commit(Transit(StateContext(State("attempt")), "next")))
    except FlowstateError as error:
        say(type(error).__name__)
    else:
        say("committed")


JOBS: dict[str, Callable[..., Coroutine[Any, Any, None]]] = {
    "acknowledge": acknowledge,
    "attempt": attempt,
    "beat": beat,
    "clock": clock,
    "flood": flood,
    "fork": fork,
    "hold": hold,
    "increment": increment,
    "open": open_and_close,
    "tail": tail,
}

if __name__ == "__main__":
    asyncio.run(JOBS[sys.argv[1]](*sys.argv[2:]))
