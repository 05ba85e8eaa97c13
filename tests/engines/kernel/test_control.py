"""What is said to an instance as a whole: cancel, pause, resume, updates."""

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from flowstate import (
    FakeClock,
    InvalidCommandError,
    RetryPolicy,
    StateNotFoundError,
    Status,
    StoreUnavailableError,
)
from flowstate.driver import StateQuery, States
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.kernel.code import CodeOptions, Update
from flowstate.engines.kernel.current_step import current_step
from flowstate.engines.kernel.errors import Cancelled, InstanceCancelledError
from flowstate.engines.kernel.operations import Until
from tests.engines.kernel.running import kernel_of, stands
from tests.engines.kernel.tables import Table, join, line, run, wait


class Note(msgspec.Struct):
    n: int


class Forever:
    """A step that never ends by itself."""

    def __init__(self) -> None:
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()


async def fail() -> None:
    raise ValueError("no")


async def nothing() -> None:
    pass


PATIENT = RetryPolicy(attempts=9, first=1e6, jitter=False, longest=1e6)
STANDS = {
    "a message": wait("a", Note),
    "a time": wait("a", seconds=1e7),
    "another attempt": run("a", fail, retry=PATIENT),
    "a condition": lambda *_: Until("a", lambda _: False),
    "branches": join("a", wait("x", Note), run("y", fail, retry=PATIENT)),
}


@pytest.mark.parametrize("where", list(STANDS))
async def test_cancel_is_raised_wherever_an_instance_waits(where: str) -> None:
    clock = FakeClock(autojump=False)
    code = line("code", STANDS[where], run("b", nothing), catch=True)

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.cancel("i")
        await kernel.cancel("i")

        assert await kernel.result("i") == ["Cancelled", None]


@pytest.mark.parametrize("where", list(STANDS))
async def test_what_is_not_caught_ends_it_as_cancelled(where: str) -> None:
    clock = FakeClock(autojump=False)
    code = line("code", STANDS[where])

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.cancel("i")
        with pytest.raises(InstanceCancelledError):
            await kernel.result("i")

        assert (await kernel.engine.get_state("i")).labels["outcome"] == "cancelled"


async def test_a_step_that_runs_is_cancelled() -> None:
    step = Forever()
    code = line("code", run("a", step), run("b", nothing), catch=True)

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await step.begun.wait()
        await kernel.cancel("i")

        assert await kernel.result("i") == ["Cancelled", None]
        assert step.ended.is_set()


async def test_a_cancel_is_noticed_although_the_mailbox_could_not_be_read_for_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    step = Forever()
    code = line("code", run("a", step), catch=True)

    class Flaky(MemoryDriver):
        fails = 0

        async def get_states(self, query: StateQuery) -> States:
            if self.fails:
                self.fails -= 1
                raise StoreUnavailableError("for a moment")
            return await super().get_states(query)

    clock = FakeClock()
    driver = Flaky(clock)
    async with kernel_of(code, clock=clock, driver=driver) as kernel:
        await kernel.start(code, "i", {})
        await step.begun.wait()
        driver.fails = 3
        await kernel.cancel("i")

        await step.ended.wait()
        assert await kernel.result("i") == ["Cancelled"]
    assert "the watch of messages to 'i' failed" in caplog.text


async def test_a_control_message_that_cannot_be_read_does_not_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    code = line("code", wait("a", Note))
    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await kernel.engine.signal("i", "$control", {"do": "dance"})
        await kernel.send("i", Note(1))

        assert await kernel.result("i") == [{"n": 1}]
    assert "'i' does not count a message '$control'" in caplog.text


async def test_a_step_in_a_worker_thread_is_told() -> None:
    begun, told = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        for _ in range(10_000):
            if current_step().is_told:
                told.set()
                return
            threading.Event().wait(0.001)  # Other threads have their turn.

    code = line("code", run("a", work), catch=True)

    async with kernel_of(code, clock=FakeClock(autojump=False)) as kernel:
        clock: Any = kernel.engine.clock
        await kernel.start(code, "i", {})
        await asyncio.to_thread(begun.wait, 5.0)
        await kernel.cancel("i")
        result = asyncio.create_task(kernel.result("i"))
        while not result.done():
            clock.advance(0.01)
            await asyncio.sleep(0.001)  # The thread takes real time.
        assert await result == ["Cancelled"]
        assert await asyncio.to_thread(told.wait, 5.0)


async def test_cancel_before_the_first_step_has_begun() -> None:
    code = line("code", run("a", nothing), run("b", nothing), catch=True)

    async with kernel_of(code) as kernel:
        await kernel.engine.signal("i", "$control", "cancel", early=True)
        await kernel.start(code, "i", {})
        assert await kernel.result("i") in ([None, None], ["Cancelled", None])


