"""Forks, threads and event loops: what is open belongs to one process and one event loop."""

import asyncio
import os
import signal
import threading
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from flowstate.commands import Commit, Pause
from flowstate.context import StateContext
from flowstate.engine import Engine
from flowstate.errors import (
    DriverClosedError,
    EngineStoppedError,
    FlowstateError,
    RevisionMismatchError,
)
from flowstate.state import State
from flowstate.testcases.harness import Case, Harness, case, check
from flowstate.testcases.support import committed

__all__ = ["CASES"]

LIMIT = 30  # Seconds until a child is killed.
SIZE = 10_000


async def _in_child(do: Callable[[], Coroutine[Any, Any, str]]) -> str:
    """Return what a coroutine returns in a process that is forked now."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns of forks while threads run.
        pid = os.fork()
    if not pid:
        _child(do, write)
    os.close(write)
    try:
        return await asyncio.to_thread(_answer, read, pid)
    finally:
        os.close(read)


def _child(do: Callable[[], Coroutine[Any, Any, str]], write: int) -> None:
    """Do something in a new event loop, tell it, and end at once: nothing here is ours."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(LIMIT)
    try:
        told = asyncio.run(do())
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent has to know
        told = f"{type(error).__name__}: {error}"
    os.write(write, told.encode()[:SIZE])
    os._exit(0)


def _answer(read: int, pid: int) -> str:
    told = os.read(read, SIZE)
    os.waitpid(pid, 0)
    return told.decode()


async def _error_of(call: Callable[[], Awaitable[object]]) -> str:
    try:
        await call()
    except FlowstateError as error:
        return type(error).__name__
    return "none"


@case("fork", real_time=True)
async def fork_with_an_open_engine(h: Harness) -> None:
    """G8: an engine and a driver that are open refuse at once in a child, and go on here."""
    await committed(h, "before")
    ctx = h.ctx("new")

    async def child() -> str:
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: h.engine.do(Commit(Pause(ctx))),
            lambda: h.engine.get_state("before"),
            lambda: h.engine.execute(ctx),
            lambda: h.driver.get_state("before"),
            lambda: h.driver.commit([]),
        ]
        return " ".join([await _error_of(call) for call in calls])

    told = await _in_child(child)
    expected = [EngineStoppedError.__name__] * 3 + [DriverClosedError.__name__] * 2
    check(told.split(), expected, "errors in the child")
    after = await committed(h, "after")
    check([s.rev for s in await h.log()], [1, 2], "log")
    check(await h.engine.get_state("after"), after.committed, "what is committed afterwards")


@case("fork", "durable", "shared", real_time=True)
async def engine_that_was_made_before_a_fork(h: Harness) -> None:
    """G2, G8: of several children that enter an engine made before, one wins each state."""
    await h.close()  # A store in a file must not be open in the process that forks.
    engine = h.make_engine(h.make_driver())
    children = 4

    async def child(number: int) -> str:
        async with engine:
            ctx = StateContext(State("seat", annotations={"holder": str(number)}))
            try:
                await engine.do(Commit(Pause(ctx)))
            except RevisionMismatchError:
                won = "lost"
            else:
                won = "won"
            await engine.do(Commit(Pause(StateContext(State(f"own-{number}")))))
            return f"{won} {engine.name}"

    told = await asyncio.gather(*(_in_child(partial(child, n)) for n in range(children)))
    outcomes = sorted(each.partition(" ")[0] for each in told)
    check(outcomes, ["lost"] * (children - 1) + ["won"], f"who won: {told}")
    check(len({each.partition(" ")[2] for each in told}), children, "names of the engines")
    await h.reopen()
    ids = sorted(state.id for state in await h.log())
    check(ids, [*(f"own-{n}" for n in range(children)), "seat"], "states in the log")
    winner = [number for number, each in enumerate(told) if each.startswith("won")]
    seat = await h.engine.get_state("seat")
    check(dict(seat.annotations), {"holder": str(winner[0])}, "who has the seat")


def _in_thread(call: Callable[[], Awaitable[object]], into: list[str]) -> threading.Thread:
    """Do something in an event loop of another thread, as code without one would."""

    async def run() -> str:
        try:
            return await asyncio.wait_for(_error_of(call), LIMIT)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the case has to know
            return repr(error)

    thread = threading.Thread(target=lambda: into.append(asyncio.run(run())), daemon=True)
    thread.start()
    return thread


@case(real_time=True)
async def engine_of_another_event_loop(h: Harness) -> None:
    """G9: calls from another event loop are refused at once, and disturb nothing."""
    ctx = await committed(h, "mine")

    async def busy() -> None:
        for number in range(50):
            await h.engine.do(Commit(Pause(h.ctx(f"busy-{number}"))))

    calls: list[Callable[[Engine], Awaitable[object]]] = [
        lambda engine: engine.do(Commit(Pause(StateContext(State("theirs"))))),
        lambda engine: engine.get_state("mine"),
        lambda engine: engine.execute(ctx),
        lambda engine: engine.head(),
    ]
    working = [asyncio.create_task(busy())]
    told: list[str] = []
    threads = [_in_thread(partial(call, h.engine), told) for call in calls]
    for thread in threads:
        await asyncio.to_thread(thread.join, LIMIT)
    await asyncio.gather(*working)
    check(told, ["InvalidInputError"] * len(calls), "errors in other event loops")
    check(await h.engine.head(), 51, "head")


@case(real_time=True)
async def engine_asked_from_a_thread(h: Harness) -> None:
    """G9: a thread without an event loop hands its commands to that of the engine."""
    loop = asyncio.get_running_loop()

    def work(number: int) -> None:
        command = Commit(Pause(StateContext(State(f"s-{number}"))))
        asyncio.run_coroutine_threadsafe(h.engine.do(command), loop).result(LIMIT)

    await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(10)))
    check(len(await h.log()), 10, "revisions")


CASES: tuple[Case, ...] = (
    fork_with_an_open_engine,
    engine_that_was_made_before_a_fork,
    engine_of_another_event_loop,
    engine_asked_from_a_thread,
)
