"""Long steps tell how far they have come; the next attempt goes on from there."""

import asyncio
import threading
from typing import Any

import pytest

from flowstate import Engine, FakeClock, FlowRegistry, InvalidInputError, RetryPolicy
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.kernel.current_step import CurrentStep, current_step
from flowstate.engines.kernel.kernel import Kernel
from flowstate.recovery import Recoverer
from tests.engines.kernel.running import kernel_of, revisions
from tests.engines.kernel.tables import line, run

SOON = RetryPolicy(attempts=5, first=1.0, jitter=False)


async def progress(kernel: Kernel, id: str = "i") -> list[Any]:
    """Return what each revision of an instance says of the progress of its step."""
    found = []
    for state in await revisions(kernel, id):
        threads = state.get(dict[str, Any], "threads", default={})
        found.append(threads.get("main", {}).get("progress"))
    return found


async def test_the_next_attempt_goes_on_from_what_was_reported() -> None:
    told: list[tuple[int, Any]] = []

    async def copy() -> int:
        step = current_step()
        done = step.progress or 0
        told.append((step.attempt, done))
        for n in range(done, 10):
            if n == 3 * step.attempt:
                raise ConnectionError
            step.heartbeat(n + 1)
        return 10

    code = line("code", run("a", copy), run("b", copy))

    async with kernel_of(code, retry=SOON) as kernel:
        await kernel.start(code, "i", {})
        assert await kernel.result("i") == [10, 10]

    # The second step begins with nothing.
    assert told == [(1, 0), (2, 3), (3, 6), (4, 9), (1, 0), (2, 3), (3, 6), (4, 9)]


async def test_progress_is_stored_every_five_seconds_at_most() -> None:
    clock = FakeClock()

    async def copy() -> str:
        for n in range(1, 121):
            await clock.sleep(0.1)
            current_step().heartbeat(n)
        return "done"

    code = line("code", run("a", copy))

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})
        await kernel.result("i")

        # Of 120 values in 12 seconds two were stored, and none with the end.
        assert await progress(kernel) == [None, 50, 100, None]


async def test_a_step_without_progress_has_no_commit_of_its_own() -> None:
    clock = FakeClock()

    async def long() -> str:
        for _ in range(100):
            await clock.sleep(1)
            current_step().heartbeat()
        return "done"

    code = line("code", run("a", long, heartbeat_timeout=2.0))

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})
        assert await kernel.result("i") == ["done"]
        assert len(await revisions(kernel, "i")) == 2


async def test_a_step_that_gives_no_heartbeat_has_failed() -> None:
    clock = FakeClock()
    steps: list[CurrentStep] = []

    async def stuck() -> str:
        step = current_step()
        steps.append(step)
        if step.attempt == 1:
            await clock.sleep(25)
            step.heartbeat("half")
            await asyncio.Event().wait()
        return str(step.progress)

    code = line("code", run("a", stuck, heartbeat_timeout=30.0, timeout=100.0))

    async with kernel_of(code, clock=clock, retry=SOON) as kernel:
        began = clock.monotonic()
        await kernel.start(code, "i", {})
        assert await kernel.result("i") == ["half"]
        assert clock.monotonic() - began == pytest.approx(25 + 30 + 1)
        texts = [state.values.get("threads", b"") for state in await revisions(kernel, "i")]
        assert any(b"has given no heartbeat for 30 s" in bytes(each) for each in texts)
        assert steps[0].is_told
        steps[0].heartbeat("late")  # It counts for nothing.
        assert steps[0].progress == "half"


async def test_a_step_in_a_thread_reports_from_there() -> None:
    may_end = threading.Event()

    def copy() -> str:
        step = current_step()
        step.heartbeat({"rows": 5})
        may_end.wait(10)
        return "done"

    code = line("code", run("a", copy))
    clock = FakeClock(autojump=False)

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})
        while (await kernel.engine.get_state("i")).rev == 1:
            await asyncio.sleep(0.001)  # The thread is none of the loop's.
            clock.advance(1.0)
        may_end.set()
        assert await kernel.result("i") == ["done"]
        assert await progress(kernel) == [None, {"rows": 5}, None]


async def test_another_process_goes_on_from_what_was_stored() -> None:
    clock = FakeClock()
    driver = MemoryDriver(clock)
    began: list[Any] = []

    async def copy() -> str:
        step = current_step()
        began.append((step.attempt, step.key, step.progress))
        for n in range(13):
            await clock.sleep(1)
            step.heartbeat(n)
        if len(began) == 1:
            await asyncio.Event().wait()
        return "done"

    code = line("code", run("a", copy))
    async with driver:
        engine = Engine(driver, FlowRegistry(), clock=clock, shutdown_timeout=0.0)
        async with engine, Kernel(engine, [code]) as kernel:
            await kernel.start(code, "i", {})
            await engine.wait_for("i", until=lambda each: b'":9' in bytes(each.values["threads"]))
        async with kernel_of(code, clock=clock, driver=driver) as kernel, Recoverer(kernel.engine):
            assert await kernel.result("i") == ["done"]

    assert began == [(1, "i/main/a/0", None), (1, "i/main/a/0", 9)]


async def test_what_cannot_be_reported() -> None:
    async def copy() -> list[str]:
        texts = []
        for value in ("x" * 5000, object(), float("nan")):
            with pytest.raises(InvalidInputError) as info:
                current_step().heartbeat(value)
            texts.append(str(info.value))
        return texts

    code = line("code", run("a", copy))

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        (texts,) = await kernel.result("i")

    assert texts[0] == "progress: must be at most 4096 bytes as JSON"
    with pytest.raises(LookupError, match="no step runs here"):
        current_step()