async def test_a_hard_cancel_ends_it_at_once() -> None:
    step = Forever()
    code = line("code", run("a", step), catch=True)

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await step.begun.wait()
        await kernel.cancel("i", hard=True)
        with pytest.raises(InstanceCancelledError):
            await kernel.result("i")
        await step.ended.wait()

        assert (await kernel.engine.get_state("i")).get(dict, "data") == {}


async def test_what_has_ended_is_not_cancelled() -> None:
    code = line("code", run("a", nothing))

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await kernel.result("i")
        await kernel.cancel("i")
        await kernel.cancel("i", hard=True)
        assert await kernel.result("i") == [None]
        with pytest.raises(StateNotFoundError):
            await kernel.cancel("j")


async def test_a_paused_instance_takes_nothing_until_it_is_resumed() -> None:
    code = line("code", wait("a", Note, seconds=60), run("b", nothing), catch=True)
    clock = FakeClock(autojump=False)

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.pause("i")
        await kernel.engine.wait_for(
            "i", until=lambda each: "notes" in each.values and each.status == "paused"
        )
        await kernel.send("i", Note(1))
        clock.advance(100)
        await kernel.engine.idle()
        assert (await kernel.engine.get_state("i")).status is Status.PAUSED
        await kernel.resume("i")

        # It waited for too long, and that is seen first.
        assert await kernel.result("i") == ["TimeoutError", None]


async def test_a_pause_lets_a_step_end_and_begins_no_other() -> None:
    begun, end = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    async def work() -> None:
        begun.set()
        await end.wait()
        ran.append("work")

    async def more() -> None:
        ran.append("more")

    code = line("code", run("a", work), run("b", more))

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await begun.wait()
        await kernel.pause("i")
        await kernel.engine.wait_for("i", until=lambda each: "notes" in each.values)
        end.set()
        state = await kernel.engine.wait_for("i", status=Status.PAUSED)
        assert (ran, state.labels["stop"]) == (["work"], "b")
        await kernel.resume("i")
        await kernel.result("i")

    assert ran == ["work", "more"]


def add(data: dict[str, int], n: int) -> int:
    if n < 0:
        data["n"] = -1
        raise ValueError("negative")
    data["n"] = data.get("n", 0) + n
    return data["n"]


COUNTING = CodeOptions(updates={"add": Update(int, add)})


async def test_an_update_changes_the_data_and_is_answered() -> None:
    code = line(
        "code",
        lambda *_: Until("a", lambda data: data.get("n") == 5),
        run("b", nothing),
        options=COUNTING,
    )

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        assert await kernel.update("i", "add", 2, key="x") == 2
        assert await kernel.update("i", "add", 2, key="x") == 2
        with pytest.raises(ValueError, match="negative"):
            await kernel.update("i", "add", -1)
        with pytest.raises(LookupError, match="no update 'sub'"):
            await kernel.update("i", "sub", 1)
        with pytest.raises(msgspec.ValidationError):
            await kernel.update("i", "add", "1")
        assert await kernel.update("i", "add", 3) == 5
        assert await kernel.result("i") == [None, None]
        with pytest.raises(InvalidCommandError):
            await kernel.update("i", "add", 3)


async def test_an_update_is_answered_while_a_step_runs() -> None:
    step = Forever()
    code = line("code", run("a", step), options=COUNTING)

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await step.begun.wait()

        assert await kernel.update("i", "add", 2) == 2
        await kernel.cancel("i")


async def test_an_edit_of_the_data_from_outside_while_a_step_runs() -> None:
    begun, ran = asyncio.Event(), []

    async def work() -> str:
        ran.append("run")
        begun.set()
        if len(ran) == 1:
            await asyncio.Event().wait()
        return "done"

    code = line("code", run("a", work))

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await begun.wait()
        await kernel.engine.update("i", lambda ctx: ctx.put({"edited": 1}, "data"))
        await kernel.result("i")
        state = await kernel.engine.get_state("i")

    assert state.get(dict, "data") == {"edited": 1, "code": ["done"]}
    assert ran == ["run", "run"]


async def test_an_instance_that_goes_on_after_cancel_may_end_as_it_likes() -> None:
    def go_on(names: object, data: object, error: BaseException) -> str:
        assert isinstance(error, Cancelled)
        return "b"

    plain = line("plain", wait("a", Note), wait("b", Note))
    code = Table("code", plain.table, catches={"a": go_on})

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.cancel("i")
        await stands(kernel, "i", "b")
        await kernel.cancel("i")
        await kernel.send("i", Note(1))

        assert await kernel.result("i") == [{"n": 1}]
