"""Documents that are run on the memory driver, in virtual time."""

import contextlib
import textwrap
from collections.abc import AsyncIterator, Mapping
from random import Random
from typing import Any

import attrs
import yaml

from flowstate import Clock, Delayer, Engine, FakeClock, FlowRegistry
from flowstate.drivers.memory import MemoryDriver
from flowstate.engines.expressions.in_process import InProcessExpressions as InProcess
from flowstate.engines.kernel.errors import InstanceFailedError
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.errors import TaskError
from flowstate.engines.tasks.running.code import TaskCode
from flowstate.engines.tasks.running.data import Happened, TaskData
from flowstate.engines.tasks.runtime import Call, Function, Runtime
from tests.engines.tasks.in_memory import InMemoryDocuments

__all__ = ["InProcess", "Running", "document", "failure_of", "running"]

HEAD = {"dsl": "1.0.3", "namespace": "test", "name": "test", "version": "1.0.0"}


def document(text: str, **head: str) -> Document:
    """Return the document that has this text, with a head if it has none."""
    content = yaml.safe_load(textwrap.dedent(text))
    content.setdefault("document", {**HEAD, **head})
    named = content["document"]
    names = (named["namespace"], named["name"], named["version"])
    return Document("workflow", *names, content, content, text, {})


@attrs.define
class Running:
    """Documents that can be started."""

    kernel: Kernel
    code: TaskCode
    documents: InMemoryDocuments

    async def start(self, text: str, given: Any = None, id: str = "i") -> None:
        made = document(text)
        self.documents.add(made)
        now = self.kernel.engine.clock.now()
        assert await self.kernel.start(self.code, id, TaskData(made.key, given, now), {})

    async def run(self, text: str, given: Any = None, id: str = "i") -> Any:
        await self.start(text, given, id)
        return await self.kernel.result(id, timeout=1e7)

    async def fails(self, text: str, given: Any = None, id: str = "i") -> TaskError:
        await self.start(text, given, id)
        return await failure_of(self.kernel, id)

    async def trail(self, id: str = "i") -> list[Happened]:
        found = dict[int, Happened]()  # Revisions that others made have the one before once more.
        async for state in self.kernel.engine.history(id):
            data = state.get(TaskData, "data")
            found |= dict(enumerate(data.trail, data.before))
        return [found[number] for number in range(len(found))]


async def failure_of(kernel: Kernel, id: str = "i") -> TaskError:
    """Return the error with which an instance has ended."""
    try:
        gave = await kernel.result(id, timeout=1e7)
    except InstanceFailedError as error:
        if not isinstance(error.__cause__, TaskError):
            raise
        return error.__cause__
    raise AssertionError(f"it has given {gave!r}")


@contextlib.asynccontextmanager
async def running(
    functions: Mapping[str, Function] = {},
    *,
    driver: Any = None,
    clock: Clock | None = None,
    **more: Any,
) -> AsyncIterator[Running]:
    """Open an engine that runs documents."""
    clock = clock or FakeClock()
    async with Engine(driver or MemoryDriver(clock), FlowRegistry(), clock=clock) as engine:
        documents = InMemoryDocuments()
        runtime = Runtime(
            engine,
            documents,
            InProcess(private=("secrets",)),
            functions=functions,
            rng=Random(0),
            **more,
        )
        code = TaskCode(runtime)
        async with Delayer(engine), Kernel(engine, [code]) as kernel:
            yield Running(kernel, code, documents)


async def echo(arguments: Mapping[str, Any], call: Call) -> Any:
    return dict(arguments)
