"""Children: started in stages, counted, cancelled, and asked for their results."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from flowstate import End, FakeClock, Forget, State, StateContext, Status
from flowstate.driver import StateQuery, States
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.kernel.control import ChildEnded
from flowstate.engines.kernel.errors import (
    ChildFailed,
    InstanceCancelledError,
    InstanceFailedError,
    stored,
)
from flowstate.engines.kernel.operations import Each
from tests.engines.kernel.running import kernel_of, revisions, stands
from tests.engines.kernel.tables import Ask, Done, Table, line, run, wait


class Note(msgspec.Struct):
    n: int


def each(workflow: Table, items: list[Any], limit: int = 100, **options: bool) -> Ask:
    return lambda *_: Each("a", workflow, items, limit, **options)


async def nothing() -> None:
    pass


class Crowd:
    """A workflow that counts how many of it run at once."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.now, self.most = clock, 0, 0

        def ask(names: object, data: int) -> Any:
            return run("x", self.work, data, gives=int)(names, data)  # type: ignore[arg-type]

        table = {"x": (ask, lambda _, __, v: Done(v))}
        self.workflow = Table("child", table, data=int, gives=int)

    async def work(self, n: int) -> int:
        self.now += 1
        self.most = max(self.now, self.most)
        await self.clock.sleep(1)
        self.now -= 1
        if n < 0:
            raise ValueError("negative")
        return 10 * n


async def test_each_item_has_a_child_and_the_results_are_in_order() -> None:
    clock = FakeClock()
    crowd = Crowd(clock)
    code = line("parent", each(crowd.workflow, [3, 1, 2], limit=2), uses={"c": crowd.workflow})

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "p", {})
        assert await kernel.result("p") == [[30, 10, 20]]
        children = [
            state async for state in kernel.engine.states(labels={"parent": "p"}, latest_only=True)
        ]

    assert sorted(child.id for child in children) == ["p.a.0.0", "p.a.0.1", "p.a.0.2"]
    assert {child.status for child in children} == {Status.ENDED}
    assert crowd.most == 2


async def test_no_item_has_no_child() -> None:
    crowd = Crowd(FakeClock())
    code = line("parent", each(crowd.workflow, []), uses={"c": crowd.workflow})

    async with kernel_of(code) as kernel:
        await kernel.start(code, "p", {})

        assert await kernel.result("p") == [[]]


async def test_hundreds_of_children_start_in_stages() -> None:
    clock = FakeClock()
    crowd = Crowd(clock)
    items = [*range(450)]
    code = line("parent", each(crowd.workflow, items, limit=250), uses={"c": crowd.workflow})

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "p", {})

        assert await kernel.result("p") == [[10 * n for n in items]]
    assert 100 < crowd.most <= 250


async def test_the_first_child_that_fails_ends_the_others() -> None:
    clock = FakeClock()
    crowd = Crowd(clock)
    code = line(
        "parent",
        each(crowd.workflow, [1, -1, *[5] * 20], limit=2),
        run("b", nothing),
        catch=True,
        uses={"c": crowd.workflow},
    )

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "p", {})
        assert await kernel.result("p") == ["ChildFailed of StepFailed", None]

        assert await kernel.engine.count(labels={"parent": "p"}) <= 3


async def test_a_child_that_fails_ends_no_other_one_if_it_is_not_strict() -> None:
    clock = FakeClock()
    crowd = Crowd(clock)
    failing = each(crowd.workflow, [-1, 1, 2, 3], limit=2, strict=False)
    code = line("parent", failing, catch=True, uses={"c": crowd.workflow})

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "p", {})
        assert await kernel.result("p") == ["ChildFailed of StepFailed"]

        assert [await kernel.result(f"p.a.0.{n}") for n in (1, 2, 3)] == [10, 20, 30]


@pytest.mark.parametrize("hard", [False, True])
async def test_children_that_are_abandoned_go_on(hard: bool) -> None:
    clock = FakeClock()
    crowd = Crowd(clock)
    apart = each(crowd.workflow, [1, 2], abandon=True)
    code = line("parent", apart, uses={"c": crowd.workflow})

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "p", {})
        await kernel.engine.wait_for("p.a.0.1", until=lambda each: each.rev > 0)
        await kernel.cancel("p", hard=hard)
        with pytest.raises(InstanceCancelledError):
            await kernel.result("p", timeout=0.5)

        assert [await kernel.result(f"p.a.0.{n}") for n in (0, 1)] == [10, 20]


async def test_cancelling_a_parent_cancels_its_children_which_end_first() -> None:
    child = line("child", wait("w", Note), data=dict)
    code = line("parent", each(child, [{}] * 5), run("b", nothing), catch=True, uses={"c": child})

    async with kernel_of(code) as kernel:
        await kernel.start(code, "p", {})
        await stands(kernel, "p", "a")
        await stands(kernel, "p.a.0.4", "a")
        await kernel.cancel("p")
        assert await kernel.result("p") == ["Cancelled", None]

        for n in range(5):
            with pytest.raises(InstanceCancelledError):
                await kernel.result(f"p.a.0.{n}", timeout=0)


async def test_a_hard_cancel_tells_the_children() -> None:
    child = line("child", wait("w", Note), data=dict)
    code = line("parent", each(child, [{}] * 2), uses={"c": child})

    async with kernel_of(code) as kernel:
        await kernel.start(code, "p", {})
        await stands(kernel, "p.a.0.1", "a")
        await kernel.cancel("p", hard=True)

        for n in range(2):
            with pytest.raises(InstanceCancelledError):
                await kernel.result(f"p.a.0.{n}")


