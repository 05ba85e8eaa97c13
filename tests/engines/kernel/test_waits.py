"""Waits: for typed messages, for times, and for conditions of the data."""

import asyncio
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from flowstate import FakeClock, RetryPolicy
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.kernel.code import CodeOptions
from flowstate.engines.kernel.operations import Call, Join, Run, Until
from tests.engines.kernel.running import kernel_of, revisions, stands
from tests.engines.kernel.tables import Done, Table, join, line, run, wait


class Approved(msgspec.Struct):
    by: str


class Refused(msgspec.Struct):
    why: str = ""


BOTH = line("both", wait("a", Approved, Refused), wait("b", Approved), data=dict[str, object])


async def nothing() -> None:
    pass


async def test_messages_are_taken_in_order_and_typed() -> None:
    async with kernel_of(BOTH) as kernel:
        await kernel.start(BOTH, "i", {})
        await stands(kernel, "i", "a")
        await kernel.send("i", Refused("no"))
        await kernel.send("i", Approved("anna"))

        assert await kernel.result("i") == [{"why": "no"}, {"by": "anna"}]


async def test_messages_that_come_early_are_kept() -> None:
    async with kernel_of(BOTH) as kernel:
        await kernel.send("i", Approved("anna"), early=True, key="1")
        await kernel.send("i", Approved("anna"), early=True, key="1")
        await kernel.start(BOTH, "i", {})
        await stands(kernel, "i", "b")
        await kernel.send("i", Approved("bob"), key="2")

        assert await kernel.result("i") == [{"by": "anna"}, {"by": "bob"}]


async def test_a_message_that_comes_while_a_step_runs_is_kept() -> None:
    begun, end = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        begun.set()
        await end.wait()
        return "done"

    code = line("late", run("a", work), wait("b", Approved))

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await begun.wait()
        await kernel.send("i", Approved("anna"))
        end.set()

        assert await kernel.result("i") == ["done", {"by": "anna"}]


async def test_a_thread_that_waits_gets_its_message_while_others_run() -> None:
    begun, end, got = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> str:
        begun.set()
        await end.wait()
        return "done"

    async def tell() -> None:
        got.set()

    code = line(
        "two",
        join("a", run("work", work), join("seq", wait("w", Approved))),
        run("b", tell),
    )
    quick = line("quick", join("a", run("work", work), wait("w", Approved), wanted=1))

    async with kernel_of(code, quick) as kernel:
        await kernel.start(quick, "q", {})
        await begun.wait()
        await kernel.send("q", Approved("anna"))
        assert await kernel.result("q") == [[{"by": "anna"}]]

        await kernel.start(code, "i", {})
        await kernel.send("i", Approved("anna"))
        end.set()
        assert await kernel.result("i") == [["done", [{"by": "anna"}]], None]
        assert got.is_set()


async def test_a_message_that_lies_there_before_the_wait_begins_while_others_run() -> None:
    clock, end, told = FakeClock(), asyncio.Event(), asyncio.Event()

    async def long() -> str:
        await end.wait()
        return "long"

    async def short() -> None:
        await clock.sleep(2)

    async def tell() -> None:
        told.set()

    other = line("other", run("x", short), wait("y", Approved), run("z", tell), data=None)
    code = line(
        "code",
        lambda *_: Join("a", [Run("l", long), Call("c", other, {})], None),
        uses={"other": other},
    )

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})
        await kernel.send("i", Approved("anna"))
        await told.wait()
        end.set()
        await kernel.result("i")


async def test_a_cancel_is_noticed_between_many_short_steps() -> None:
    clock = FakeClock()

    async def short() -> None:
        clock.advance(0.1)

    def again(names: object, data: dict[str, int], value: object) -> str:
        data["n"] = data.get("n", 0) + 1
        assert data["n"] < 1_000
        return "a"

    code = Table(
        "code", {"a": (run("a", short), again)}, catches={"a": lambda _, data, __: Done(data["n"])}
    )
    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})
        await kernel.engine.wait_for("i", until=lambda each: each.get(dict, "data").get("n", 0) > 9)
        await kernel.cancel("i")

        assert 9 < await kernel.result("i") < 30


async def test_a_wait_ends_in_time_and_may_be_caught() -> None:
    clock = FakeClock()
    code = line("late", wait("a", Approved, seconds=600), run("b", nothing), catch=True)

    async with kernel_of(code, clock=clock) as kernel:
        began = clock.now()
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["TimeoutError", None]
    assert clock.now() - began == timedelta(seconds=600)


