"""Instances that do not fit their code: set aside, explained, and gone on with later."""

import asyncio
import itertools

import msgspec

from flowstate import Engine, FakeClock, FlowRegistry, Status
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.operations import Call
from flowstate.recovery import Recoverer
from tests.engines.kernel.running import kernel_of, revisions, stands
from tests.engines.kernel.tables import join, line, run, wait


class Note(msgspec.Struct):
    n: int


async def nothing() -> None:
    pass


OLD = line("code", wait("a", Note), wait("b", Note))
NEW = line("code", wait("a", Note), wait("c", Note), stops="ac")
BACK = line("code", wait("a", Note), wait("c", Note), wait("b", Note), stops="acb")


async def parked(kernel: Kernel, id: str = "i") -> str:
    state = await kernel.engine.wait_for(id, until=lambda each: "parked" in each.labels)
    assert state.status is Status.PAUSED
    return state.get(str, "parked")


async def test_it_is_explained_and_goes_on_when_code_fits() -> None:
    clock = FakeClock()
    driver = MemoryDriver(clock)
    async with kernel_of(OLD, clock=clock, driver=driver) as kernel:
        await kernel.start(OLD, "i", {})
        await kernel.send("i", Note(1))
        await stands(kernel, "i", "b")
        async with kernel_of(NEW, clock=clock, driver=driver) as newer:
            await newer.send("i", Note(2))
            assert await parked(newer) == "code has no stop 'b'"
            await newer.send("i", Note(3))
            await newer.engine.idle()
            assert await newer.look_at_parked() == 0
            async with kernel_of(BACK, clock=clock, driver=driver) as newest:
                assert await newest.result("i") == [{"n": 1}, {"n": 2}]


async def test_it_looks_again_ever_more_seldom() -> None:
    clock = FakeClock()
    driver = MemoryDriver(clock)
    async with kernel_of(OLD, clock=clock, driver=driver) as kernel:
        await kernel.start(OLD, "i", {})
        await stands(kernel, "i", "a")
        await kernel.send("i", Note(1))
        await stands(kernel, "i", "b")
    async with kernel_of(NEW, clock=clock, driver=driver) as kernel:
        await kernel.send("i", Note(2))
        await clock.sleep(4 * 24 * 60 * 60)
        await kernel.engine.idle()
        times = [
            each.committed_at.timestamp()
            for each in await revisions(kernel, "i")
            if each.committed_at and "parked" in each.labels and each.status is Status.PAUSED
        ]
    async with kernel_of(OLD, clock=clock, driver=driver) as kernel:
        assert await kernel.result("i") == [{"n": 1}, {"n": 2}]

    waits = [round(after - before) for before, after in itertools.pairwise(times)]
    assert waits[:8] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert max(waits) == waits[-1] == 2**16


async def test_a_process_with_fitting_code_that_is_there_goes_on_with_it() -> None:
    clock = FakeClock()
    driver = MemoryDriver(clock)
    async with (
        kernel_of(OLD, clock=clock, driver=driver) as kernel,
        kernel_of(NEW, clock=clock, driver=driver) as other,
    ):
        await kernel.start(OLD, "i", {})
        await kernel.send("i", Note(1))
        await stands(kernel, "i", "b")
        await other.send("i", Note(2))
        assert await parked(other) == "code has no stop 'b'"

        assert await kernel.result("i") == [{"n": 1}, {"n": 2}]


async def test_the_newest_code_applies_at_the_next_turn() -> None:
    clock = FakeClock()
    driver = MemoryDriver(clock)
    newer = line("code", wait("a", Note), run("x", nothing), wait("c", Note), stops="axc")
    async with kernel_of(OLD, clock=clock, driver=driver) as kernel:
        await kernel.start(OLD, "i", {})
        await stands(kernel, "i", "a")
    async with kernel_of(newer, clock=clock, driver=driver) as kernel:
        await kernel.send("i", Note(1))
        await kernel.send("i", Note(2))

        assert await kernel.result("i") == [{"n": 1}, None, {"n": 2}]


async def test_data_that_does_not_decode() -> None:
    code = line("code", wait("a", Note), data=dict[str, list[int]])
    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.engine.update("i", lambda ctx: ctx.put([1], "data"))
        await kernel.send("i", Note(1))
        assert "value 'data' of 'i'" in await parked(kernel)
        await kernel.engine.update("i", lambda ctx: ctx.put({}, "data"))
        assert await kernel.look_at_parked() == 1

        assert await kernel.result("i") == [{"n": 1}]


