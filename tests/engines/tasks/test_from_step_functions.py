"""The page on Step Functions tells the truth: its documents are loaded, and come out so."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flowstate.engines.events.cloud_event import CloudEvent
from flowstate.engines.events.publishing import publish
from flowstate.engines.kernel.errors import InstanceFailedError
from flowstate.engines.tasks.documents.loading import load
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.data import TaskData
from flowstate.engines.tasks.runtime import Call
from tests.engines.tasks.running.driving import running

pytestmark = pytest.mark.repository

PAGE = Path(__file__).parents[3] / "docs" / "engines" / "tasks" / "from-step-functions.md"
BLOCKS = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ENDS = [
    ("task", {"cents": 5}, {"text": "paid 5"}),
    ("choice", {"cents": 5}, {"is": "accepted"}),
    ("choice", {"cents": 5_000}, {"is": "asked"}),
    ("choice", {"cents": 500_000}, 400),
    ("wait", {}, {"awake": True}),
    ("token", {"cents": 1}, "yes"),
    ("parallel", {}, [1, 2]),
    ("map", {"items": [1, 2, 3]}, [2, 4, 6]),
    ("paths", {"order": {"cents": 7}}, 8),
    ("nested", {}, {"is": "accepted"}),
    ("schedule", {}, {"made": True}),
]


class Bank:
    def __init__(self) -> None:
        self.calls = 0

    async def charge(self, arguments: Mapping[str, Any], _: Call) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise TaskError.of("communication", status=503)
        return dict(arguments)


@pytest.mark.parametrize(("name", "given", "gives"), ENDS)
async def test_documents_come_out_as_they_would_there(name: str, given: Any, gives: Any) -> None:
    bank = Bank()
    bank.calls = 0 if name == "task" else 1
    async with running({"charge": bank.charge}) as tasks:
        for text in BLOCKS.findall(PAGE.read_text()):
            tasks.documents.add(await load(text, file=PAGE.name, runtime=tasks.code.runtime))
        now = tasks.kernel.engine.clock.now()
        data = TaskData(f"aws/{name}:1.0.0", given, now)
        await tasks.kernel.start(tasks.code, "i", data, {})
        for known in ("j", "i"):
            answer = {"token": known, "answer": "yes" if known == "i" else "no"}
            event = CloudEvent(known, "/bank", "bank.answered", data=answer)
            await publish(tasks.kernel.engine, event)
        try:
            found = await tasks.kernel.result("i", timeout=1e7)
        except InstanceFailedError as error:
            found = getattr(error.__cause__, "status", error)
        assert found == gives
