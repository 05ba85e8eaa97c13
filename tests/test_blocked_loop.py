"""A flow that blocks the event loop is named in the log: no heartbeat can be sent meanwhile."""

import asyncio
import logging
import threading
import time
from datetime import timedelta

import pytest

from flowstate import (
    Command,
    Commit,
    End,
    Engine,
    FlowRegistry,
    InvalidInputError,
    State,
    StateContext,
    Transit,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.recovery_rules import RETRY_AFTER
from tests.heartbeats import committed


async def test_a_flow_that_blocks_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    flows = FlowRegistry()

    @flows.flow("rude")
    async def rude(ctx: StateContext, engine: Engine) -> Command[None]:
        await asyncio.sleep(0)  # reason: what blocks is not the first part of the flow
        deadline = time.monotonic() + 10.0
        while "blocks the event loop" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)  # noqa: ASYNC251 - reason: this is what is to be noticed
        return Commit(End(ctx))

    with caplog.at_level(logging.WARNING):
        async with Engine(MemoryDriver(), flows, warn_blocked_after=0.1) as engine:
            ctx = StateContext(State("a"))
            await engine.do(Commit(Transit(ctx, "rude")))
            await engine.execute(ctx)
    assert "flow 'rude' of 'a' blocks the event loop" in caplog.text
    assert "time.sleep(0.01)" in caplog.text
    (record,) = [each for each in caplog.records if "blocks" in each.message]
    assert record.flow == "rude"  # type: ignore[attr-defined]


async def test_blocking_flows_disturb_nothing(caplog: pytest.LogCaptureFixture) -> None:
    flows = FlowRegistry()

    @flows.flow("work", blocking=True)
    def work(ctx: StateContext, engine: Engine) -> Command[None]:
        time.sleep(0.3)  # reason: longer than the loop may be blocked
        return Commit(End(ctx))

    async with Engine(MemoryDriver(), flows, warn_blocked_after=0.1) as engine:
        ctx = await committed(engine, **{RETRY_AFTER: str(timedelta(hours=1).total_seconds())})
        await engine.execute(ctx)
    assert caplog.text == ""


@pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan"), "5"])
def test_a_bad_limit_for_blocking_is_refused(seconds: float) -> None:
    with pytest.raises(InvalidInputError, match="warn_blocked_after"):
        Engine(MemoryDriver(), FlowRegistry(), warn_blocked_after=seconds)


async def test_without_a_limit_no_thread_watches_the_loop() -> None:
    flows, threads = FlowRegistry(), set(threading.enumerate())

    @flows.flow("work")
    async def work(ctx: StateContext, engine: Engine) -> Command[None]:
        assert set(threading.enumerate()) <= threads
        return Commit(End(ctx))

    async with Engine(MemoryDriver(), flows, warn_blocked_after=None) as engine:
        await engine.execute(await committed(engine))
