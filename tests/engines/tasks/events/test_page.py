"""The examples of docs/engines/tasks/events.md do what the page says."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import publish
from tests.engines.tasks.running.driving import running

PAGE = Path(__file__).parents[4] / "docs" / "engines" / "tasks" / "events.md"
BLOCK = re.compile(
    r"<!-- (example|input|events|output) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL
)

pytestmark = pytest.mark.repository


@attrs.define
class Example:
    text: str
    input: Any = None
    events: list[dict[str, Any]] = attrs.Factory(list)
    output: Any = None


def examples() -> list[Example]:
    found: list[Example] = []
    for kind, text in BLOCK.findall(PAGE.read_text()):
        if kind == "example":
            found.append(Example(text))
        else:
            setattr(found[-1], kind, json.loads(text))
    return found


@pytest.mark.parametrize("example", examples(), ids=lambda each: each.text.split()[2])
async def test_an_example(example: Example) -> None:
    async with running() as tasks:
        await tasks.start(example.text, example.input)
        for number, each in enumerate(example.events):
            own = {"specversion": "1.0", "id": str(number), "source": "/page", **each}
            await publish(tasks.kernel.engine, CloudEvent.from_json(own))

        assert await tasks.kernel.result("i", timeout=60.0) == example.output


def test_there_are_examples() -> None:
    assert len(examples()) == 4


async def test_the_program_runs() -> None:
    [program] = re.findall(r"```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    code = compile(program, PAGE.name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    await eval(code, {})  # noqa: S307 - the page is ours
