"""The ways through a definition, and their pictures."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flowstate.engines.workflow import each, go, helper, lock, step, sub, wait, workflow
from flowstate.engines.workflow.graphs import Graph, graph_of
from tests.engines.workflow.orders import Approved, Order, order


async def do(n: int = 0) -> int:
    return n


@helper
async def aside(s: Any) -> None:
    await step(do)


@workflow("branches")
async def branches(s: Order) -> None:
    if await step(do, name="a"):
        await step(do, name="b")
    elif s.by == "x":
        return
    await step(do, name="c")


@workflow("loops")
async def loops(s: Order) -> None:
    while True:
        await step(do, name="a")
        if s.by == "x":
            break
        if s.by == "y":
            continue
        await step(do, name="b")
    for _ in s.cart:
        await step(do, name="c")
    await step(do, name="d")


@workflow("tries")
async def tries(s: Order) -> int:
    try:
        await step(do, name="a")
        if s.by:
            raise ValueError
        await step(do, name="b")
    except ValueError:
        await step(do, name="c")
        return 1
    finally:
        await step(do, name="d")
    await step(do, name="e")
    return 2


@workflow("cases")
async def cases(s: Order) -> None:
    match await wait("a", Approved, Order):
        case Approved(by="x"):
            await step(do, name="b")
        case Approved():
            raise ValueError
        case _:
            go(aside, name="c")


@workflow("uses")
async def uses(s: Order) -> None:
    await sub(aside, name="a")
    await each(cases, [], name="b")


@workflow("enters")
async def enters(s: Order) -> None:
    async with lock("stock"):
        if s.by:
            return
        await step(do, name="a")
    await step(do, name="b")


WAYS = {
    enters: [
        "begin>lock",
        "lock>a if else",
        "lock>lock-leave if s.by",
        "a>lock-leave",
        "lock-leave>b",
        "lock-leave>end",
        "b>end",
    ],
    branches: [
        "begin>a",
        "a>b if so",
        "a>c if else and else",
        "b>c",
        "a>end if else and s.by == 'x'",
        "c>end",
    ],
    loops: [
        "begin>a",
        "a>a if else and s.by == 'y'",
        "a>b if else and else",
        "b>a",
        "a>c if s.by == 'x' and for _ in s.cart",
        "a>d if s.by == 'x' and else",
        "c>c if for _ in s.cart",
        "c>d if else",
        "d>end",
    ],
    tries: [
        "begin>a",
        "a>b if else",
        "a>c if except ValueError",
        "b>c if except ValueError",
        "b>d",
        "c>d",
        "d>e",
        "d>end",
        "e>end",
    ],
    cases: [
        "begin>a",
        "a>b if Approved(by='x')",
        "a>c if _",
        "a>end if Approved() and raise",
        "b>end",
        "c>end",
    ],
    uses: ["begin>a", "a>b", "b>end"],
}


def ways(graph: Graph) -> set[str]:
    return {f"{way.begin}>{way.to}" + (f" if {way.when}" if way.when else "") for way in graph.ways}


@pytest.mark.parametrize("code", list(WAYS), ids=lambda code: code.name)
def test_the_ways_through_a_definition(code: Any) -> None:
    assert ways(graph_of(code)) == set(WAYS[code])


def test_a_graph_says_what_is_used_and_how_many_stand_there() -> None:
    graph = graph_of(uses, {"b": 3})

    assert [node.uses for node in graph.nodes] == [("aside",), ("cases",)]
    assert [node.live for node in graph.nodes] == [0, 3]
    assert [node.kind for node in graph.nodes] == ["call", "each"]
    assert 's1[["b (cases) [3 live]"]]' in graph.mermaid()


def test_mermaid() -> None:
    assert graph_of(order).mermaid().splitlines() == [
        "flowchart TD",
        '    begin("order")',
        '    s0["charge"]',
        '    s1{{"approval"}}',
        '    s2["ship"]',
        "    end((end))",
        "    begin --> s0",
        "    s0 --> s1",
        '    s1 -->|"for item in s.cart"| s2',
        "    s1 --> end",
        '    s2 -->|"for item in s.cart"| s2',
        '    s2 -->|"else"| end',
    ]


def test_texts_of_conditions_are_escaped() -> None:
    assert "else and s.by == 'x'" in graph_of(branches).mermaid()
    text = graph_of(cases).mermaid()
    assert "Approved(by='x')" in text
    assert '"' not in text.replace('("cases")', "").replace('|"', "").replace('"|', "").replace(
        '["', ""
    ).replace('"]', "").replace('{"', "").replace('"}', "").replace('>"', "")


def test_json_is_read_back() -> None:
    graph = graph_of(tries)
    assert msgspec.json.decode(graph.json(), type=Graph) == graph


def test_the_command_line_writes_it() -> None:
    program = [sys.executable, "-m", "flowstate.engines.workflow", "graph"]
    target = "tests.engines.workflow.test_graph:cases"
    root = Path(__file__).parents[3]
    out = subprocess.run([*program, target], cwd=root, capture_output=True, text=True, check=True)
    assert out.stdout == graph_of(cases).mermaid() + "\n"
    out = subprocess.run(
        [*program, target, "--json"], cwd=root, capture_output=True, text=True, check=True
    )
    assert out.stdout == graph_of(cases).json() + "\n"
