"""Lets processes die that run documents, and compares what comes out."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from random import Random
from typing import Any

import attrs

from flowstate import Command, Engine, FlowRegistry, StateContext
from flowstate.engines.kernel.errors import InstanceCancelledError, InstanceFailedError
from flowstate.engines.kernel.flows import register
from flowstate.engines.kernel.instance import Codes
from flowstate.engines.kernel.kernel import Kernel
from flowstate.engines.kernel.starting import flow_of
from flowstate.engines.kernel.turn import Turn
from flowstate.engines.tasks.calls.secrets import MappedSecrets
from flowstate.engines.tasks.documents.document import Document
from flowstate.engines.tasks.running.code import TaskCode
from flowstate.engines.tasks.running.data import TaskData
from flowstate.engines.tasks.running.scheduling import starting
from flowstate.engines.tasks.runtime import Function, Runtime
from flowstate.testing import explore_crashes
from tests.engines.tasks.in_memory import InMemoryDocuments
from tests.engines.tasks.running.driving import InProcess, document

__all__ = ["Client", "Process", "explore_documents"]


@attrs.define
class Process:
    """What one process has: codes whose runtime has the engine that runs there.

    Attributes:
        world: outlives it.
        engine: in a flow, the one that runs it.
        documents: that can be started, the first one as instance ``i``.
        functions: that they call.
        secrets: that they use.
    """

    world: Any
    documents: Sequence[Document]
    functions: Mapping[str, Function]
    secrets: Mapping[str, str] | None = None
    runtime: Runtime = attrs.field(init=False)
    codes: Sequence[Any] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        none: Any = None
        expressions: Any = InProcess()
        documents = InMemoryDocuments(self.documents)
        self.runtime = Runtime(
            none, documents, expressions, functions=self.functions, rng=Random(0)
        )
        if self.secrets is not None:
            self.runtime.secrets = MappedSecrets(self.secrets)
        code: Any = TaskCode(self.runtime)
        self.codes = [code, starting(self.runtime, code)]

    def flows(self) -> FlowRegistry:
        registry, codes = FlowRegistry(), Codes(self.codes, rng=Random(0))
        register(registry, codes)

        async def turn(ctx: StateContext, engine: Engine) -> Command[Any]:
            self.runtime.engine = engine
            return await Turn(ctx, engine, codes).run()

        for code in self.codes:
            registry.set(flow_of(code.name), turn, replace=True)
        return registry

    def kernel(self, engine: Engine) -> Kernel:
        self.runtime.engine = engine
        return Kernel(engine, self.codes, rng=Random(0))


Client = Callable[[Kernel, Process], Awaitable[object]]


async def nothing(_: Kernel, __: Process) -> None:
    """Do nothing besides."""


def explore_documents(
    texts: str | Sequence[str],
    given: Any = None,
    client: Client = nothing,
    *,
    functions: Mapping[str, Function] | Callable[[Any], Mapping[str, Function]] | None = None,
    make_world: Callable[[], Any] = dict,
    most: int = 40,
    secrets: Mapping[str, str] | None = None,
    **options: Any,
) -> None:
    """Start an instance ``i`` of the first document, let processes die, and compare the ends.

    Args:
        texts: of documents.
        given: the input.
        client: is called when it is started, perhaps several times.
        functions: that tasks can call, or what makes them for a world.
        make_world: makes what outlives a process.
        most: runs.
        secrets: that documents use.
        **options: of ``explore_crashes``.
    """
    all_ = [texts] if isinstance(texts, str) else texts
    documents = [document(text, name=f"d{number}") for number, text in enumerate(all_)]

    def process_of(world: Any) -> Process:
        made = functions(world) if callable(functions) else functions
        return Process(world, documents, made or {}, secrets)

    async def run(engine: Engine, world: Any) -> None:
        process = process_of(world)
        kernel, now = process.kernel(engine), engine.clock.now()
        await kernel.start(process.codes[0], "i", TaskData(documents[0].key, given, now), {})
        await client(kernel, process)
        with contextlib.suppress(InstanceFailedError, InstanceCancelledError):
            await kernel.result("i")

    ignore = ("data", "notes", "threads")  # They have times and revisions.
    explore_crashes(
        make_world,
        lambda world: process_of(world).flows(),
        run,
        max_runs=most,
        ignore=ignore,
        **{"crashes": 2, **options},
    )
