"""A function that blocks is called in a thread of the engine."""

import asyncio
import threading
from contextvars import ContextVar

import pytest

from flowstate import Engine, EngineStoppedError, FlowRegistry
from flowstate.drivers.memory import MemoryDriver

order: ContextVar[str] = ContextVar("order")


def engine() -> Engine:
    return Engine(MemoryDriver(), FlowRegistry(), blocking_threads=1)


async def test_it_gives_what_the_function_returns_with_the_context_of_the_caller() -> None:
    order.set("tea")
    async with engine() as open_engine:
        found = await open_engine.call_in_thread(
            "ask", lambda: (order.get(), threading.current_thread() is threading.main_thread())
        )
    assert found == ("tea", False)


async def test_it_raises_what_the_function_raises() -> None:
    async with engine() as open_engine:
        with pytest.raises(ZeroDivisionError):
            await open_engine.call_in_thread("divide", lambda: 1 // 0)


async def test_a_cancelled_call_goes_on_and_its_thread_is_missed_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        go_on.wait(10.0)

    async with engine() as open_engine:
        task = asyncio.create_task(open_engine.call_in_thread("resize", call))
        await asyncio.to_thread(begun.wait, 10.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "1 of flow 'resize'" in caplog.text
        go_on.set()
        assert await open_engine.call_in_thread("next", lambda: 1) == 1


async def test_an_engine_that_is_not_open_calls_nothing() -> None:
    with pytest.raises(EngineStoppedError):
        await engine().call_in_thread("late", lambda: 1)
