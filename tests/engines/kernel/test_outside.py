"""Waits for the end of other instances, and for events."""

import asyncio
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from flowstate import (
    End,
    Engine,
    FakeClock,
    FlowRegistry,
    InvalidInputError,
    Status,
)
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.kernel.code import Code
from flowstate.engines.kernel.errors import InstanceCancelledError, InstanceFailedError
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.operations import Call, Wait
from flowstate.engines.kernel.outside import Event, Result
from tests.engines.kernel.running import kernel_of, revisions, stands
from tests.engines.kernel.tables import Done, Table, join, line, run, wait

HOUR = timedelta(hours=1)


class Note(msgspec.Struct):
    n: int


class Paid(msgspec.Struct):
    order: str
    cents: int = 0


async def one() -> int:
    return 1


async def broken() -> None:
    raise ValueError("bad")


other = line("other", wait("a", Note), run("b", one))
failing = line("failing", run("a", broken))


def waits_for(code: Code, id: str, *more: Any, seconds: float | None = None) -> Table:
    return line("code", wait("a", Result(code, id), *more, seconds=seconds), catch=True)


async def test_the_result_of_one_that_ends_later() -> None:
    code = waits_for(other, "o")

    async with kernel_of(code, other) as kernel:
        await kernel.start(other, "o", {})
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.send("o", Note(1))

        assert await kernel.result("i") == [[{"n": 1}, 1]]


async def test_the_result_of_one_that_has_ended() -> None:
    code = waits_for(other, "o")

    async with kernel_of(code, other) as kernel:
        await kernel.start(other, "o", {})
        await kernel.send("o", Note(1))
        await kernel.result("o")
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == [[{"n": 1}, 1]]
        assert await ids_of(kernel, "flowstate.awaited.") == []


async def test_one_that_is_not_there_yet_is_waited_for() -> None:
    code = waits_for(other, "o")

    async with kernel_of(code, other) as kernel:
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        assert len(await ids_of(kernel, "flowstate.awaited.")) == 1
        await kernel.send("o", Note(1), early=True)
        await kernel.start(other, "o", {})

        assert await kernel.result("i") == [[{"n": 1}, 1]]
        await kernel.engine.wait_for("o", status=Status.ENDED)
        assert await ids_of(kernel, "flowstate.awaited.") == []
        assert [*(await kernel.engine.get_state("i")).labels] == ["workflow", "outcome"]


async def test_it_raises_what_the_client_would_be_told() -> None:
    code = line(
        "code",
        wait("a", Result(failing, "f")),
        wait("b", Result(other, "c")),
        wait("c", Result(other, "h")),
        catch=True,
    )

    async with kernel_of(code, other, failing) as kernel:
        await kernel.start(code, "i", {})
        for id in "ch":
            await kernel.start(other, id, {})
        await kernel.start(failing, "f", {})
        await stands(kernel, "i", "b")
        await kernel.cancel("c")
        await stands(kernel, "i", "c")
        await kernel.cancel("h", hard=True)

        assert await kernel.result("i") == [
            "InstanceFailedError of StepFailed",
            "InstanceCancelledError",
            "InstanceCancelledError",
        ]
        for id, kind in (("f", InstanceFailedError), ("h", InstanceCancelledError)):
            with pytest.raises(kind):
                await kernel.result(id)


async def test_many_wait_for_one_and_each_is_told() -> None:
    code = waits_for(other, "o")

    async with kernel_of(code, other) as kernel:
        for n in range(100):
            await kernel.start(code, f"i{n}", {})
        await kernel.start(other, "o", {})
        await kernel.send("o", Note(1))

        for n in range(100):
            assert await kernel.result(f"i{n}") == [[{"n": 1}, 1]]


async def test_the_first_of_several_sources_ends_the_wait() -> None:
    code = line(
        "code",
        wait("a", Note, Result(other, "o"), seconds=60),
        wait("b", Note, Result(other, "p"), seconds=60),
        wait("c", Note, Event(Paid, order="x"), seconds=60),
        catch=True,
    )

    async with kernel_of(code, other) as kernel:
        await kernel.start(other, "o", {})
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.send("i", Note(7))
        await stands(kernel, "i", "b")
        await kernel.send("o", Note(1))

        assert await kernel.result("i") == [{"n": 7}, "TimeoutError", "TimeoutError"]


async def test_its_labels_are_there_as_long_as_it_waits() -> None:
    code = line("code", wait("a", Event(Paid), Result(other, "o")), wait("b", Note))

    async def labels(kernel: Kernel) -> list[str]:
        state = await kernel.engine.get_state("i")
        return sorted(text for key, text in state.labels.items() if key.startswith("awaits."))

    async with kernel_of(code, other) as kernel:
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        assert await labels(kernel) == ["end of o", "event Paid"]
        await kernel.publish(Paid("x"))
        await stands(kernel, "i", "b")
        assert await labels(kernel) == []
        await kernel.engine.clock.sleep(1)  # The event is of before then.
        await kernel.start(code, "j", {})
        await stands(kernel, "j", "a")
        await kernel.cancel("j", hard=True)
        assert [*(await kernel.engine.get_state("j")).labels] == ["workflow", "stop", "outcome"]


