"""A stop ends in time, hands over what it interrupts, and says what is left."""

import asyncio
import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import pytest

from flowstate import (
    Command,
    Commit,
    CommitUnknownError,
    End,
    Engine,
    EngineStoppedError,
    Execute,
    FakeClock,
    FlowRegistry,
    Noop,
    Pause,
    State,
    StateContext,
    Transit,
)
from flowstate.driver import DueQuery, Heartbeat, Verdict, Writes
from flowstate.drivers.memory import MemoryDriver
from flowstate.executions.execution import read_note
from flowstate.testcases.support import DriverWrapper

BLOCKED_PROGRAM = """
import asyncio, time
from flowstate import *
from flowstate.drivers.memory import MemoryDriver
flows = FlowRegistry()
@flows.flow("block", blocking=True)
def block(ctx, engine):
    time.sleep(100.0)
async def main():
    async with Engine(MemoryDriver(), flows, shutdown_timeout=0.2) as engine:
        ctx = StateContext(State("a"))
        await engine.do(Commit(Transit(ctx, "block")), Execute(ctx))
        await asyncio.sleep(0.1)
asyncio.run(main())
"""


class Recorder(DriverWrapper):
    """Keeps what heartbeats say."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(MemoryDriver(clock))
        self.beats: list[Heartbeat] = []

    async def beat(self, heartbeats: Sequence[Heartbeat]) -> Sequence[bool]:
        self.beats += heartbeats
        return await super().beat(heartbeats)

    def handed_over(self) -> set[str]:
        return {beat.id for beat in self.beats if read_note(beat.note).handed_over}


def waiting_flows(begun: asyncio.Event) -> FlowRegistry:
    flows = FlowRegistry()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        begun.set()
        await asyncio.Event().wait()
        return Noop()

    return flows


async def committed(engine: Engine, id: str) -> StateContext:
    ctx = StateContext(State(id))
    await engine.do(Commit(Transit(ctx, "work")))
    return ctx


async def test_what_is_interrupted_or_never_began_is_due_at_once() -> None:
    clock, begun = FakeClock(), asyncio.Event()
    driver = Recorder(clock)
    options = {"clock": clock, "shutdown_timeout": 0.0, "max_executions": 1}
    async with driver:
        async with Engine(driver, waiting_flows(begun), **options) as engine:  # type: ignore[arg-type]
            for id in ("running", "pending"):
                await engine.do(Execute(await committed(engine, id)))
            foreground = asyncio.create_task(engine.execute(await committed(engine, "foreground")))
            await committed(engine, "untouched")
            await begun.wait()
        with pytest.raises(EngineStoppedError):
            await foreground
        due = await driver.get_due(DueQuery("stall"))
    assert driver.handed_over() == {"running", "pending", "foreground"}
    assert {stalled.id for stalled in due.due} == {"running", "pending", "foreground"}


async def test_what_ends_in_time_is_not_handed_over() -> None:
    clock, flows = FakeClock(), FlowRegistry()
    driver = Recorder(clock)

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        await ctx.wait_stopping()
        return Commit(End(ctx))

    async with Engine(driver, flows, clock=clock) as engine:
        await engine.do(Execute(await committed(engine, "a")))
    assert driver.handed_over() == set()


async def test_what_a_thread_goes_on_with_is_not_handed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, flows = FakeClock(), FlowRegistry()
    driver, begun, go_on = Recorder(clock), threading.Event(), threading.Event()

    @flows.flow("work", blocking=True)
    def work(ctx: StateContext, engine: Engine) -> Command[None]:
        begun.set()
        go_on.wait(10.0)
        return Noop()

    options = {"clock": clock, "shutdown_timeout": 0.05, "blocking_threads": 1}
    async with Engine(driver, flows, **options) as engine:  # type: ignore[arg-type]
        for id in ("in a thread", "waits for a thread"):
            await engine.do(Execute(await committed(engine, id)))
        await asyncio.to_thread(begun.wait)
    go_on.set()
    assert driver.handed_over() == {"waits for a thread"}
    assert caplog.text.count("blocking flow 'work' still runs") == 1


def test_a_flow_that_blocks_does_not_hold_the_process() -> None:
    began = time.monotonic()
    command = [sys.executable, "-W", "error", "-c", BLOCKED_PROGRAM]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30.0)
    assert time.monotonic() - began < 10.0
    assert done.stderr.strip() == "blocking flow 'block' still runs"


async def test_blocking_flows_that_end_during_the_stop_are_no_trouble(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flows, number = FlowRegistry(), 20

    @flows.flow("work", blocking=True)
    def work(ctx: StateContext, engine: Engine) -> Command[None]:
        time.sleep(0.01 * int(ctx.current.id))  # reason: they end one after the other
        return Noop()

    async with Engine(
        MemoryDriver(), flows, shutdown_timeout=0.1, blocking_threads=number
    ) as engine:
        for each in range(number):
            await engine.do(Execute(await committed(engine, str(each))))
        await asyncio.sleep(0.02)  # reason: they have to begin
    assert "Error" not in caplog.text


async def test_a_flow_that_swallows_its_cancellation_does_not_hold_the_stop(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowstate.runtime.CANCEL_GRACE", 0.05)
    flows, go_on, begun = FlowRegistry(), asyncio.Event(), asyncio.Event()

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        begun.set()
        while not go_on.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await go_on.wait()
        return Noop()

    async with Engine(MemoryDriver(), flows, shutdown_timeout=0.0) as engine:
        outcome = await engine.begin(await committed(engine, "a"))
        await begun.wait()
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 3.0
    assert "flowstate a does not end although it is cancelled" in caplog.text
    go_on.set()
    await outcome


class Hanging(DriverWrapper):
    """Does not answer commits once it hangs."""

    def __init__(self) -> None:
        super().__init__(MemoryDriver())
        self.max_batch_size = 64
        self.is_hanging = asyncio.Event()
        self.go_on = asyncio.Event()

    async def commit(self, batch: Sequence[Writes]) -> Sequence[Verdict]:
        if self.is_hanging.is_set():
            await self.go_on.wait()
        return await super().commit(batch)


async def test_a_commit_without_an_answer_does_not_hold_the_stop(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowstate.runtime.GRACE", 0.05)
    driver = Hanging()
    async with Engine(driver, FlowRegistry(), shutdown_timeout=0.0) as engine:
        driver.is_hanging.set()
        committing = asyncio.create_task(engine.do(Commit(Pause(StateContext(State("a"))))))
        await asyncio.sleep(0.01)  # reason: it has to be on its way
        stopping = time.monotonic()
    assert time.monotonic() - stopping < 3.0
    assert "unknown" in caplog.text
    with pytest.raises(CommitUnknownError):
        await committing


async def test_an_engine_that_has_stopped_refuses_all() -> None:
    engine = Engine(MemoryDriver(), FlowRegistry())
    ctx = StateContext(State("a"))
    for _ in range(2):
        with pytest.raises(EngineStoppedError):
            engine.reserve()
        with pytest.raises(EngineStoppedError):
            engine.watch()
        with pytest.raises(EngineStoppedError):
            await engine.do(Pause(ctx))
        with pytest.raises(EngineStoppedError):
            await engine.idle()
        if engine._refusal == "the engine is not open":
            async with engine:
                pass


async def test_many_executions_are_cancelled_in_linear_time() -> None:
    async def seconds(number: int) -> float:
        begun = asyncio.Event()
        options = {"shutdown_timeout": 0.0, "max_executions": 10_000, "warn_blocked_after": None}
        async with Engine(MemoryDriver(), waiting_flows(begun), **options) as engine:  # type: ignore[arg-type]
            for each in range(number):
                await engine.do(Execute(await committed(engine, str(each))))
            await asyncio.sleep(0)  # reason: they have to begin
            began = time.process_time()
        return time.process_time() - began

    logging.disable(logging.CRITICAL)
    try:
        assert await seconds(4_000) < 12 * await seconds(1_000) + 0.5
    finally:
        logging.disable(logging.NOTSET)


async def test_a_watch_that_is_opened_while_the_engine_stops_ends_at_once() -> None:
    flows = FlowRegistry()
    opened = asyncio.Event()

    @flows.flow("actor")
    async def actor(ctx: StateContext, engine: Engine) -> Command[None]:
        opened.set()
        await ctx.wait_stopping()
        async with engine.watch(labels={"inbox": "a"}) as states:
            await anext(states)
        raise AssertionError("no message was sent")

    began = time.monotonic()
    async with Engine(MemoryDriver(), flows, shutdown_timeout=30) as engine:
        ctx = StateContext(State("a"))
        await engine.do(Commit(Transit(ctx, "actor")), Execute(ctx))
        await opened.wait()

    assert time.monotonic() - began < 15