async def test_a_message_ends_the_timeout() -> None:
    clock = FakeClock()
    code = line("late", wait("a", Approved, seconds=600), wait("b", seconds=6_000), catch=True)

    async with kernel_of(code, clock=clock) as kernel:
        began = clock.now()
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await clock.sleep(100)
        await kernel.send("i", Approved("anna"))

        assert await kernel.result("i") == [{"by": "anna"}, None]
    assert clock.now() - began == timedelta(seconds=6_100)


async def test_a_sleep_lasts_as_long_as_it_says() -> None:
    clock = FakeClock()
    code = line("sleep", wait("a", seconds=86_400))

    async with kernel_of(code, clock=clock) as kernel:
        began = clock.now()
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == [None]
        assert clock.now() - began == timedelta(days=1)
        assert len(await revisions(kernel, "i")) == 4


class Wrong:
    """A clock that shows another time of day than the one of the process."""

    def __init__(self, clock: FakeClock, ahead: timedelta) -> None:
        self.clock, self.ahead = clock, ahead
        self.monotonic, self.sleep, self.working = clock.monotonic, clock.sleep, clock.working

    def now(self) -> datetime:
        return self.clock.now() + self.ahead


@pytest.mark.parametrize("hours", [-1, 0, 1])
async def test_a_clock_that_is_wrong_ends_no_wait_early_and_none_much_later(hours: int) -> None:
    clock = FakeClock()
    store: Any = Wrong(clock, timedelta(hours=hours))
    fails = RetryPolicy(attempts=2, first=60.0, jitter=False)

    async def fail() -> None:
        raise ConnectionError

    code = line(
        "code",
        wait("a", seconds=60),
        join("b", run("x", lambda: 1), wait("y", Approved, seconds=60), wanted=2),
        run("c", fail, retry=fails),
        wait("d", Approved),
        catch=True,
        options=CodeOptions(timeout=timedelta(seconds=300)),
    )
    async with kernel_of(code, clock=clock, driver=MemoryDriver(store)) as kernel:
        await kernel.start(code, "i", {})
        assert await kernel.result("i") == [
            None,
            "TimeoutError",
            "StepFailed of ConnectionError",
            "TimeoutError",
        ]

    assert 300 <= clock.monotonic() <= 311


async def test_what_is_no_message_of_the_type_does_not_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    code = line("one", wait("a", Approved))

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.engine.signal("i", "Approved", {"by": 5})
        await kernel.engine.signal("i", "Approved", {"by": "anna"})

        assert await kernel.result("i") == [{"by": "anna"}]
    assert "does not count" in caplog.text


async def test_a_message_for_one_thread() -> None:
    code = line("three", join("a", *[wait(name, Approved) for name in "xyz"]))

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.send("i", Approved("second"), thread="main.a.0.1")
        await kernel.send("i", Approved("first"))
        await kernel.send("i", Approved("third"))

        got = await kernel.result("i")
    assert got == [[{"by": "first"}, {"by": "second"}, {"by": "third"}]]


async def test_a_condition_of_the_data_is_seen_as_soon_as_it_is_true() -> None:
    def count(names: object, data: dict[str, int], value: object) -> Done:
        data["n"] = data.get("n", 0) + 1
        return Done()

    worker = Table("worker", {"w": (run("w", nothing), count)}, data=None)
    code = Table(
        "waits",
        {
            "a": (
                lambda *_: _call_all(worker),
                lambda _, d, __: Done(d["n"]),
            )
        },
        uses={"worker": worker},
    )
    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == 3


def _call_all(worker: Table) -> Join:
    branches = [Call("w", worker, {}) for _ in range(3)]
    return Join("a", [Until("u", lambda data: data.get("n") == 3), *branches], None)


async def test_a_condition_that_is_true_already_takes_no_time() -> None:
    code = line("true", lambda *_: Until("a", lambda _: True), run("b", nothing))

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == [None, None]


async def test_a_condition_that_raises_is_an_error_of_the_code() -> None:
    code = line("wrong", lambda *_: Until("a", lambda data: data["x"]), catch=True)

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["KeyError"]


async def test_a_message_that_is_called_as_a_value_of_the_kernel_is_refused() -> None:
    class data:  # noqa: N801
        pass

    code = line("wrong", wait("a", data), catch=True)

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["InvalidInputError"]