async def test_who_waits_in_branches_and_is_cancelled() -> None:
    code = line(
        "code",
        join("a", wait("x", Result(other, "o")), wait("y", Event(Paid)), wanted=1),
        join("b", wait("x", Result(other, "p")), wait("y", Event(Paid, order="x"))),
        catch=True,
    )

    async with kernel_of(code, other) as kernel:
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.publish(Paid("z"))
        await stands(kernel, "i", "b")
        await kernel.cancel("i")

        assert await kernel.result("i") == [[{"order": "z", "cents": 0}], "Cancelled"]


async def test_a_paused_instance_is_given_nothing_until_it_is_resumed() -> None:
    code = line("code", wait("a", Event(Paid)))

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.pause("i")
        await kernel.publish(Paid("x"))
        await kernel.engine.idle()
        assert (await kernel.engine.get_state("i")).labels["stop"] == "a"
        await kernel.resume("i")

        assert await kernel.result("i") == [{"order": "x", "cents": 0}]


async def test_an_event_reaches_those_that_wait_for_its_values() -> None:
    codes = {
        "all": line("all", wait("a", Event(Paid), seconds=60), catch=True),
        "same": line("same", wait("a", Event(Paid, order="x", cents=5), seconds=60), catch=True),
        "less": line("less", wait("a", Event(Paid, order="x", cents=4), seconds=60), catch=True),
        "other": line("other", wait("a", Event(Paid, order="y"), seconds=60), catch=True),
    }

    async with kernel_of(*codes.values()) as kernel:
        for id, code in codes.items():
            await kernel.start(code, id, {})
            await stands(kernel, id, "a")
        assert await kernel.publish(Paid("x", 5), key="1")
        assert not await kernel.publish(Paid("x", 5), key="1")

        paid = [{"order": "x", "cents": 5}]
        assert [await kernel.result(id) for id in codes] == [
            paid,
            paid,
            ["TimeoutError"],
            ["TimeoutError"],
        ]


async def test_each_event_is_given_once_to_a_wait_the_oldest_first() -> None:
    table = {
        "a": (
            lambda *_: Wait("a", [Event(Paid, order="x")], HOUR, lookback=HOUR),
            lambda _, data, value: data.setdefault("got", []).append(value.cents) or "a",
        )
    }
    code = Table("code", table)

    async with kernel_of(code) as kernel:
        clock: Any = kernel.engine.clock
        for n in range(3):
            await kernel.publish(Paid("x", n), key=str(n))
        await clock.sleep(60)
        await kernel.start(code, "i", {})
        await clock.sleep(60)
        for n in range(3, 5):
            await kernel.publish(Paid("x", n), key=str(n))
            await clock.sleep(60)

        data: Any = (await kernel.engine.get_state("i")).get(Any, "data")
        assert data == {"got": [0, 1, 2, 3, 4]}
        with pytest.raises(InstanceFailedError):  # Nothing more comes.
            await kernel.result("i")


async def test_how_far_a_wait_looks_back_and_how_long_an_event_is_kept() -> None:
    def looking(name: str, lookback: timedelta) -> Table:
        ask = lambda *_: Wait("a", [Event(Paid)], timedelta(seconds=1), lookback)  # noqa: E731
        return line(name, ask, catch=True)

    codes = [looking("none", timedelta(0)), looking("hour", HOUR), looking("days", 48 * HOUR)]

    async with kernel_of(*codes) as kernel:
        clock: Any = kernel.engine.clock
        await kernel.publish(Paid("x"), key="1", keep=24 * HOUR)
        for hours, expected in ((0.5, [0, 1, 1]), (2, [0, 0, 1]), (22, [0, 0, 0])):
            await clock.sleep(hours * 3600)
            for code in codes:
                await kernel.start(code, f"{code.name} {hours}", {})
            found = [await kernel.result(f"{code.name} {hours}") for code in codes]
            assert [each != ["TimeoutError"] for each in found] == [bool(n) for n in expected]
        assert await ids_of(kernel, "flowstate.event.") == []


async def test_a_new_process_tells_those_whom_a_dead_one_has_not_told() -> None:
    code = line("code", wait("a", Event(Paid)))
    clock, flows = FakeClock(), FlowRegistry()
    driver = MemoryDriver(clock)

    async with driver:
        async with kernel_of(code, clock=clock, driver=driver) as kernel:
            await kernel.start(code, "i", {})
            await stands(kernel, "i", "a")
        flows.declare("workflows.event")
        async with Engine(driver, flows, clock=clock) as engine:
            await Kernel(engine, []).publish(Paid("x"))
        async with kernel_of(code, clock=clock, driver=driver) as kernel:
            assert await kernel.result("i") == [{"order": "x", "cents": 0}]


