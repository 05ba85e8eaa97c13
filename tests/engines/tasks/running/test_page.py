"""The page on how documents run tells the truth: its documents are loaded and run."""

import re
from pathlib import Path

import pytest
import yaml

from flowstate.engines.tasks.documents.loading import load
from flowstate.engines.tasks.running.data import TaskData
from tests.engines.tasks.running.driving import running

pytestmark = pytest.mark.repository

PAGE = Path(__file__).parents[4] / "docs" / "engines" / "tasks" / "flow.md"
BLOCK = re.compile(
    r"^```yaml\n(?:# given: ([^\n]+)\n)?# gives: ([^\n]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
HEAD = "document: {dsl: 1.0.3, namespace: page, name: page, version: 1.0.0}\n"
BLOCKS = BLOCK.findall(PAGE.read_text()) if PAGE.exists() else []


def test_all_blocks_are_run() -> None:
    assert len(BLOCKS) == PAGE.read_text().count("```yaml")


@pytest.mark.parametrize(("given", "gives", "text"), BLOCKS)
async def test_a_document_of_the_page(given: str, gives: str, text: str) -> None:
    async with running() as tasks:
        made = await load(HEAD + text, runtime=tasks.code.runtime)
        tasks.documents.add(made)
        data = TaskData(made.key, yaml.safe_load(given), tasks.kernel.engine.clock.now())
        await tasks.kernel.start(tasks.code, "i", data, {})
        assert await tasks.kernel.result("i", timeout=1e6) == yaml.safe_load(gives)
