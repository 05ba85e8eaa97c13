"""Loads documents in a runtime that can run little, or all."""

from pathlib import Path
from typing import Any

from flowstate import Engine, FlowRegistry
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.expressions.in_process import InProcessExpressions
from flowstate.engines.tasks.calls.programs import Processes
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.documents.loading import load
from flowstate.engines.tasks.errors import DocumentError
from flowstate.engines.tasks.runtime import Runtime
from tests.engines.tasks.in_memory import InMemoryDocuments

HERE = Path(__file__).parent
HEAD = "document: {dsl: 1.0.3, namespace: a, name: b, version: 1.0.0}\n"
ALL = Processes(container=True, script=True, shell=True, mcp=True)  # noqa: S604


def runtime(**options: Any) -> Runtime:
    engine = Engine(MemoryDriver(), FlowRegistry())  # It is not opened: nothing runs.
    return Runtime(engine, InMemoryDocuments(), InProcessExpressions(), **options)


async def loaded(text: str, **options: Any) -> Document:
    return await load(text, file="x.yaml", runtime=runtime(**options))


async def problems(text: str, **options: Any) -> list[str]:
    """Return what is wrong with a text, as the table of wrong documents writes it."""
    try:
        await loaded(text, **options)
    except DocumentError as error:
        return [f"{each.line} {each.path or '/'} {each.text}" for each in error.problems]
    return []