async def test_what_cannot_be_waited_for_or_published() -> None:
    with pytest.raises(InvalidInputError, match="Paid has no 'buyer'"):
        Event(Paid, buyer="x")
    with pytest.raises(InvalidInputError, match="fields"):
        Event(Paid, order=object())
    with pytest.raises(InvalidInputError, match="must begin with a text, a number, a bool or None"):
        Event(Paid, order=["x"])
    many = line("code", wait("a", *[Event(Paid, cents=n) for n in range(33)]))

    async with kernel_of(many) as kernel:
        with pytest.raises(InvalidInputError, match="must be an object with fields"):
            await kernel.publish("paid")
        for keep in (timedelta(days=-1), timedelta.max, 5):
            with pytest.raises(InvalidInputError, match="keep: must be from 0 to 36500 days"):
                await kernel.publish(Paid("x"), keep=keep)  # type: ignore[arg-type]
        await kernel.start(many, "i", {})
        state = await kernel.engine.wait_for("i", until=lambda each: "parked" in each.labels)
        assert "waits for 33 instances and events; 32 is most" in state.get(str, "parked")


async def test_one_that_waits_for_nothing_outside_reads_nothing_when_it_ends() -> None:
    class Counting(MemoryDriver):
        reads = 0

        async def get_state(self, id: str, rev: int | None = None) -> Any:
            self.reads += 1
            return await super().get_state(id, rev)

    code = line("code", run("a", one))
    clock = FakeClock()
    driver = Counting(clock)
    async with kernel_of(code, clock=clock, driver=driver) as kernel:
        await kernel.start(code, "i", {})
        await kernel.engine.idle()
        assert (driver.reads, len(await revisions(kernel, "i"))) == (0, 2)


async def ids_of(kernel: Kernel, prefix: str) -> list[str]:
    states = kernel.engine.states(latest_only=True)
    return [each.id async for each in states if each.id.startswith(prefix)]


async def test_one_that_is_ended_by_force_is_noticed_after_a_while() -> None:
    code = line("code", wait("a", Result(other, "o")), wait("b", Result(other, "p")), catch=True)

    async with kernel_of(code, other) as kernel:
        for id in "op":
            await kernel.start(other, id, {})
            await stands(kernel, id, "a")
        clock: Any = kernel.engine.clock
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.engine.update("o", End)  # As recovery does with one that crashes too often.
        await stands(kernel, "i", "b")
        assert clock.monotonic() == 60
        await clock.sleep(10 * 86_400)
        await kernel.engine.update("p", End)

        assert await kernel.result("i") == ["InstanceFailedError", "InstanceFailedError"]
        assert 10 * 86_400 < clock.monotonic() < 12 * 86_400
        assert len(await revisions(kernel, "i")) < 60  # Looks come ever more seldom.


async def test_threads_that_take_events_do_not_let_others_take_one_twice() -> None:
    """One looks back for long and waits for long, while another one takes many."""

    def taking(stop: str, order: str, lookback: timedelta, count: int) -> Table:
        def ask(*_: object) -> Wait:
            return Wait(stop, [Event(Paid, order=order)], None, lookback)

        def took(_: object, data: dict[str, Any], paid: Paid) -> str | Done:
            data.setdefault(order, []).append(paid.cents)
            return stop if len(data[order]) < count else Done()

        return Table(f"take {order}", {stop: (ask, took)}, data=None)

    seldom, often = taking("x", "x", HOUR, 2), taking("y", "y", timedelta(0), 5)
    both = join("a", lambda *_: Call("x", seldom, {}), lambda *_: Call("y", often, {}))
    code = line("code", both, uses={each.name: each for each in (seldom, often)})

    async with kernel_of(code) as kernel:
        clock: Any = kernel.engine.clock
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.publish(Paid("x", 1))
        for n in range(5):
            await clock.sleep(3_000)
            await kernel.publish(Paid("y", n))
        await clock.sleep(3_000)
        await kernel.publish(Paid("x", 2))
        await kernel.result("i")

        data: Any = (await kernel.engine.get_state("i")).get(Any, "data")
        assert (data["x"], data["y"]) == ([1, 2], [0, 1, 2, 3, 4])


async def test_who_waits_while_another_branch_works_is_told_at_once() -> None:
    end = asyncio.Event()

    async def long() -> str:
        await end.wait()
        return "long"

    code = line(
        "code", join("a", run("x", long), wait("y", Event(Paid)), wait("z", Result(other, "o")))
    )

    def ended(count: int) -> Any:
        return lambda state: bytes(state.values["threads"]).count(b'"does":"ended"') == count

    async with kernel_of(code, other) as kernel:
        clock: Any = kernel.engine.clock
        await kernel.start(other, "o", {})
        await kernel.start(code, "i", {})
        await kernel.engine.wait_for(
            "i", until=lambda state: b"end of o" in bytes(state.values["threads"])
        )
        await kernel.publish(Paid("x"))
        await kernel.engine.wait_for("i", until=ended(1))
        await kernel.send("o", Note(1))
        await kernel.engine.wait_for("i", until=ended(2))
        assert clock.monotonic() < 1
        end.set()

        assert await kernel.result("i") == [["long", {"order": "x", "cents": 0}, [{"n": 1}, 1]]]
