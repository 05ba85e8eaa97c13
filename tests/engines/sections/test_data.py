"""The data of sections: of any kind with fields, and not overwritten by steps that run at once."""

import asyncio
import dataclasses
from typing import Any

import attrs
import msgspec
import pytest

from flowstate.engines.kernel.steps import effect_key
from flowstate.engines.workflow import each, workflow
from flowstate.engines.workflow.checking import check
from flowstate.engines.workflow.graphs import graph_of
from flowstate.engines.workflow.sections import Go, On, Return, Sections, Step, Wait, WaitFor
from tests.engines.sections.definitions import Data, Note, add, branches, handled, looped, noted
from tests.engines.sections.running import in_memory, stands


class Plain(msgspec.Struct, rename="camel"):
    of_all: list[str]
    n_left: int = 0


@attrs.define
class Attrs:
    of_all: list[str]
    n_left: int = 0


@dataclasses.dataclass(kw_only=True)
class Dataclass:
    of_all: list[str]
    n_left: int = 0


def sell(data: Any) -> None:
    data.of_all.append("tea")
    data.n_left += 1


@pytest.mark.parametrize("kind", [Plain, Attrs, Dataclass])
async def test_data_with_fields(kind: Any) -> None:
    code = Sections(
        "it",
        kind,
        Go("go", Step("other", lambda s: setattr(s, "of_all", [*s.of_all, "cup"]))),
        Step("sell", sell),
        WaitFor("both", lambda s: len(s.of_all) == 2),
        Return(lambda s: [sorted(s.of_all), s.n_left]),
    )
    async with in_memory(code) as workflows:
        await workflows.start(code, "i", kind(of_all=[]))

        assert await workflows.result("i") == [["cup", "tea"], 1]


async def test_data_in_a_dict() -> None:
    def change(data: dict[str, int]) -> None:
        del data["gone"]
        data["new"] = 1

    code = Sections("it", dict[str, int], Step("change", change), Return(lambda s: s))
    async with in_memory(code) as workflows:
        await workflows.start(code, "i", {"gone": 0, "kept": 2})

        assert await workflows.result("i") == {"kept": 2, "new": 1}


class Slow:
    """A step that waits within each call."""

    def __init__(self, field: str) -> None:
        self.field, self.keys = field, list[str]()
        self.begun, self.end = asyncio.Event(), asyncio.Event()

    async def __call__(self, data: Data) -> None:
        self.keys.append(effect_key())
        self.begun.set()
        await self.end.wait()
        setattr(data, self.field, getattr(data, self.field) * 2)


def set_n(data: Data, n: int) -> int:
    data.n, before = n, data.n
    return before


@pytest.mark.parametrize(
    ("field", "calls", "data"), [("n", 2, Data("x", 14)), ("log", 1, Data("xx", 7))]
)
async def test_a_step_runs_again_only_if_what_it_changes_was_changed(
    field: str, calls: int, data: Data
) -> None:
    slow = Slow(field)
    code = Sections("it", Data, Step("slow", slow), updates={"set": set_n})
    async with in_memory(code) as workflows:
        await workflows.start(code, "i", Data("x", 1))
        await slow.begun.wait()
        assert await workflows.update("i", "set", 7) == 1
        slow.end.set()
        await workflows.result("i")

        assert await workflows.query("i") == data
    assert slow.keys == ["i/main/slow/0"] * calls


async def test_what_a_step_returns_is_decoded_for_what_comes_then() -> None:
    async def find(data: Data) -> Note:
        return Note("found", 3)

    def keep(data: Data, note: Note) -> None:
        data.log, data.n = note.text, note.n

    code = Sections("it", Data, Step("find", find, then=keep))
    async with in_memory(code) as workflows:
        await workflows.start(code, "i", Data())
        await workflows.result("i")

        assert await workflows.query("i") == Data("found", 3)


async def test_a_handler_that_refuses_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(data: Data, note: Note) -> None:
        data.log += note.text
        if note.n < 0:
            raise ValueError("negative")

    code = Sections("it", Data, Wait("wait", On("note", refuse)))
    async with in_memory(code) as workflows:
        await workflows.start(code, "i", Data())
        await stands(workflows, "i", "wait")
        with pytest.raises(ValueError, match="negative"):
            await workflows.update("i", "note", Note("x", -1))
        await workflows.send("i", Note("y", -1), name="note")
        await workflows.send("i", Note("z"), name="note")
        await workflows.result("i")

        assert (await workflows.query("i")).log == "z"
    assert "negative" in caplog.text


@workflow("parent")
async def parent(s: Data) -> list[str]:
    ab = [Data("a"), Data("b")]
    return await each(child, ab)  # type: ignore[arg-type] # sections are not called


child = Sections("child", Data, Step("x", add("x")), Return(lambda s: s.log), gives=str)


async def test_sections_are_children_of_functions() -> None:
    async with in_memory(parent, child) as workflows:  # type: ignore[arg-type]
        await workflows.start(parent, "i", Data())

        assert await workflows.result("i") == ["ax", "bx"]


async def test_the_check_before_a_deployment_tells_whom_it_would_strand() -> None:
    renamed = Sections("handled", Data, Wait("other", On("note", noted)))
    async with in_memory(handled) as workflows:
        await workflows.start(handled, "i", Data())
        await stands(workflows, "i", "wait")

        assert not await check(workflows.engine, [handled])
        assert "no stop 'wait'" in str(await check(workflows.engine, [renamed]))


def test_stops_are_in_the_order_of_the_definition() -> None:
    assert list(branches.stops) == ["no", "else", "x", "empty", "b", "c", "b2", "in case"]
    graph = graph_of(looped)
    assert [node.name for node in graph.nodes] == ["wait", "after", "count"]
    assert [(way.begin, way.to) for way in graph.ways] == [
        ("begin", "wait"),
        ("begin", "end"),
        ("wait", "after"),
        ("after", "count"),
        ("count", "wait"),
        ("count", "end"),
    ]
    assert "s2 --> s0" in graph.mermaid()


async def test_an_edit_is_what_conditions_see() -> None:
    code = Sections("it", Data, WaitFor("true", lambda s: s.n == 5))
    async with in_memory(code) as workflows:
        await workflows.start(code, "i", Data())
        await stands(workflows, "i", "true")
        await workflows.edit("i", lambda data: setattr(data, "n", 5), by="a", why="b")
        await workflows.result("i")