async def test_children_of_children() -> None:
    clock = FakeClock()
    crowd = Crowd(clock)
    middle = Table(
        "middle",
        {"a": (lambda _, d: Each("a", crowd.workflow, d, 10), lambda _, __, v: Done(sum(v)))},
        data=list[int],
        gives=int,
        uses={"c": crowd.workflow},
    )
    code = line("top", each(middle, [[1, 2], [], [3]]), uses={"m": middle})

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "p", {})

        assert await kernel.result("p") == [[30, 0, 30]]


async def test_an_item_that_is_not_of_the_type_of_the_data() -> None:
    crowd = Crowd(FakeClock())
    code = line("parent", each(crowd.workflow, ["x"]), catch=True, uses={"c": crowd.workflow})

    async with kernel_of(code) as kernel:
        await kernel.start(code, "p", {})

        assert await kernel.result("p") == ["InvalidInputError of ValidationError"]


async def test_a_parent_that_ends_before_its_children_tell_it() -> None:
    clock = FakeClock()
    crowd = Crowd(clock)
    code = line("parent", each(crowd.workflow, [1, 2]), uses={"c": crowd.workflow})

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "p", {})
        await asyncio.sleep(0)
        await kernel.engine.update("p", End)
        with pytest.raises(InstanceFailedError):
            await kernel.result("p")
        for n in range(2):
            await kernel.engine.wait_for(f"p.a.0.{n}", status=Status.ENDED)


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (lambda ctx: [End(ctx)], "it was ended by force, or crashed too often"),
        (lambda ctx: [End(ctx), Forget(ctx)], "it was forgotten"),
    ],
)
async def test_a_parent_learns_of_a_child_that_has_ended_and_told_nothing(
    end: Callable[[StateContext], list[Any]], text: str
) -> None:
    child = line("child", wait("w", Note), data=dict)
    code = line("parent", each(child, [{}] * 3), uses={"c": child})
    clock = FakeClock()

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "p", {})
        await stands(kernel, "p", "a")
        await stands(kernel, "p.a.0.2", "a")
        await kernel.engine.update("p.a.0.1", end)
        with pytest.raises(InstanceFailedError, match=text) as failed:
            await kernel.result("p")

        assert isinstance(failed.value.__cause__, ChildFailed)
        assert failed.value.__cause__.child == "p.a.0.1"
        assert clock.monotonic() == pytest.approx(60.0)  # When it has looked first.
        for n in (0, 2):
            with pytest.raises(InstanceCancelledError):
                await kernel.result(f"p.a.0.{n}", timeout=0)


async def test_a_child_that_ends_twice_counts_once() -> None:
    child = line("child", wait("w", Note), data=dict)
    code = line("parent", each(child, [{}] * 2), uses={"c": child})

    async with kernel_of(code) as kernel:
        await kernel.start(code, "p", {})
        await stands(kernel, "p.a.0.1", "a")
        told = ChildEnded("p.a.0.0", "main", 0, await kernel.engine.head())
        for key in ("one", "two"):
            await kernel.engine.signal("p", "$control", told, key=key)
        parent = await kernel.engine.wait_for("p", until=_has_counted)
        assert not _is_over(parent)

        for n in range(2):
            await kernel.send(f"p.a.0.{n}", Note(n))
        assert await kernel.result("p") == [[[{"n": 0}], [{"n": 1}]]]


async def test_what_a_child_has_told_before_it_began_again_does_not_count() -> None:
    child = line("child", wait("w", Note), data=dict)
    code = line("parent", each(child, [{}]), uses={"c": child})

    async with kernel_of(code) as kernel:
        await kernel.start(code, "p", {})
        await stands(kernel, "p.a.0.0", "a")
        late = ChildEnded("p.a.0.0", "main", 0, 1, stored(ValueError()))
        await kernel.engine.signal("p", "$control", late)
        await kernel.send("p.a.0.0", Note(1))
        assert await kernel.result("p") == [[[{"n": 1}]]]


async def test_a_parent_looks_at_its_children_ever_more_seldom() -> None:
    child = line("child", wait("w", seconds=100 * 86_400.0), data=dict)
    code = line("parent", each(child, [{}]), uses={"c": child})

    async with kernel_of(code) as kernel:
        await kernel.start(code, "p", {})
        await kernel.result("p")
        looks = len(await revisions(kernel, "p"))
    assert 200 < looks < 250  # Two revisions for each day, and some for the first one.


def _has_counted(state: State) -> bool:
    return b'"done":1' in bytes(state.values["threads"]) and state.status is Status.PAUSED


def _is_over(state: State) -> bool:
    return "outcome" in state.labels


async def test_what_a_parent_commits_for_a_child() -> None:
    child = line("child", run("x", nothing), data=dict)
    code = line("parent", each(child, [{}] * 50), uses={"c": child})

    async with kernel_of(code) as kernel:
        await kernel.start(code, "p", {})
        await kernel.result("p")

        # Of a child: its start, its end, and that it has told. Of the parent: two for each child.
        assert len(await revisions(kernel, "p.a.0.7")) == 3
        assert len(await revisions(kernel, "p")) <= 4 + 2 * 50


async def test_the_results_of_earlier_children_are_not_read_again() -> None:
    class Counting(MemoryDriver):
        read = 0

        async def get_states(self, query: StateQuery) -> States:
            page = await super().get_states(query)
            self.read += sum(each.id.startswith("p.") for each in page.states)
            return page

    clock = FakeClock()
    driver, crowd = Counting(clock), Crowd(clock)
    code = line("parent", *[each(crowd.workflow, [1])] * 8, uses={"c": crowd.workflow})
    async with kernel_of(code, clock=clock, driver=driver) as kernel:
        await kernel.start(code, "p", {})
        assert await kernel.result("p") == [[10]] * 8

    assert driver.read <= 16