async def test_data_that_json_cannot_hold_parks_it_where_it_was() -> None:
    def spoil(names: object, data: dict[str, object], value: object) -> str:
        data["x"] = object()
        return "b"

    code = line("code", wait("a", Note), wait("b", Note))
    code.table = {**code.table, "a": (code.table["a"][0], spoil)}
    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
        await kernel.send("i", Note(1))

        assert "cannot be stored as JSON" in await parked(kernel)
        assert (await kernel.engine.get_state("i")).labels["stop"] == "a"


async def test_code_that_is_not_here() -> None:
    helper = line("helper", wait("w", Note), data=None)
    code = line("code", lambda *_: Call("a", helper, {}), uses={"h": helper})
    without = line("code", lambda *_: Call("a", helper, {}))
    clock = FakeClock()
    driver = MemoryDriver(clock)
    async with kernel_of(code, clock=clock, driver=driver) as kernel:
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "a")
    async with kernel_of(without, clock=clock, driver=driver) as kernel:
        await kernel.send("i", Note(1))
        assert await parked(kernel) == "there is no code 'helper' here"
    async with kernel_of(code, clock=clock, driver=driver) as kernel:
        assert await kernel.result("i") == [[{"n": 1}]]


async def test_a_join_with_another_number_of_branches() -> None:
    two = line("code", join("a", wait("x", Note), wait("y", Note)))
    three = line("code", join("a", *[wait(name, Note) for name in "xyz"]))
    clock = FakeClock()
    driver = MemoryDriver(clock)
    async with kernel_of(two, clock=clock, driver=driver) as kernel:
        await kernel.start(two, "i", {})
        await stands(kernel, "i", "a")
    async with kernel_of(three, clock=clock, driver=driver) as kernel:
        await kernel.send("i", Note(1))
        had, wanted = ["x", "y"], ["x", "y", "z"]
        assert await parked(kernel) == f"stop 'a' has the branches {wanted}, and had {had}"


async def test_a_wait_that_has_become_a_step() -> None:
    newer = line("code", run("a", nothing), wait("b", Note))
    clock = FakeClock()
    driver = MemoryDriver(clock)
    async with kernel_of(OLD, clock=clock, driver=driver) as kernel:
        await kernel.start(OLD, "i", {})
        await stands(kernel, "i", "a")
    async with kernel_of(newer, clock=clock, driver=driver) as kernel:
        await kernel.send("i", Note(1))

        # What was delivered is kept for the next stop that waits for it.
        assert await kernel.result("i") == [None, {"n": 1}]


async def test_messages_that_were_kept_are_taken_in_order_and_checked() -> None:
    clock = FakeClock()
    driver = MemoryDriver(clock)
    newer = line("code", run("a", nothing), wait("b", Note), wait("c", Note))
    async with kernel_of(OLD, clock=clock, driver=driver) as kernel:
        await kernel.start(OLD, "i", {})
        await stands(kernel, "i", "a")
    kept = {"kept": [["Note", {"n": "wrong"}], ["Note", {"n": 1}], ["Note", {"n": 2}]]}
    async with kernel_of(newer, clock=clock, driver=driver) as kernel:
        await kernel.engine.update("i", lambda ctx: ctx.put(kept, "notes"))
        await kernel.send("i", Note(3))

        assert await kernel.result("i") == [None, {"n": 1}, {"n": 2}]


async def test_a_cancel_reaches_a_parked_instance_when_it_goes_on() -> None:
    clock = FakeClock()
    driver = MemoryDriver(clock)
    async with kernel_of(OLD, clock=clock, driver=driver) as kernel:
        await kernel.start(OLD, "i", {})
        await kernel.send("i", Note(1))
        await stands(kernel, "i", "b")
    async with kernel_of(NEW, clock=clock, driver=driver) as kernel:
        await kernel.cancel("i")
        await parked(kernel)
    catching = line("code", wait("a", Note), wait("b", Note), catch=True)
    async with kernel_of(catching, clock=clock, driver=driver) as kernel:
        assert await kernel.result("i") == [{"n": 1}, "Cancelled"]


async def test_an_engine_that_stops_hands_its_instances_over() -> None:
    begun, ran = asyncio.Event(), []

    async def work() -> None:
        ran.append("work")
        begun.set()
        if len(ran) == 1:
            await asyncio.Event().wait()

    code = line("code", run("a", work), run("b", nothing))
    clock = FakeClock()
    driver = MemoryDriver(clock)
    async with driver:
        engine = Engine(driver, FlowRegistry(), clock=clock, shutdown_timeout=0.0)
        async with engine, Kernel(engine, [code]) as kernel:
            await kernel.start(code, "i", {})
            await begun.wait()
        async with (
            kernel_of(code, clock=clock, driver=driver) as kernel,
            Recoverer(kernel.engine),
        ):
            assert await kernel.result("i") == [None, None]
    assert clock.monotonic() < 60
    assert ran == ["work", "work"]
