"""Threads of an instance: begun by go, ended with the main thread, failing together."""

import asyncio

import msgspec
import pytest

from flowstate import FakeClock, InvalidInputError
from flowstate.engines.kernel.errors import Cancelled, InstanceFailedError
from flowstate.engines.kernel.instance import Codes
from flowstate.engines.kernel.operations import Call, Each, Go
from tests.engines.kernel.running import kernel_of, stands
from tests.engines.kernel.tables import Ask, Done, Table, line, run, wait


class Note(msgspec.Struct):
    n: int


def go(code: Table, thread: str = "") -> Ask:
    return lambda *_: Go("go", code, {}, thread)


async def one() -> int:
    return 1


async def test_a_thread_runs_next_to_the_main_one() -> None:
    other = line("other", run("x", one), wait("w", Note), data=None)
    code = line("main", go(other), go(other, "second"), wait("c", Note), wait("d", Note))
    code.uses = {"other": other}

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        await stands(kernel, "i", "c")
        await kernel.send("i", Note(1), thread="main.go.0")
        await kernel.send("i", Note(2), thread="second")
        await kernel.send("i", Note(3))
        await stands(kernel, "i", "d")
        state = await kernel.engine.get_state("i")
        assert state.get(dict, "data")["other"] == [1, 1, {"n": 1}, {"n": 2}]
        await kernel.send("i", Note(4))

        assert await kernel.result("i") == ["main.go.0", "second", {"n": 3}, {"n": 4}]


async def test_a_thread_of_a_name_that_is_taken_is_an_error() -> None:
    other = line("other", wait("w", Note), data=None)
    code = line("main", go(other, "x"), go(other, "x"), catch=True, uses={"other": other})

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["x", "ThreadExistsError"]


async def test_the_end_of_the_main_thread_ends_the_others_which_clean_up() -> None:
    clock, undone = FakeClock(), []

    async def undo() -> None:
        await clock.sleep(5)
        undone.append(clock.monotonic())

    def caught(names: object, data: object, error: BaseException) -> str:
        assert isinstance(error, Cancelled)
        return "undo"

    other = Table(
        "other",
        {
            "w": (wait("w", Note), lambda *_: Done()),
            "undo": (run("undo", undo), lambda *_: Done()),
        },
        catches={"w": caught},
        data=None,
    )
    code = line("main", go(other), wait("b", seconds=100), uses={"other": other})

    async with kernel_of(code, clock=clock) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["main.go.0", None]
    assert undone == [105]


async def test_what_a_thread_raises_fails_the_instance() -> None:
    def fail(names: object, data: object, value: object) -> Done:
        raise ValueError("no")

    other = Table("other", {"x": (run("x", one), fail)}, data=None)
    code = line("main", go(other), wait("b", Note), catch=True, uses={"other": other})

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})
        with pytest.raises(InstanceFailedError, match="ValueError: no") as caught:
            await kernel.result("i")
        state = await kernel.engine.get_state("i")

    assert isinstance(caught.value.__cause__, ValueError)
    assert state.get(dict, "data")["main"] == ["main.go.0", "Cancelled"]


async def test_code_calls_code_which_keeps_its_place() -> None:
    def add(names: dict[str, int], data: object, value: int) -> Done:
        return Done(names["base"] + value)

    helper = Table("helper", {"x": (run("x", one), add)}, data=None, gives=int)
    twice = Table(
        "twice",
        {
            "a": (
                lambda *_: Call("a", helper, {"base": 10}),
                lambda n, _, v: (n.update(first=v), "b")[1],
            ),
            "b": (
                lambda n, _: Call("b", helper, {"base": n["first"]}),
                lambda _, __, v: Done(v),
            ),
        },
        uses={"helper": helper},
        data=None,
    )
    code = line("main", lambda *_: Call("c", twice, {}), run("d", one), uses={"twice": twice})

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == [12, 1]


async def test_an_error_comes_out_of_called_code() -> None:
    def fail(names: object, data: object, value: object) -> Done:
        raise ValueError("no")

    helper = Table("helper", {"x": (run("x", one), fail)}, data=None)
    code = line("main", lambda *_: Call("c", helper, {}), catch=True, uses={"helper": helper})

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["ValueError"]


async def test_steps_of_threads_run_at_the_same_time() -> None:
    both = asyncio.Barrier(2)

    async def meet() -> str:
        async with asyncio.timeout(5):
            await both.wait()
        return "met"

    other = line("other", run("x", meet), wait("w", Note), data=None)
    code = line("main", go(other), run("x", meet), uses={"other": other})

    async with kernel_of(code) as kernel:
        await kernel.start(code, "i", {})

        assert await kernel.result("i") == ["main.go.0", "met"]


def calling(workflow: str, value: int) -> Table:
    async def give() -> int:
        return value

    helper = line("helper", run("x", give), data=None)
    return line(workflow, lambda *_: Call("a", helper, {}), uses={"h": helper})


async def test_each_workflow_has_helpers_of_its_own() -> None:
    first, second = calling("first", 1), calling("second", 2)
    async with kernel_of(first, second) as kernel:
        for code in (first, second):
            await kernel.start(code, code.name, {})

        assert [await kernel.result(name) for name in ("first", "second")] == [[[1]], [[2]]]


async def test_a_child_has_helpers_of_its_own() -> None:
    child, parent = calling("child", 1), calling("parent", 2)
    both = line(
        "parent",
        lambda *_: Each("a", child, [{}], 1),
        lambda *_: Call("b", parent.uses["h"], {}),
        uses={**parent.uses, "c": child},
    )
    async with kernel_of(both) as kernel:
        await kernel.start(both, "i", {})

        assert await kernel.result("i") == [[[[1]]], [2]]


def test_two_helpers_of_one_name_in_a_workflow_are_refused() -> None:
    both = calling("both", 1)
    both.uses = {**both.uses, "other": calling("other", 2).uses["h"]}
    with pytest.raises(InvalidInputError, match="two are called 'helper'; rename one of them"):
        Codes([both])


async def test_a_helper_that_is_not_listed_does_not_replace_one_that_is() -> None:
    code, other = calling("code", 1), calling("other", 2)
    mixed = line("code", lambda *_: Call("a", other.uses["h"], {}), uses=code.uses)
    async with kernel_of(mixed) as kernel:
        await kernel.start(mixed, "i", {})
        with pytest.raises(InstanceFailedError, match="two are called 'helper'"):
            await kernel.result("i")
